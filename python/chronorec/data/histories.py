"""The one layout of events: grouped by user, in time order, flat arrays and offsets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec.data.baskets import Baskets, baskets
from chronorec.data.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[Any]

#: Marks a missing time in ``columns["partial_time"]``: the smallest int64, as numpy's NaT.
NULL_TIME = np.iinfo(np.int64).min

#: Optional event columns and their types.
COLUMN_TYPES: dict[str, np.dtype[Any]] = {
    "position": np.dtype(np.int64),
    "event_type": np.dtype(np.int32),
    "value": np.dtype(np.float32),
    "session": np.dtype(np.int64),
    "latitude": np.dtype(np.float64),
    "longitude": np.dtype(np.float64),
    "partial_time": np.dtype(np.int64),
}


@dataclass(eq=False, repr=False)
class Histories:
    """All events of a log, grouped by user, each user's events in the order they happened.

    User and item codes are given in order of first appearance in the log. Ties in time keep the order of
    the log. User ``u`` owns the events ``offsets[u]`` to ``offsets[u + 1]``.

    Attributes:
        item: int32 [N], code of the item of each event.
        time: int64 [N], microseconds since 1970-01-01 UTC; None unless every event has a time.
        columns: optional event columns, each [N]: ``position`` int64 (the order column), ``event_type``
            int32 (code into ``event_types``, -1 where missing), ``value`` float32 (NaN where missing),
            ``session`` int64 (dense code of the session or basket, row of ``sessions``, -1 where missing),
            ``latitude`` and ``longitude`` float64 (NaN where missing), ``partial_time`` int64 (the times of
            a log in which some are missing: microseconds, or ``NULL_TIME``).
        offsets: int64 [B + 1].
        users: table with the column ``user`` (the ids of the log, row = code) and user features.
        items: table with the column ``item`` (the ids of the log, row = code) and item features.
        timezone: zone for calendar features, or None: UTC.
        event_types: names of the event types, by code.
        sessions: ids of the sessions, by code, or None.
        provenance: where the events came from, as JSON values.
    """

    item: Array
    time: Array | None
    offsets: Array
    users: pa.Table
    items: pa.Table
    columns: dict[str, Array] = field(default_factory=dict)
    timezone: str | None = None
    event_types: tuple[str, ...] = ()
    sessions: pa.Array | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    _content_hash: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_histories(self)

    def __repr__(self) -> str:
        columns = ", ".join(["item", *(["time"] if self.has_time else []), *self.columns])
        size = f"{self.num_events:,} events of {self.num_users:,} users on {self.num_items:,} items"
        return f"Histories({size}; {columns})"

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        return int(self.items.num_rows)

    @property
    def num_events(self) -> int:
        return len(self.item)

    @property
    def has_time(self) -> bool:
        """Whether every event has a time."""
        return self.time is not None

    @property
    def content_hash(self) -> str:
        """A digest of events, ids and order; equal for equal histories however they were prepared."""
        if self._content_hash is None:
            from chronorec.data.storage import content_hash

            self._content_hash = content_hash(self)
        return self._content_hash

    @cached_property
    def baskets(self) -> Baskets:
        """The baskets of the log, found once; see :func:`chronorec.data.baskets.baskets`."""
        return baskets(self)

    def require_time(self, what: str) -> Array:
        """The times; raises DataError that names ``what`` needs them if any is missing."""
        if self.time is not None:
            return self.time
        if "partial_time" in self.columns:
            missing = int(np.count_nonzero(self.columns["partial_time"] == NULL_TIME))
            why = f"{missing:,} of its {self.num_events:,} events have none"
        else:
            why = "it has only an order"
        raise DataError(f"{what} needs the time of every event, but in this log {why}")

    def as_list_arrays(self) -> dict[str, pa.LargeListArray]:
        """One Arrow list array per column (a list per user), sharing memory with the histories."""
        offsets = pa.array(self.offsets)
        flat = {"item": self.item, "time": self.time, **self.columns}
        return {
            name: pa.LargeListArray.from_arrays(offsets, _as_arrow(name, values))
            for name, values in flat.items()
            if values is not None
        }

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> Self:
        """Memory-maps a folder written by :meth:`save` or ``chronorec prepare``.

        Args:
            folder: a folder with ``histories.json``.
            verify: read everything and compare the content hash.

        Raises:
            FormatError: the folder is foreign, damaged or of a newer format.
        """
        from chronorec.data.storage import open_histories

        return open_histories(cls, Path(folder), verify=verify)

    def save(self, folder: str | Path) -> None:
        """Writes the folder in one step: it holds either what it held before or all of this."""
        from chronorec.data.storage import save_histories

        save_histories(self, Path(folder))


def _as_arrow(name: str, values: Array) -> pa.Array:
    array = pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)]
    )
    return array.view(pa.timestamp("us", tz="UTC")) if name == "time" else array


def check_histories(histories: Histories) -> None:
    """Raises DataError if the arrays do not fit each other."""
    count = len(histories.item)
    arrays = {"item": histories.item, "time": histories.time, **histories.columns}
    types = {"item": np.dtype(np.int32), "time": np.dtype(np.int64), **COLUMN_TYPES}
    for name, array in arrays.items():
        if array is None:
            continue
        if name not in types:
            raise DataError(f"columns: wanted names among {', '.join(COLUMN_TYPES)}, got {name!r}")
        if array.dtype != types[name] or array.shape != (count,):
            raise DataError(f"{name}: wanted {types[name]} [{count}], got {array.dtype} {list(array.shape)}")
    offsets = histories.offsets
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 1:
        raise DataError(f"offsets: wanted int64 [B + 1], got {offsets.dtype} {list(offsets.shape)}")
    if offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
        raise DataError(f"offsets: wanted an ascending array from 0 to {count}")
    for name, table, rows in (
        ("user", histories.users, len(offsets) - 1),
        ("item", histories.items, histories.items.num_rows),
    ):
        if name not in table.column_names:
            raise DataError(f"{name}s: wanted a column {name!r}, got {', '.join(table.column_names)}")
        if table.num_rows != rows:
            raise DataError(f"{name}s: wanted {rows} rows, got {table.num_rows}")
