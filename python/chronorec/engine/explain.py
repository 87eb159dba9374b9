"""Why an item was recommended: what its score is made of, and what it would be without each event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chronorec.data.jagged import Int32s, Int64s, offsets_of
from chronorec.engine.adjust import Additions
from chronorec.engine.history import HistoryBatch
from chronorec.engine.program import Floats
from chronorec.engine.vocabulary import Vocabulary

#: Events of the requests that are scored at a time.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class EventShare:
    """What one event did to the score of an item.

    Attributes:
        item: of the event.
        time: of the event, microseconds since the epoch, or None.
        difference: the score less what it would be had the event never happened.
    """

    item: Any
    time: int | None
    difference: float


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    Attributes:
        item: id as in the log.
        score: as in the answer, boosts of rules apart.
        events: the latest events, largest difference first. The differences are exact, each for itself: they
            need not add up, since events speak together.
        parts: what the score is the sum of: ``state`` (what the model made of the events), ``bias`` (what the
            item has before any event, such as its popularity), and each sparse addition of the model by its
            kind, such as ``frequency`` or ``transition``.
        waiting: the score less what it would be had the request come right after the last event; None where
            the model does not look at times.
    """

    item: Any
    score: float
    events: list[EventShare]
    parts: dict[str, float]
    waiting: float | None


Score = Callable[[HistoryBatch], Floats]


def explanations(
    batch: HistoryBatch,
    codes: Int32s,
    last: int,
    vocabulary: Vocabulary,
    score: Score,
    parts: list[dict[str, float]],
    timed: bool,
) -> list[Explanation]:
    """One per item.

    Args:
        batch: one request.
        codes: [C], the items.
        last: how many of the latest events, at most all, are left out, one after the other.
        score: gives scores [B, C] of the items after the histories of a batch.
        parts: of each item's score.
        timed: whether the time of the request matters.
    """
    events = np.arange(batch.num_events - last, batch.num_events)
    whole = score(batch)[0]
    without = np.empty((len(events), len(codes)), np.float32)
    step = max(_CHUNK // max(batch.num_events, 1), 1)
    for begin in range(0, len(events), step):
        without[begin : begin + step] = score(_without(batch, events[begin : begin + step]))
    waiting = _waiting(batch, whole, score) if timed else None
    names = vocabulary.names(batch.item[events])
    times = [None] * len(events) if batch.time is None else batch.time[events].tolist()
    found = []
    for place, item in enumerate(vocabulary.names(codes)):
        differences = whole[place] - without[:, place]
        shares = [EventShare(*entry) for entry in zip(names, times, differences.tolist(), strict=True)]
        order = np.argsort(-differences, kind="stable")
        found.append(
            Explanation(
                item,
                float(whole[place]),
                [shares[event] for event in order],
                parts[place],
                None if waiting is None else float(waiting[place]),
            )
        )
    return found


def parts_of(
    codes: Int32s,
    state: Floats,
    bias: Floats | None,
    additions: list[tuple[str, Additions]],
) -> list[dict[str, float]]:
    """What each score is the sum of.

    Args:
        state: [C], what the state alone says.
        additions: of one request, by kind.
    """
    found: list[dict[str, float]] = []
    for place, code in enumerate(codes.tolist()):
        own = {"state": float(state[place]), "bias": 0.0 if bias is None else float(bias[code])}
        for kind, added in additions:
            own[kind] = own.get(kind, 0.0) + float(added.values[added.keys == code].sum())
        found.append(own)
    return found


def _without(batch: HistoryBatch, events: Int64s) -> HistoryBatch:
    """A request per event of one request's history, in which that event did not happen."""
    kept = np.ones((len(events), batch.num_events), np.bool_)
    kept[np.arange(len(events)), events] = False
    places = np.nonzero(kept)[1]
    return HistoryBatch(
        item=batch.item[places],
        offsets=offsets_of(kept.sum(axis=1)),
        num_items=batch.num_items,
        time=None if batch.time is None else batch.time[places],
        columns={name: column[places] for name, column in batch.columns.items()},
        at=None if batch.at is None else np.repeat(batch.at, len(kept)),
        profile=None if batch.profile is None else np.repeat(batch.profile, len(kept), axis=0),
    )


def _waiting(batch: HistoryBatch, whole: Floats, score: Score) -> Floats | None:
    if batch.time is None or batch.num_events == 0:
        return None
    at_once = dataclasses.replace(batch, at=batch.time[-1:] + 1)
    difference: Floats = whole - score(at_once)[0]
    return difference
