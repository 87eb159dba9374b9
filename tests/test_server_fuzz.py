"""Requests made up from the server's own description: whatever comes, it answers as it says it does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import schemathesis
import torch
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chronorec.models import GRU4Rec
from chronorec.server import Service, make_app
from tests.support.logs import cycle_log, histories_of

#: A body can fit its schema and still be refused (422), such as one with neither user nor history.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def served(folder: Path) -> Any:
    torch.manual_seed(0)
    histories = histories_of(cycle_log(items=40, events=30))
    GRU4Rec(histories.num_items, width=16, hidden_size=16).eval().export(histories.items).save(folder)
    return make_app(Service({"model": folder}))


with tempfile.TemporaryDirectory() as work:  # the model is in memory then
    schema = schemathesis.openapi.from_asgi("/openapi.json", served(Path(work) / "model"))


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
