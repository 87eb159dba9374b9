"""Which items are alike by what the item table says of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.encode import is_list, is_text, plain
from chronorec.data.feature_matrix import Floats, vectors_of
from chronorec.data.jagged import Int32s, Int64s, offsets_of, ranges, row_of_values
from chronorec.engine.catalogue import column_of

Reals = npt.NDArray[np.float64]


class Content:
    """Likeness of items: cosine of the TF-IDF weights of their words (Salton and Buckley, 1988) plus, for
    each column of vectors, such as embeddings of their texts, the cosine of these.

    Words are those of texts in lower case, whole values of lists, integers and truth values, each of its own
    column; whether an item has a word counts, not how often. Other columns say nothing.

    Args:
        items: the item table, row = code, with a column ``item``, which is no feature.
    """

    def __init__(self, items: pa.Table) -> None:
        self._num_items = items.num_rows
        names = [name for name in items.column_names if name != "item"]
        features = {name: plain(column_of(items, name, name)) for name in names}
        self._vectors = [
            _unit(vectors_of(name, values)) for name, values in features.items() if _is_vector(values.type)
        ]
        found = [_words(values) for values in features.values() if not _is_vector(values.type)]
        firsts = np.cumsum([0, *(len(words) for _, _, words in found)]).tolist()
        none = np.empty(0, np.int64)
        rows = np.concatenate([none, *(rows for rows, _, _ in found)])
        numbers = [own + first for (_, own, _), first in zip(found, firsts, strict=False)]
        words = np.concatenate([none, *numbers])
        pairs = np.unique(words * max(self._num_items, 1) + rows)  # by word, then row, each once
        self._rows = pairs % max(self._num_items, 1)
        count = np.bincount(pairs // max(self._num_items, 1), minlength=firsts[-1])
        self._offsets = offsets_of(count)
        self._squares: Reals = (np.log((1 + self._num_items) / (1 + count)) + 1) ** 2
        weights = self._squares[row_of_values(self._offsets)]
        self._norms: Reals = np.sqrt(np.bincount(self._rows, weights, minlength=self._num_items))
        by_row = np.argsort(self._rows, kind="stable")
        self._words = row_of_values(self._offsets)[by_row]
        self._word_offsets = offsets_of(np.bincount(self._rows, minlength=self._num_items))

    def nearest(self, code: int, among: Int32s, count: int) -> tuple[Int32s, Reals]:
        """At most ``count`` codes out of ``among`` that are like an item, and how much: above 0."""
        likeness = self._by_words(code)
        for unit in self._vectors:
            likeness += unit @ unit[code]
        own = likeness[among]
        order = np.argsort(-own, kind="stable")[:count]
        order = order[own[order] > 1e-9]
        return among[order], own[order]

    def _by_words(self, code: int) -> Reals:
        words = self._words[self._word_offsets[code] : self._word_offsets[code + 1]]
        lengths = np.diff(self._offsets)[words]
        rows = self._rows[ranges(self._offsets[words], lengths)]
        shared = np.bincount(rows, np.repeat(self._squares[words], lengths), minlength=self._num_items)
        likeness: Reals = shared / np.maximum(self._norms * self._norms[code], 1e-12)
        return likeness


def _is_vector(kind: pa.DataType) -> bool:
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))


def _words(values: pa.Array) -> tuple[Int64s, Int64s, pa.Array]:
    """Rows and numbers of words, and the words by number."""
    rows = np.arange(len(values), dtype=np.int64)
    split = is_text(values.type)
    if split:
        values = pc.split_pattern_regex(pc.utf8_lower(values), r"[^\p{L}\p{N}]+")
    if is_list(values.type):
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        rows, values = row_of_values(offsets_of(lengths.astype(np.int64))), plain(values.flatten())
    kind = values.type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return rows[:0], rows[:0], pa.array([], kind)
    there = pc.is_valid(values)
    if split:
        there = pc.and_kleene(there, pc.not_equal(values, pa.scalar("", kind)))
    kept = there.to_numpy(zero_copy_only=False).astype(np.bool_)
    encoded = pc.dictionary_encode(values.filter(pa.array(kept)))
    return rows[kept], encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _unit(vectors: Floats) -> Reals:
    """Vectors [V, D] of length 1; zeros where there is none."""
    long = vectors.astype(np.float64)
    unit: Reals = long / np.maximum(np.linalg.norm(long, axis=1, keepdims=True), 1e-12)
    return unit
