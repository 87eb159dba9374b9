"""Encoded pieces of a log to columns grouped by user, in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from chronorec import _core
from chronorec.data.histories import NULL_TIME, Array
from chronorec.data.log_encoder import Piece


def concatenate(pieces: Iterable[Piece], rows: int | None = None) -> Piece:
    """One array per column.

    Args:
        pieces: of a log; given up one by one, or column by column where the length is not known.
        rows: how many rows there are at most, if known.
    """
    if rows is None:
        lists: dict[str, list[Array]] = {}
        for piece in pieces:
            for name, values in piece.items():
                lists.setdefault(name, []).append(values)
        return {name: np.concatenate(lists.pop(name)) for name in list(lists)}
    columns: Piece = {}
    filled = 0
    for piece in pieces:
        for name, values in piece.items():
            columns[name] = _extend(columns[name], values, filled, rows) if filled else values
        filled += len(piece["user"])
    return {name: values[:filled] for name, values in columns.items()}


def _extend(column: Array, values: Array, filled: int, rows: int) -> Array:
    """The column with values behind its first ``filled`` rows; in place once it has room for all rows."""
    if len(column) == filled:
        joined = _join_neighbours(column, values)
        if joined is not None:
            return joined
        column, start = np.empty(rows, values.dtype), column
        column[:filled] = start
    column[filled : filled + len(values)] = values
    return column


def _join_neighbours(first: Array, second: Array) -> Array | None:
    """One view of two arrays that lie next to each other in one array, or in one Arrow buffer as a table's
    pieces do."""
    base, other, start = first.base, second.base, first.ctypes.data
    if first.dtype != second.dtype or second.ctypes.data != start + first.nbytes:
        return None
    if isinstance(base, np.ndarray) and base is other and base.dtype == first.dtype:
        begin = (start - base.ctypes.data) // base.itemsize
        return base[begin : begin + len(first) + len(second)]
    if not (isinstance(base, pa.Buffer) and isinstance(other, pa.Buffer)):
        return None
    if base.address != other.address or base.size != other.size:
        return None
    return np.frombuffer(base, first.dtype, len(first) + len(second), start - base.address)


def deal(owner: Array, count: int) -> tuple[Array, Array]:
    """The order that puts the rows of each owner together, in the order given, and where each begins."""
    order, offsets = _empty_order(len(owner)), np.empty(count + 1, np.int64)
    _core.group_events(owner, None, None, offsets, None, None, order, np.empty(1, np.int64))
    return order, offsets


def _empty_order(rows: int) -> Array:
    return np.empty(rows, np.int32 if rows < 2**31 else np.int64)


def gather(values: Array, order: Array) -> Array:
    """``values[order]``, on all threads."""
    output = np.empty(len(order), values.dtype)
    _core.gather_events(values, order, output)
    return output


def group(columns: Piece, num_users: int) -> tuple[Piece, Array, int]:
    """Groups whole columns by user and sorts them by order column or time, ties in the order given.

    Takes them out of ``columns`` one by one to keep the peak of memory low.

    Returns:
        the grouped columns, offsets (int64 [B + 1]), and how many events were out of order.
    """
    user, item = columns.pop("user"), columns.pop("item")
    rows, key_name = len(user), "position" if "position" in columns else "time"
    key = columns.pop(key_name)
    offsets, out_of_order = np.empty(num_users + 1, np.int64), np.empty(1, np.int64)
    grouped: Piece = {"item": np.empty(rows, np.int32), key_name: np.empty(rows, np.int64)}
    order = _empty_order(rows) if columns else None  # nothing else to carry: no need to know it
    _core.group_events(user, key, item, offsets, grouped[key_name], grouped["item"], order, out_of_order)
    del user, item, key
    if order is not None:
        for name in list(columns):
            grouped[name] = gather(columns.pop(name), order)
    return grouped, offsets, int(out_of_order[0])


def split_times(columns: Piece) -> tuple[Array | None, Piece]:
    """Takes "time" out of the columns; an incomplete one stays there as "partial_time"."""
    time = columns.pop("time", None)
    if time is not None and len(time) and time.min() == NULL_TIME:
        columns["partial_time"], time = time, None
    return time, columns
