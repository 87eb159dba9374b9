"""Logs with the type and the value of every event, and models that predict both."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from chronorec.data import EventLog, Histories
from chronorec.models import GRU4Rec, SequenceModel
from chronorec.training.config import HeadsConfig
from chronorec.training.heads import add_heads
from tests.support.logs import DAY

TYPES = ["view", "cart", "buy"]


def labelled_log(users: int = 60, events: int = 20, items: int = 12) -> pa.Table:
    """Every user walks round the items, half of them in steps of one and half in steps of five.

    Every third item is bought by the ones and put into the cart by the others, who only view the rest. What
    the ones like the others do not: values go from 1 to 4 in opposite ways.
    """
    start = np.random.default_rng(0).integers(0, items, users)
    step = np.where(np.arange(users) % 2, 5, 1)
    code = ((start[:, None] + step[:, None] * np.arange(events)) % items).reshape(-1)
    far = np.repeat(step == 5, events)
    kind = np.where(code % 3 == 0, np.where(far, "cart", "buy"), "view")
    return pa.table(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": [f"item {item}" for item in code],
            "timestamp": pa.array(np.tile(np.arange(events) * DAY, users), pa.timestamp("us")),
            "event": kind,
            "rating": np.where(far, 4 - code % 4, 1 + code % 4).astype(np.float64),
        }
    )


def labelled(table: pa.Table | None = None) -> Histories:
    """That log, or another one with its columns, as histories."""
    table = labelled_log() if table is None else table
    return EventLog.read(table, event_type="event", value="rating").histories()


def model_with_heads(histories: Histories, *, value_as: str = "number", **settings: object) -> SequenceModel:
    """An untrained model with a head of behaviours and one of values, in which every weight matters."""
    torch.manual_seed(5)
    common = {"width": 24, "hidden_size": 20, "max_length": 9, **settings}
    model = GRU4Rec(histories.num_items, **common)  # type: ignore[arg-type]
    config = HeadsConfig(behaviour=1.0, value=1.0, value_as=value_as)  # type: ignore[arg-type]
    add_heads(model, config, histories, histories.offsets[:-1], histories.offsets[1:])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()
