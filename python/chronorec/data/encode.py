"""Ids of any Arrow kind to dense codes, in order of first appearance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec import _core
from chronorec.data.errors import DataError

Codes = npt.NDArray[np.int32]


def id_type(given: pa.DataType, name: str) -> pa.DataType:
    """The type in which ids of this Arrow type are kept: their integer type, or string.

    Raises:
        DataError: the type cannot hold ids.
    """
    kept = given.value_type if pa.types.is_dictionary(given) else given
    if pa.types.is_integer(kept):
        return kept
    if pa.types.is_null(kept) or is_text(kept):
        return pa.string()
    hint = ""
    if pa.types.is_floating(kept):
        hint = " (integers with gaps become floats in pandas: cast the column to 'Int64')"
    raise DataError(f"{name}: wanted ids as integers, strings or a dictionary of these, got {given}{hint}")


def is_text(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's list types."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(array: pa.Array) -> pa.Array:
    """Dictionaries decoded and string views as large strings: kinds that every Arrow function knows."""
    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, plain(array.dictionary)).dictionary_decode()
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


class IdEncoder:
    """Gives each different id the next code. Takes a log piece by piece.

    Args:
        given: Arrow type of the column.
        name: of the column, for errors.
        guess: the column is text because its file holds nothing else. If in the end every id is written as
            an integer is, the ids are kept as integers.
    """

    def __init__(self, given: pa.DataType, name: str, *, guess: bool = False) -> None:
        self.name = name
        self.type = id_type(given, name)
        self._guess = guess and self.type == pa.string()
        self._earlier: pa.DataType | None = None
        self._is_text = not pa.types.is_integer(self.type)
        self._integers = _core.IntEncoder()
        self._texts = _core.TextEncoder()

    def __len__(self) -> int:
        return len(self._texts) if self._is_text else len(self._integers)

    def encode(self, ids: pa.Array, *, insert: bool = True, out: Codes | None = None) -> Codes:
        """Codes of ids without nulls, in ``out`` if given.

        Unknown ids get new codes, or -1 if ``insert`` is false.
        """
        codes = np.empty(len(ids), np.int32) if out is None else out
        ids = plain(ids)
        if self._is_text:
            offsets, data = text_buffers(ids)
            self._texts.encode(offsets, data, codes, insert)
        else:
            try:
                keys = integer_keys(ids, self.type)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{self.name}: wanted ids of type {self.type} like those before: {error}"
                ) from error
            self._integers.encode(keys, codes, insert)
        return codes

    def resume(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Takes the ids of earlier codes, before anything else is encoded.

        Raises:
            DataError: they are of another kind.
        """
        self._earlier = ids.type
        if self._guess and pa.types.is_integer(ids.type):
            ids = ids.cast(pa.string())
        if is_text(ids.type) != self._is_text:
            raise DataError(f"{self.name}: wanted ids of type {ids.type} like those before, got {self.type}")
        if not self._is_text:
            self.type = ids.type
        for chunk in ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]:
            self.encode(chunk)

    def ids(self) -> pa.Array:
        """The ids by code, in their integer type or as strings.

        Raises:
            DataError: ids read from a text file are not integers like the earlier ones.
        """
        if self._guess:
            kind = pa.int64() if self._earlier is None else self._earlier
            texts = self._ids()
            if is_text(kind):
                return texts
            integers = as_integers(texts, kind)
            if integers is None and self._earlier is not None:
                raise DataError(
                    f"{self.name}: wanted ids of type {kind} like those before, got {_no_integer(texts)!r}"
                )
            return texts if integers is None else integers
        return self._ids()

    def note(self) -> str | None:
        """One sentence on how the ids of a text file were read; None where their type was given."""
        if not self._guess:
            return None
        ids = self.ids()
        if not is_text(ids.type):
            return f"the ids in column {self.name!r} are all integers and were read as such"
        why = "like those before" if self._earlier is not None else f"such as {_no_integer(ids)!r}"
        return f"the ids in column {self.name!r} were read as text, {why}"

    def _ids(self) -> pa.Array:
        if not self._is_text:
            keys = np.empty(len(self), np.int64)
            self._integers.copy_keys(keys)
            if pa.types.is_uint64(self.type):
                return pa.array(keys.view(np.uint64))
            return pa.array(keys).cast(self.type)
        offsets = np.empty(len(self) + 1, np.int64)
        data = np.empty(self._texts.num_bytes, np.uint8)
        self._texts.copy_keys(offsets, data)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        texts = pa.Array.from_buffers(pa.large_string(), len(self), buffers)
        return texts.cast(pa.string()) if len(data) < 2**31 - 1 else texts


def is_plain_integer(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Whether a text is how an integer is written: no leading zeros, plus sign or spaces."""
    return pc.match_substring_regex(texts, r"^(0|-?[1-9][0-9]*)$")


def as_integers(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The texts as integers if every one of them would be written the same again, else None."""
    if len(texts) == 0 or not pc.all(is_plain_integer(texts)).as_py():
        return None
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:  # out of range
        return None


def _no_integer(texts: pa.Array) -> str:
    """One of the texts that is no integer, or else the longest."""
    at = pc.index(is_plain_integer(texts), pa.scalar(False)).as_py()
    if at < 0:
        lengths = pc.binary_length(texts)
        at = pc.index(lengths, pc.max(lengths)).as_py()
    return str(texts[at].as_py())


def integer_keys(ids: pa.Array, kind: pa.DataType) -> npt.NDArray[np.int64]:
    """Integers without nulls as int64, without a copy where they are int64; uint64 keeps its bits."""
    if ids.type != kind:
        ids = ids.cast(kind)
    ids = ids.view(pa.int64()) if pa.types.is_uint64(kind) else ids.cast(pa.int64())
    if len(ids) == 0:
        return np.empty(0, np.int64)
    return np.frombuffer(ids.buffers()[1], np.int64, len(ids), ids.offset * 8)


def text_buffers(ids: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets int64 [N + 1] and UTF-8 bytes of texts without nulls."""
    texts = pc.cast(ids, pa.large_string())
    _, ends, data = texts.buffers()
    if ends is None or len(texts) == 0:
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    offsets = np.frombuffer(ends, np.int64, len(texts) + 1, texts.offset * 8)
    return offsets, np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
