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
from chronorec.data.splits import format_time

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
    return slice_folds(histories, [split], part)


def slice_folds(
    histories: Histories, splits: Sequence[Split], part: Literal["validation", "test"] = "test"
) -> list[Slicing]:
    """:func:`slice_queries` over the queries of several splits, one after the other."""
    found = [_cuts_of(histories, split, part) for split in splits]
    return [
        _slicing(name, labels, np.concatenate([cuts[name][1] for cuts in found]))
        for name, (labels, _) in found[0].items()
    ]


def fold_slicing(splits: Sequence[Split], part: Literal["validation", "test"] = "test") -> Slicing:
    """The queries of several splits by the split they belong to: its cut, or its place."""
    sizes = [len(split.test if part == "test" else split.validation) for split in splits]
    labels = [
        f"fold {number}" if split.cut is None else f"cut {format_time(split.cut)}"
        for number, split in enumerate(splits, 1)
    ]
    return _slicing("fold", labels, np.repeat(np.arange(len(splits)), sizes))


_Cut = tuple[list[str], npt.NDArray[np.integer]]  # the labels of all parts, and the part of each query


def _cuts_of(histories: Histories, split: Split, part: Literal["validation", "test"]) -> dict[str, _Cut]:
    queries = split.test if part == "test" else split.validation
    end = split.refit_end if part == "test" else split.train_end
    found = {
        "events of the history": _by_length(queries),
        "popularity of the target": _by_popularity(queries, event_counts(histories, split.begin, end)),
        "time since the last event": _by_gap(histories, queries),
        "user in training": _by_user((end - split.begin)[queries.user]),
    }
    return {name: cut for name, cut in found.items() if cut is not None}


def _slicing(name: str, labels: Sequence[str], part: npt.NDArray[np.integer]) -> Slicing:
    kept, part = np.unique(part, return_inverse=True)
    return Slicing(name, [labels[index] for index in kept], part.reshape(-1).astype(np.int64))


def _by_length(queries: Queries) -> _Cut:
    borders = (1, *_LENGTHS)
    labels = [f"{low}-{high - 1}" for low, high in itertools.pairwise(borders)]
    part = np.searchsorted(_LENGTHS, queries.end - queries.begin, side="right")
    return [*labels, f"{_LENGTHS[-1]} and more"], part


def _by_popularity(queries: Queries, counts: Int64s) -> _Cut:
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of items more popular than this one
    level = np.empty(len(counts), np.int64)
    level[order] = np.searchsorted([_HEAD, _MIDDLE], before / max(int(counts.sum()), 1), side="right")
    level[counts == 0] = 3
    part = np.maximum.reduceat(level[queries.targets], queries.target_offsets[:-1])
    return ["head", "middle", "tail", "new"], part


def _by_gap(histories: Histories, queries: Queries) -> _Cut | None:
    if histories.time is None or queries.at is None:
        return None
    gap = queries.at - histories.time[queries.end - 1]
    part = np.searchsorted(list(_GAPS.values()), gap, side="right")
    return [*_GAPS, "30 days and more"], part


def _by_user(events: Int64s) -> _Cut:
    return ["known", "new"], np.where(events > 0, 0, 1)
