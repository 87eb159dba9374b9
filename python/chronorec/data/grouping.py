"""Encoded pieces of a log to columns grouped by user, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chronorec import _core
from chronorec.data.histories import NULL_TIME, Array
from chronorec.data.log_encoder import Piece


def concatenate(pieces: Iterable[Piece]) -> Piece:
    """One array per column; the pieces are given up column by column."""
    lists: dict[str, list[Array]] = {}
    for piece in pieces:
        for name, values in piece.items():
            lists.setdefault(name, []).append(values)
    return {name: np.concatenate(lists.pop(name)) for name in list(lists)}


def sort_key(columns: Piece) -> Array | None:
    """What a user's events are ordered by: the order column if there is one, else the time."""
    return columns.get("position", columns.get("time"))


def group_order(user: Array, key: Array | None, num_users: int) -> tuple[Array, Array, int]:
    """The order of events grouped by user and sorted by key, ties in the order given.

    Returns:
        order (int32 or int64 [N]), offsets (int64 [B + 1]), and how many events were out of order.
    """
    order = np.empty(len(user), np.int32 if len(user) < 2**31 else np.int64)
    offsets = np.empty(num_users + 1, np.int64)
    out_of_order = np.zeros(1, np.int64)
    _core.group_events(user, key, offsets, order, out_of_order)
    return order, offsets, int(out_of_order[0])


def gather(values: Array, order: Array) -> Array:
    """``values[order]``, on all threads."""
    output = np.empty(len(order), values.dtype)
    _core.gather_events(values, order, output)
    return output


def group(columns: Piece, num_users: int) -> tuple[Piece, Array, int]:
    """Groups whole columns; takes them out of ``columns`` one by one to keep the peak of memory low."""
    order, offsets, out_of_order = group_order(columns.pop("user"), sort_key(columns), num_users)
    grouped = {name: gather(columns.pop(name), order) for name in list(columns)}
    return grouped, offsets, out_of_order


def split_times(columns: Piece) -> tuple[Array | None, Piece]:
    """Takes "time" out of the columns; an incomplete one stays there as "partial_time"."""
    time = columns.pop("time", None)
    if time is not None and len(time) and time.min() == NULL_TIME:
        columns["partial_time"], time = time, None
    return time, columns
