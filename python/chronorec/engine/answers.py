"""What answers look like, and who gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chronorec.engine.program import Floats


@dataclass(frozen=True)
class Recommendations:
    """The answer to one request.

    Attributes:
        items: ids as in the log, best first; fewer than asked where candidates ran out.
        scores: float32, descending unless rules say otherwise.
        unknown_items: how many events of the history were skipped because the model does not know the item.
        source: who spoke: ``"history"`` or ``"session"``: the model after known events. Where none is known
            ``"recent popularity"``, then ``"popularity"``, and ``"model"`` where its folder has neither.
        reason: why it was them.
        unknown_types: how many events count as events without a type because the model does not know theirs.
    """

    items: list[Any]
    scores: Floats
    unknown_items: int
    source: str
    reason: str
    unknown_types: int = 0


class Said(NamedTuple):
    """Who gave an answer, and why it was them."""

    source: str
    reason: str


BY_HISTORY = Said("history", "the model knows items of the history")
BY_SESSION = Said("session", "the model knows events of the user")
BY_STEPS = Said("history", "the model has a head for each step ahead")
BY_LIKENESS = Said("item", "the vectors of these items are the nearest")


def columns_of(said: Mapping[int, Said], count: int) -> dict[str, pa.DictionaryArray]:
    """Who gave each of ``count`` answers, as columns; by the history where ``said`` has no row."""
    voices = {voice: number for number, voice in enumerate(dict.fromkeys([BY_HISTORY, *said.values()]))}
    numbers = np.zeros(count, np.int32)
    numbers[list(said)] = [voices[voice] for voice in said.values()]
    indices = pa.array(numbers)
    texts = zip(Said._fields, zip(*voices, strict=True), strict=True)
    return {name: pa.DictionaryArray.from_arrays(indices, pa.array(column)) for name, column in texts}
