"""What the item table of a model says beside the ids: categories, windows of time, places."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.encode import plain
from chronorec.data.jagged import Int32s, Int64s, offsets_of, row_of_values
from chronorec.data.times import NULL, TimeReader
from chronorec.engine.rules import Near

Mask = npt.NDArray[np.uint8]

EARTH_KM = 6371.0088  # mean radius
_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_MOST_MASKS = 8


class Catalogue:
    """Indexes over the columns of an item table; each is made when it is first asked for.

    Args:
        items: the item table; row = item code.
    """

    def __init__(self, items: pa.Table) -> None:
        self.items = items
        self._indexes: dict[str, Any] = {}
        self._lock = threading.RLock()

    def having(self, column: str, values: Iterable[Hashable], rule: str) -> Int32s:
        """Codes of the items that have one of the values; an item may come more than once.

        Raises:
            ValueError: there is no such column, or it holds no plain values nor lists of them; says that
                ``rule`` wants it.
        """
        index: _Values = self._index(f"values of {column}", lambda: _values(self.items, column, rule))
        numbers = [index.numbers[value] for value in dict.fromkeys(values) if value in index.numbers]
        rows = [index.items[index.offsets[n] : index.offsets[n + 1]] for n in numbers]
        return np.concatenate(rows) if rows else np.empty(0, np.int32)

    def windows(self) -> Windows:
        """When items are available.

        Raises:
            ValueError: the table says nothing of it.
        """
        windows: Windows = self._index("windows", lambda: Windows(self.items))
        return windows

    def within(self, near: Near) -> Int32s:
        """Codes of the items in a circle; those without a place are in none.

        Raises:
            ValueError: items have no places.
        """
        places: _Places = self._index("places", lambda: _Places(self.items))
        return places.within(near)

    def _index(self, name: str, make: Callable[[], Any]) -> Any:
        found = self._indexes.get(name)
        if found is None:
            with self._lock:
                found = self._indexes.get(name)
                if found is None:
                    found = self._indexes[name] = make()
        return found


class _Values(NamedTuple):
    """Items by value: those of value n are items[offsets[n]:offsets[n + 1]]."""

    numbers: dict[Any, int]
    offsets: Int64s
    items: Int32s


def _values(table: pa.Table, column: str, rule: str) -> _Values:
    values, items = plain(column_of(table, column, rule)), np.arange(table.num_rows)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        items, values = row_of_values(offsets_of(lengths.astype(np.int64))), plain(values.flatten())
    if pa.types.is_nested(values.type):
        wanted = "plain values or lists of them"
        raise ValueError(f"{rule}: wanted {wanted} in column {column!r}, got {values.type}")
    encoded = pc.dictionary_encode(values)
    has = encoded.indices.is_valid().to_numpy(zero_copy_only=False)
    number = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    size = max(table.num_rows, 1)
    pairs = np.unique(number[has] * size + items[has])  # by value, then item, each once
    names = encoded.dictionary.to_pylist()
    offsets = np.searchsorted(pairs, np.arange(len(names) + 1, dtype=np.int64) * size)
    numbers = {name: place for place, name in enumerate(names)}
    return _Values(numbers, offsets.astype(np.int64), (pairs % size).astype(np.int32))


class Windows:
    """When items are available: from ``available_from`` on, until before ``available_until``.

    Args:
        table: an item table with at least one of the two columns.
    """

    def __init__(self, table: pa.Table) -> None:
        names = {"available_from", "available_until"} & set(table.column_names)
        if not names:
            raise ValueError(
                "available: wanted a column 'available_from' or 'available_until' in the item table, "
                f"got {', '.join(table.column_names)}"
            )
        self._begin = _times(table, "available_from", _EARLIEST)
        self._end = _times(table, "available_until", _LATEST)
        edges = np.unique(np.concatenate([self._begin, self._end]))
        self._edges = edges[(edges != _EARLIEST) & (edges != _LATEST)]
        self._masks: dict[int, Mask] = {}

    def periods(self, at: Int64s) -> Int64s:
        """The number of the stretch of time in which nothing changes, for every moment."""
        return np.searchsorted(self._edges, at, side="right")

    def mask(self, period: int) -> Mask:
        """uint8 [V]: 1 for what is available in a period; not to be written to."""
        found = self._masks.get(period)
        if found is None:
            moment = _EARLIEST if period == 0 else self._edges[period - 1]
            found = ((self._begin <= moment) & (moment < self._end)).view(np.uint8)
            if len(self._masks) >= _MOST_MASKS:
                self._masks = {}  # one dictionary is read while another takes its place
            self._masks[period] = found
        return found


class _Places:
    """Points on the unit sphere [3, N], by latitude."""

    def __init__(self, table: pa.Table) -> None:
        latitude, longitude = _degrees(table, "latitude", 90), _degrees(table, "longitude", 180)
        order = np.argsort(latitude, kind="stable")  # what is NaN comes last
        self._items = order[~np.isnan(latitude + longitude)[order]].astype(np.int32)
        self._latitude = latitude[self._items]
        self._points = _points(self._latitude, longitude[self._items])

    def within(self, near: Near) -> Int32s:
        angle = min(near.km / EARTH_KM, np.pi)
        reach = np.degrees(angle) + 1e-9
        band = slice(
            int(np.searchsorted(self._latitude, near.latitude - reach, "left")),
            int(np.searchsorted(self._latitude, near.latitude + reach, "right")),
        )
        centre = _points(np.float64(near.latitude), np.float64(near.longitude))
        chord = np.zeros(band.stop - band.start)
        for axis in range(3):
            chord += (self._points[axis, band] - centre[axis]) ** 2
        inside = chord <= 4 * np.sin(angle / 2) ** 2  # a quarter of the squared chord is the haversine
        found: Int32s = self._items[band][inside]
        return found


def _points(latitude: Any, longitude: Any) -> npt.NDArray[np.float64]:
    up, round_ = np.radians(latitude), np.radians(longitude)
    flat = np.cos(up)
    return np.stack([flat * np.cos(round_), flat * np.sin(round_), np.sin(up)])


def _degrees(table: pa.Table, name: str, most: float) -> npt.NDArray[np.float64]:
    column = column_of(table, name, "near")
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(f"near: wanted numbers in column {name!r} of the item table, got {column.type}")
    values: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    outside = np.flatnonzero(np.abs(values) > most)
    if len(outside):
        row = int(outside[0])
        raise ValueError(f"near: wanted {name} from -{most} to {most}, got {values[row]} in row {row}")
    return values


def _times(table: pa.Table, name: str, where_null: int) -> Int64s:
    if name not in table.column_names:
        return np.full(table.num_rows, where_null, np.int64)
    column = column_of(table, name, "available")
    unit = "us" if pa.types.is_integer(column.type) else None
    times, bad = TimeReader(column.type, unit, name).read(column)
    null = bad.pop(NULL, np.zeros(len(times), np.bool_))
    for reason, mask in bad.items():
        if mask.any():
            raise ValueError(f"{name}: wanted times in the item table, but {reason} in row {mask.argmax()}")
    return np.where(null, where_null, times)


def column_of(table: pa.Table, name: str, why: str) -> pa.Array:
    """A column of an item table in one piece; a ValueError says who wanted it (``why``) if it is missing."""
    if name not in table.column_names:
        raise ValueError(
            f"{why}: wanted a column {name!r} in the item table, got {', '.join(table.column_names)}"
        )
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of a table without rows
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    return column
