"""Record batches of a log to pieces of plain, encoded columns; rejects and counts what cannot be used."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec.data.columns import ColumnNames
from chronorec.data.encode import IdEncoder, is_text, plain
from chronorec.data.errors import DataError
from chronorec.data.histories import COLUMN_TYPES, Array
from chronorec.data.times import NAN, NULL, TimeReader, to_order

#: One piece of a log: "user" and "item" int32 codes, "time" int64 microseconds and "position" int64 where
#: the log has them, and the optional columns under their names in ``Histories.columns``.
Piece = dict[str, Array]
ID_ROLES = ("user", "item", "session", "event_type")
Mask = npt.NDArray[np.bool_]


class LogEncoder:
    """Turns batches into pieces. Codes go on from piece to piece.

    Args:
        names: which column plays which role.
        schema: of these columns.
        time_unit: unit of numeric times.
        guessed: whether the types are those of a text file; see :class:`IdEncoder`.
    """

    def __init__(
        self, names: ColumnNames, schema: pa.Schema, time_unit: str | None, *, guessed: bool = False
    ) -> None:
        self.names = names
        self.rows = self._kept = 0
        self._room: dict[str, npt.NDArray[np.int32]] = {}
        self.rejected: Counter[str] = Counter()
        self.ids = {
            role: IdEncoder(schema.field(name).type, name, guess=guessed and role != "event_type")
            for role, name in names.given().items()
            if role in ID_ROLES
        }
        self.times = None
        if names.time is not None:
            self.times = TimeReader(schema.field(names.time).type, time_unit, names.time)
        elif time_unit is not None:
            raise DataError("time_unit: the log has no time column")
        for role in ("value", "latitude", "longitude"):
            name = getattr(names, role)
            if name is not None:
                _check_number(schema.field(name).type, role, name)

    def reserve(self, rows: int) -> None:
        """Makes the codes of all pieces, at most ``rows``, views of one array: joining copies nothing."""
        self._room = {role: np.empty(rows, np.int32) for role in ("user", "item")}

    def encode(self, batch: pa.RecordBatch) -> Piece:
        """The usable rows of a batch."""
        self.rows += batch.num_rows
        batch = pa.RecordBatch.from_arrays([plain(column) for column in batch.columns], batch.schema.names)
        piece, bad = self._plain_columns(batch)
        keep = self._keep(batch, piece, bad)
        if keep is not None:
            batch = batch.filter(pa.array(keep))
            piece = {name: values[keep] for name, values in piece.items()}
        begin, self._kept = self._kept, self._kept + batch.num_rows
        for role in ("user", "item"):
            room = self._room[role][begin : self._kept] if self._room else None
            piece[role] = self.ids[role].encode(batch.column(getattr(self.names, role)), out=room)
        for role in ("session", "event_type"):
            if role in self.ids:
                codes = self._optional_codes(role, batch.column(getattr(self.names, role)))
                piece[role] = codes.astype(COLUMN_TYPES[role])
        return piece

    def _plain_columns(self, batch: pa.RecordBatch) -> tuple[Piece, dict[str, Mask]]:
        names, piece, bad = self.names, Piece(), dict[str, Mask]()
        if self.times is not None:
            piece["time"], bad = self.times.read(batch.column(names.time))
        if names.order is not None:
            for reason in (NULL, NAN):
                bad.pop(reason, None)  # the order stands in
            piece["position"] = to_order(batch.column(names.order), names.order)
        for role in ("value", "latitude", "longitude"):
            name = getattr(names, role)
            if name is not None:
                piece[role] = _numbers(batch.column(name), role)
        return piece, bad

    def _keep(self, batch: pa.RecordBatch, piece: Piece, bad: dict[str, Mask]) -> Mask | None:
        """Which rows to keep, or None: all. Counts the others."""
        reasons: dict[str, Mask] = {}
        for role in ("user", "item", "order"):
            name = getattr(self.names, role)
            if name is not None and batch.column(name).null_count:
                reasons[f"the {role} is null (column {name!r})"] = _null_mask(batch.column(name))
        reasons.update(bad)
        if "value" in piece:
            reasons["the value is infinite or beyond float32"] = np.isinf(piece["value"])
        for role, bound in (("latitude", 90.0), ("longitude", 180.0)):
            if role in piece:
                reasons[f"the {role} is outside -{bound:g} to {bound:g}"] = np.abs(piece[role]) > bound
        keep = np.ones(batch.num_rows, np.bool_)
        for reason, mask in reasons.items():
            count = int(np.count_nonzero(mask & keep))
            if count:
                self.rejected[reason] += count
                keep &= ~mask
        return None if keep.all() else keep

    def _optional_codes(self, role: str, column: pa.Array) -> npt.NDArray[np.int32]:
        if not column.null_count:
            return self.ids[role].encode(column)
        known = ~_null_mask(column)
        codes = np.full(len(column), -1, np.int32)
        codes[known] = self.ids[role].encode(column.filter(pa.array(known)))
        return codes


def _null_mask(column: pa.Array) -> Mask:
    mask: Mask = column.is_null().to_numpy(zero_copy_only=False)
    return mask


def _check_number(kind: pa.DataType, role: str, name: str) -> None:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (numeric or pa.types.is_null(kind) or is_text(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{role}: wanted numbers in column {name!r}, got {kind}")


def _numbers(column: pa.Array, role: str) -> Array:
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{role}: wanted numbers: {error}") from error
    values: Array = numbers.to_numpy(zero_copy_only=False)  # null becomes NaN
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is rejected
        return values.astype(COLUMN_TYPES[role])
