"""The answer to a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chronorec.engine.program import Floats


@dataclass(frozen=True)
class Recommendations:
    """The answer to one request.

    Attributes:
        items: ids as in the log, best first; fewer than asked where candidates ran out.
        scores: float32, descending unless rules say otherwise.
        unknown_items: how many events of the history were skipped because the model does not know the item.
        unknown_types: how many count as events without a type because the model does not know theirs.
    """

    items: list[Any]
    scores: Floats
    unknown_items: int
    unknown_types: int = 0
