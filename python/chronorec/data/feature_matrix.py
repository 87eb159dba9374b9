"""Item features as numbers: what content encoders read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.encode import is_list, is_text
from chronorec.data.errors import DataError

Floats = npt.NDArray[np.float32]

#: A column of words or categories becomes a column for each of so many of its most frequent values.
MOST_VALUES = 256


def feature_matrix(items: pa.Table) -> Floats:
    """The features of an item table, float32 [V, F], each of about unit size; what is missing is 0.

    Numbers are standardised; codes that are no quantities should be texts. Texts and booleans are
    categories: a column of 0 and 1 for each of the most frequent values, and so are lists of texts (genres,
    tags), where several are 1. Lists of numbers of one length are vectors (text or image embeddings),
    divided by their root mean square.

    Args:
        items: column ``item``, which is no feature, and the features, row = item code.

    Raises:
        DataError: there are no features, or one is of none of these kinds.
    """
    columns = [_column(name, items[name].combine_chunks()) for name in items.column_names if name != "item"]
    columns = [column for column in columns if column.shape[1]]
    if not columns:
        raise DataError(
            "items: wanted a table with features beside the ids, got none; see `chronorec prepare`"
        )
    return np.concatenate(columns, axis=1)


def _column(name: str, values: pa.Array) -> Floats:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _standardised(values)
    if is_text(kind) or pa.types.is_boolean(kind):
        return _categories(values.cast(pa.string()), np.arange(len(values)), len(values))
    if is_list(kind):
        if is_text(kind.value_type):
            rows = pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
            return _categories(pc.list_flatten(values).cast(pa.string()), rows, len(values))
        if pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type):
            return _scaled(vectors_of(name, values))
    wanted = "numbers, texts, booleans, lists of texts or lists of numbers"
    raise DataError(f"items: feature {name!r}: wanted {wanted}, got {kind}; leave the column out")


def _standardised(values: pa.Array) -> Floats:
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.isfinite(numbers)
    if not known.any() or numbers[known].std() == 0:
        return np.zeros((len(numbers), 0), np.float32)
    scaled = (numbers - numbers[known].mean()) / numbers[known].std()
    return np.where(known, scaled, 0).astype(np.float32)[:, None]


def _categories(values: pa.Array, rows: npt.NDArray[np.integer], count: int) -> Floats:
    """1 where ``values[p]``, of row ``rows[p]``, is one of the most frequent values."""
    counts = pc.value_counts(values.drop_null())
    order = sorted(range(len(counts)), key=lambda place: (-counts[place]["counts"].as_py(), place))
    kept = pa.array([counts[place]["values"].as_py() for place in order[:MOST_VALUES]], pa.string())
    found = pc.fill_null(pc.index_in(values, kept, skip_nulls=True), -1).to_numpy(zero_copy_only=False)
    matrix = np.zeros((count, len(kept)), np.float32)
    matrix[rows[found >= 0], found[found >= 0]] = 1
    return matrix


def vectors_of(name: str, values: pa.Array) -> Floats:
    """A column of lists of numbers as vectors [V, D]; zeros where there is none.

    Raises:
        DataError: they differ in length, or hold what is no number.
    """
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
    sizes = np.unique(lengths[known])
    if len(sizes) > 1:
        raise DataError(
            f"items: feature {name!r}: wanted vectors of one length, got {sizes.astype(int).tolist()}"
        )
    width = int(sizes[0]) if len(sizes) else 0
    numbers = pc.list_flatten(values.drop_null()).cast(pa.float32()).to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all():
        raise DataError(f"items: feature {name!r}: wanted vectors of numbers, got some that are none")
    matrix = np.zeros((len(values), width), np.float32)
    matrix[known] = numbers.reshape(len(known), width)
    return matrix


def _scaled(vectors: Floats) -> Floats:
    """Vectors over the root mean square of their elements; those of zeros are missing."""
    there = vectors[vectors.any(axis=1)]
    size = float(np.sqrt(np.mean(np.square(there, dtype=np.float64)))) if there.size else 0.0
    return vectors / np.float32(size) if size > 0 else vectors
