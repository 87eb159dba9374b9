"""Item ids of a log to the codes of a model and back."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.jagged import Int32s

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


class Vocabulary:
    """The item ids of a model; row = code.

    Args:
        ids: the column ``item`` of the model's item table.
    """

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self.ids = ids
        self._codes: dict[Any, int] = {value: code for code, value in enumerate(ids.to_pylist())}
        self._names = list(self._codes)  # the same objects
        self._checked: weakref.ref[Histories] | None = None

    def code_of(self, item: Hashable) -> int:
        """The code of an item, -1 where the model does not know it."""
        return self._codes.get(item, -1)

    def codes_of(self, items: Iterable[Hashable], name: str) -> Int32s:
        """Codes int32, -1 for unknown items; raises TypeError that names ``name`` for a bare text."""
        if isinstance(items, (str, bytes)):
            raise TypeError(
                f"{name}: wanted a sequence of item ids, got the text {items!r}; put it in a list"
            )
        return np.array([self._codes.get(item, -1) for item in items], np.int32).reshape(-1)

    def codes_of_array(self, items: pa.Array) -> Int32s:
        """Codes int32 of an Arrow array of any plain type, -1 for unknown items and nulls."""
        if pa.types.is_null(items.type):
            return np.full(len(items), -1, np.int32)
        encoded = pc.dictionary_encode(items)
        distinct = np.append(self.codes_of(encoded.dictionary.to_pylist(), "items"), np.int32(-1))
        places = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(distinct) - 1)
        found: Int32s = distinct[places.to_numpy(zero_copy_only=False)]
        return found

    def names(self, codes: Int32s) -> list[Any]:
        """The ids of codes as Python objects."""
        return self.named(codes.tolist())

    def named(self, codes: list[int]) -> list[Any]:
        """The same for codes in a list."""
        names = self._names
        return [names[code] for code in codes]

    def take(self, codes: Int32s) -> pa.Array:
        """The ids of codes."""
        return self.ids.take(pa.array(codes)).combine_chunks()

    def check_same(self, histories: Histories) -> None:
        """Raises ValueError that says what differs unless the histories give items the model's codes."""
        if self._checked is not None and self._checked() is histories:
            return
        theirs = histories.items.column("item")
        if theirs is not self.ids:
            if len(theirs) != len(self.ids):
                raise ValueError(
                    f"histories: wanted the {len(self.ids):,} items of the model, got {len(theirs):,}"
                )
            if theirs.type != self.ids.type:
                theirs = _cast_or_refuse(theirs, self.ids.type)
            if not theirs.equals(self.ids):
                self._refuse_first(theirs)
        self._checked = weakref.ref(histories)

    def _refuse_first(self, theirs: pa.ChunkedArray) -> None:
        for code, (ours, other) in enumerate(zip(self.ids, theirs, strict=True)):
            if not ours.equals(other):
                raise ValueError(
                    f"histories: item {code} is {other.as_py()!r}, in the model {ours.as_py()!r}; "
                    "wanted a log whose items have the model's codes"
                )


def known(codes: Int32s) -> Int32s:
    """The codes that are not -1."""
    return codes[codes >= 0]


def _cast_or_refuse(ids: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    try:
        return pc.cast(ids, wanted)
    except pa.ArrowInvalid:
        raise ValueError(f"histories: wanted item ids of type {wanted}, got {ids.type}") from None
