"""A batch of histories as the engine sees it, and the cut that training and serving share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chronorec.data.baskets import baskets
from chronorec.data.jagged import Int32s, Int64s, offsets_of, ranges
from chronorec.data.profile import NO_PROFILE, Profile
from chronorec.engine.event_types import NO_TYPES, EventTypes

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries


_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class HistoryBatch:
    """Events of B requests, oldest first.

    Attributes:
        item: item codes, int32 [N].
        offsets: int64 [B + 1].
        num_items: catalogue size V.
        time: microseconds since the epoch, int64 [N], or None.
        columns: event columns by name; ``session`` [N] marks baskets, ``event_type`` [N] holds the model's
            codes of types, negative where they are missing.
        at: time of each request in microseconds, int64 [B], or None.
        profile: int32 [B, C], codes of the columns of the user table that the model reads, or None.
    """

    item: Int32s
    offsets: Int64s
    num_items: int
    time: Int64s | None = None
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    at: Int64s | None = None
    profile: Int32s | None = None

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.item)

    def require_time(self, what: str) -> Int64s:
        """The times; raises ValueError that names ``what`` needs them if there are none."""
        if self.time is None:
            raise ValueError(f"times: {what} needs the time of every event, got none")
        return self.time

    def rows(self, first: int, last: int) -> HistoryBatch:
        """The requests ``first`` to ``last - 1`` as a batch of their own."""
        events = slice(int(self.offsets[first]), int(self.offsets[last]))
        return HistoryBatch(
            item=self.item[events],
            offsets=self.offsets[first : last + 1] - self.offsets[first],
            num_items=self.num_items,
            time=None if self.time is None else self.time[events],
            columns={name: column[events] for name, column in self.columns.items()},
            at=None if self.at is None else self.at[first:last],
            profile=None if self.profile is None else self.profile[first:last],
        )

    @classmethod
    def of_queries(
        cls,
        histories: Histories,
        queries: Queries,
        most: int | None = None,
        types: EventTypes = NO_TYPES,
        profile: Profile = NO_PROFILE,
    ) -> HistoryBatch:
        """The histories of evaluation queries: the last ``most``, or all, of the events ``begin:end``.

        Args:
            types, profile: those that the model reads.
        """
        lengths = queries.end - queries.begin
        if most is not None:
            lengths = np.minimum(lengths, most)
        events = ranges(queries.end - lengths, lengths)
        columns = {}
        if "session" in histories.columns:
            columns["session"] = histories.columns["session"][events]
        if types and "event_type" in histories.columns:
            codes = histories.columns["event_type"][events]
            columns["event_type"] = types.recode(codes, histories.event_types)
        return cls(
            item=histories.item[events],
            offsets=offsets_of(lengths),
            num_items=histories.num_items,
            time=None if histories.time is None else histories.time[events],
            columns=columns,
            at=queries.at,
            profile=profile.codes_of_users(histories.users, queries.user),
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a program reads: the last tokens of each history.

    Attributes:
        items: int32, one per token, or the distinct items of every basket.
        bag_offsets: int64 [N + 1] into ``items`` where tokens are baskets, else None.
        offsets: int64 [B + 1] tokens of each history.
        times: int64 [N], microseconds, when each token happened (a basket: when it began), or None.
        at: time of each request in microseconds, int64 [B], or None.
        types: int32 [N], the model's code of each event's type, negative where it is missing; None: all are.
        profile: int32 [B, C], codes of the columns that the model reads, -1 where missing; None: all are.
    """

    items: Int32s
    bag_offsets: Int64s | None
    offsets: Int64s
    times: Int64s | None = None
    at: Int64s | None = None
    types: Int32s | None = None
    profile: Int32s | None = None

    def moments(self) -> Int64s:
        """When each token happened, int64 [N]."""
        if self.times is None:
            raise ValueError("times: this model needs the time of every event, got none")
        return self.times

    def gaps(self) -> Int64s:
        """Microseconds since the token before each, int64 [N]; the largest int64 for the first."""
        gaps = np.diff(self.moments(), prepend=0)
        gaps[self.offsets[:-1][np.diff(self.offsets) > 0]] = _NEVER
        return gaps

    def requests(self) -> Int64s:
        """When each answer is asked for, int64 [B]."""
        if self.at is None:
            raise ValueError("at: this model needs the time of the request, got none")
        return self.at

    def waits(self) -> Int64s:
        """Microseconds between the last token of each history and the request, int64 [B]."""
        waits = np.full(len(self.offsets) - 1, _NEVER)
        filled = np.diff(self.offsets) > 0
        waits[filled] = self.requests()[filled] - self.moments()[self.offsets[1:][filled] - 1]
        return waits

    def with_queries(self) -> Tokens:
        """Offsets, times and types with one more token after each history, at the time of the request."""
        offsets = self.offsets + np.arange(len(self.offsets))
        times = types = None
        if self.types is not None:
            types = np.insert(self.types, self.offsets[1:], -1)
        if self.times is not None and self.at is not None:
            times = np.insert(self.times, self.offsets[1:], self.at)
        return dataclasses.replace(self, offsets=offsets, times=times, types=types)

    def last_items(self) -> tuple[Int32s, Int64s]:
        """Items of the last token of each history, and their offsets int64 [B + 1]."""
        ends = self.offsets[1:]
        empty = np.diff(self.offsets) == 0
        if self.bag_offsets is None:
            return self.items[(ends - 1)[~empty]], offsets_of(~empty)
        last = np.where(empty, 0, ends - 1)
        begin = self.bag_offsets[last]
        lengths = np.where(
            empty, 0, self.bag_offsets[np.minimum(last + 1, len(self.bag_offsets) - 1)] - begin
        )
        return self.items[ranges(begin, lengths)], offsets_of(lengths)


def cut_tokens(batch: HistoryBatch, *, basket: bool, max_length: int) -> Tokens:
    """The last ``max_length`` events, or baskets, of every history."""
    found = baskets(batch) if basket else None
    all_offsets = batch.offsets if found is None else found.offsets
    begin = np.maximum(all_offsets[:-1], all_offsets[1:] - max_length)
    lengths = all_offsets[1:] - begin
    kept, offsets = ranges(begin, lengths), offsets_of(lengths)
    times = types = None
    if batch.time is not None:
        times = batch.time[kept if found is None else found.event_offsets[kept]]
    if found is None:
        if "event_type" in batch.columns:
            types = batch.columns["event_type"][kept]
        return Tokens(batch.item[kept], None, offsets, times, batch.at, types, batch.profile)
    sizes = np.diff(found.item_offsets)[kept]
    items = found.items[ranges(found.item_offsets[kept], sizes)]
    return Tokens(items, offsets_of(sizes), offsets, times, batch.at, None, batch.profile)
