"""Queries by what makes them hard or easy: how much is known of the user, and of what comes next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from chronorec.data.counts import event_counts
from chronorec.data.jagged import Int64s

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries, Split

_HOUR = 3_600_000_000  # microseconds
_LENGTHS = (5, 20, 50, 200)
_GAPS = {"< 1 hour": _HOUR, "< 1 day": 24 * _HOUR, "< 1 week": 168 * _HOUR, "< 30 days": 720 * _HOUR}
_HEAD, _MIDDLE = 0.5, 0.8  # shares of all events


@dataclass(frozen=True, eq=False)
class Slicing:
    """One way to cut a set of queries into parts.

    Attributes:
        name: what the parts differ in.
        labels: of the parts, in their natural order; parts without a query are left out.
        part: int64 [Q], the part of each query.
    """

    name: str
    labels: list[str]
    part: Int64s

    @property
    def sizes(self) -> Int64s:
        """Queries of each part."""
        return np.bincount(self.part, minlength=len(self.labels)).astype(np.int64)

    def means(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The mean of ``values`` [Q] over each part."""
        sums = np.bincount(self.part, weights=values, minlength=len(self.labels))
        means: npt.NDArray[np.float64] = sums / self.sizes
        return means


def slice_queries(
    histories: Histories, split: Split, part: Literal["validation", "test"] = "test"
) -> list[Slicing]:
    """The queries of a part by history length, popularity of the targets, time since the last event (where
    the log has times), and whether the user was there in training.

    Popularity counts the events that a model of this part may have seen: items of the head make up half of
    them, those of the middle the next 30 %, those of the tail the rest. A query of several targets belongs to
    its least popular one.
    """
    queries = split.test if part == "test" else split.validation
    end = split.refit_end if part == "test" else split.train_end
    found = [
        _by_length(queries),
        _by_popularity(queries, event_counts(histories, split.begin, end)),
        _by_gap(histories, queries),
        _by_user(queries, (end - split.begin)[queries.user]),
    ]
    return [slicing for slicing in found if slicing is not None]


def _slicing(name: str, labels: Sequence[str], part: npt.NDArray[np.integer]) -> Slicing:
    kept, part = np.unique(part, return_inverse=True)
    return Slicing(name, [labels[index] for index in kept], part.reshape(-1).astype(np.int64))


def _by_length(queries: Queries) -> Slicing:
    borders = (1, *_LENGTHS)
    labels = [f"{low}-{high - 1}" for low, high in itertools.pairwise(borders)]
    part = np.searchsorted(_LENGTHS, queries.end - queries.begin, side="right")
    return _slicing("events of the history", [*labels, f"{_LENGTHS[-1]} and more"], part)


def _by_popularity(queries: Queries, counts: Int64s) -> Slicing:
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of items more popular than this one
    level = np.empty(len(counts), np.int64)
    level[order] = np.searchsorted([_HEAD, _MIDDLE], before / max(int(counts.sum()), 1), side="right")
    level[counts == 0] = 3
    part = np.maximum.reduceat(level[queries.targets], queries.target_offsets[:-1])
    return _slicing("popularity of the target", ["head", "middle", "tail", "new"], part)


def _by_gap(histories: Histories, queries: Queries) -> Slicing | None:
    if histories.time is None or queries.at is None:
        return None
    gap = queries.at - histories.time[queries.end - 1]
    part = np.searchsorted(list(_GAPS.values()), gap, side="right")
    return _slicing("time since the last event", [*_GAPS, "30 days and more"], part)


def _by_user(queries: Queries, events: Int64s) -> Slicing:
    return _slicing("user in training", ["known", "new"], np.where(events > 0, 0, 1))
