"""Baskets: events of one user that happened together, whose order among themselves means nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int32s, Int64s, offsets_of, row_of_values


class Events(Protocol):
    """Events grouped by user: what :class:`chronorec.data.Histories` and a batch of requests share."""

    @property
    def item(self) -> Int32s: ...
    @property
    def offsets(self) -> Int64s: ...
    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]: ...
    @property
    def num_users(self) -> int: ...
    @property
    def num_items(self) -> int: ...
    @property
    def num_events(self) -> int: ...
    def require_time(self, what: str) -> Int64s: ...


@dataclass(frozen=True, eq=False)
class Baskets:
    """Where the baskets of a log begin and end, and what is in them.

    Attributes:
        offsets: int64 [B + 1], baskets of user b: offsets[b] .. offsets[b + 1] - 1.
        event_offsets: int64 [K + 1], events of basket i: event_offsets[i] .. event_offsets[i + 1] - 1.
        item_offsets: int64 [K + 1], into ``items``.
        items: int32, the distinct items of every basket, ascending inside a basket.
        merged: how many sessions were merged into another because their events interleave.
    """

    offsets: Int64s
    event_offsets: Int64s
    item_offsets: Int64s
    items: Int32s
    merged: int

    def __len__(self) -> int:
        return len(self.event_offsets) - 1

    def inside(self, begin: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
        """First and past-the-last basket [B] that lie wholly in events[begin:end] of each user."""
        first = np.searchsorted(self.event_offsets, begin, side="left")
        last = np.searchsorted(self.event_offsets, end, side="right") - 1
        return first.astype(np.int64), np.maximum(first, last).astype(np.int64)


def baskets(histories: Events) -> Baskets:
    """Finds the baskets of a log: one per code of the ``session`` column, else one per user and time.

    A basket is a contiguous range of its user's events. Where sessions of one user interleave in time they
    are merged into one basket (and counted), so that no basket ever has a part before another one's end.
    The same session code at two users means two baskets; an event without a session (-1) is a basket of its
    own.

    Raises:
        ValueError: there is neither a ``session`` column nor a time for every event.
    """
    if histories.num_events == 0:
        empty = np.zeros(1, np.int64)
        return Baskets(np.zeros(histories.num_users + 1, np.int64), empty, empty, np.zeros(0, np.int32), 0)
    merged = 0
    user = row_of_values(histories.offsets)
    if "session" in histories.columns:
        codes = _codes_per_user(histories.columns["session"], user, histories.num_users)
        last = np.zeros(int(codes.max()) + 1, np.int64)
        last[codes] = np.arange(len(codes))  # of a repeated code the last event stays
        is_end = np.maximum.accumulate(last[codes]) == np.arange(len(codes))
        merged = int(np.count_nonzero(np.bincount(codes))) - int(np.count_nonzero(is_end))
    else:
        time = histories.require_time("a log of baskets without a session column")
        is_end = np.ones(histories.num_events, np.bool_)
        is_end[:-1] = (time[1:] != time[:-1]) | (user[1:] != user[:-1])
    event_offsets = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(is_end) + 1])
    offsets = np.searchsorted(event_offsets, histories.offsets).astype(np.int64)
    item_offsets, items = _distinct_items(histories.item, event_offsets, histories.num_items)
    return Baskets(offsets, event_offsets, item_offsets, items, merged)


def _codes_per_user(session: npt.NDArray[np.integer], user: Int64s, num_users: int) -> Int64s:
    """Codes below N that no two users share; the given ones where they already are so."""
    codes: Int64s = np.asarray(session).astype(np.int64)
    missing = np.flatnonzero(codes < 0)
    codes[missing] = codes.max() + 1 + np.arange(len(missing))
    if int(codes.max()) >= len(codes):
        codes = np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)
    owner = np.zeros(int(codes.max()) + 1, np.int64)
    owner[codes] = user
    if (owner[codes] != user).any():
        codes = np.unique(codes * num_users + user, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def _distinct_items(item: Int32s, event_offsets: Int64s, num_items: int) -> tuple[Int64s, Int32s]:
    keys = np.sort(row_of_values(event_offsets) * num_items + item)  # np.unique hashes: 50 times slower
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    counts = np.bincount(keys // num_items, minlength=len(event_offsets) - 1)
    return offsets_of(counts), (keys % num_items).astype(np.int32)
