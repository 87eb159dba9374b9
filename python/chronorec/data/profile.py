"""Columns of the user table as codes: what a model knows of a user besides events."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.columns import check_column
from chronorec.data.encode import is_text, plain
from chronorec.data.errors import DataError
from chronorec.data.jagged import Int32s

MISSING = -1
_INTERVALS = 10  # that numbers fall into, about as many users in each
_MOST_VALUES = 1000  # of a column of categories
_MOST_WHOLE = 32  # different whole numbers that are categories


@dataclass(frozen=True)
class ProfileColumn:
    """A column whose values are categories, or numbers that fall between boundaries.

    Attributes:
        name: of the column.
        values: texts, whole numbers or truth values, by code; none where there are boundaries.
        boundaries: ascending; code c holds the numbers from boundary c - 1 up to, not with, boundary c.
    """

    name: str
    values: list[Any] = field(default_factory=list)
    boundaries: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of codes."""
        return len(self.values) or len(self.boundaries) + 1

    @classmethod
    def of(cls, table: pa.Table, name: str) -> ProfileColumn:
        """A column of a user table: texts, truth values and up to 32 different whole numbers are categories,
        other numbers are cut at their deciles.

        Raises:
            DataError: there is no such column, or it can be no category.
        """
        check_column(table.schema, name, "model.user_columns")
        column = plain(table[name].combine_chunks())
        kind = column.type
        whole, floating = pa.types.is_integer(kind), pa.types.is_floating(kind)
        if not (whole or floating or is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise DataError(f"model.user_columns: {name}: wanted texts, numbers or bools, got {kind}")
        different = pc.unique(column.drop_null())
        if floating or (whole and len(different) > _MOST_WHOLE):
            return cls(name, boundaries=_deciles(column))
        if not 0 < len(different) <= _MOST_VALUES:
            wanted = f"wanted 1 to {_MOST_VALUES} different values, got {len(different):,}"
            raise DataError(f"model.user_columns: {name}: {wanted}")
        return cls(name, values=sorted(different.to_pylist()))

    def code_of(self, value: Any) -> int:
        """The code of a value; -1 where it is None or unknown."""
        if value is None:
            return MISSING
        if not isinstance(value, (str, int, float)):
            raise TypeError(f"profile: {self.name}: wanted a text or a number, got {value!r}")
        if self.values:
            return self._codes.get((type(value), value), MISSING)
        if isinstance(value, str):
            raise TypeError(f"profile: {self.name}: wanted a number, got {value!r}")
        return bisect_right(self.boundaries, value) if math.isfinite(value) else MISSING

    @cached_property
    def _codes(self) -> dict[tuple[type, Any], int]:
        return {(type(value), value): code for code, value in enumerate(self.values)}

    def codes_of(self, column: pa.ChunkedArray) -> Int32s:
        """Codes int32 of the values of a column."""
        encoded = pc.dictionary_encode(plain(column.combine_chunks()))
        codes = [self.code_of(value) for value in [*encoded.dictionary.to_pylist(), None]]
        places = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(codes) - 1)
        found: Int32s = np.array(codes, np.int32)[places.to_numpy(zero_copy_only=False)]
        return found


def _deciles(column: pa.Array) -> list[float]:
    numbers = column.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False)
    numbers = numbers[np.isfinite(numbers)]
    shares = np.arange(1, _INTERVALS) / _INTERVALS
    cuts: list[float] = np.unique(np.quantile(numbers, shares)).tolist() if len(numbers) else []
    return cuts


class Profile:
    """The columns that a model reads; their codes stand side by side, int32 [B, C], -1 where missing."""

    def __init__(self, columns: Sequence[ProfileColumn]) -> None:
        self.columns = list(columns)

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def of_users(cls, users: pa.Table, names: Sequence[str]) -> Profile:
        """The named columns of a user table; raises DataError where one cannot be used."""
        return cls([ProfileColumn.of(users, name) for name in names])

    @classmethod
    def from_plain(cls, columns: Sequence[Mapping[str, Any]]) -> Profile:
        """What :meth:`to_plain` gave."""
        return cls([ProfileColumn(**column) for column in columns])

    def to_plain(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [asdict(column) for column in self.columns]

    def codes_of(self, profile: Mapping[str, Any] | None) -> Int32s | None:
        """Codes [1, C] of a user's values by name of column; others than the model's are passed over. None
        where the model reads no column."""
        if not self.columns:
            return None
        given = {} if profile is None else profile
        codes = [column.code_of(given.get(column.name)) for column in self.columns]
        return np.array([codes], np.int32)

    def codes_of_table(self, table: pa.Table) -> Int32s | None:
        """Codes [B, C] of the rows of a table; a column that it lacks is missing everywhere. None where the
        model reads no column."""
        if not self.columns:
            return None
        codes = np.full((table.num_rows, len(self)), MISSING, np.int32)
        for place, column in enumerate(self.columns):
            if column.name in table.column_names:
                codes[:, place] = column.codes_of(table[column.name])
        return codes

    def codes_of_users(self, users: pa.Table, rows: Int32s) -> Int32s | None:
        """Codes [Q, C] of rows of a user table; None where the model reads no column."""
        names = {column.name for column in self.columns} & set(users.column_names)
        return self.codes_of_table(users.select(["user", *sorted(names)]).take(pa.array(rows)))


#: Of a model that reads no columns.
NO_PROFILE = Profile(())
