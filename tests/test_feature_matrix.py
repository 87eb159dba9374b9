"""Item features as numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from chronorec.data.errors import DataError
from chronorec.data.feature_matrix import MOST_VALUES, feature_matrix


def matrix(**columns: pa.Array | list) -> np.ndarray:
    rows = len(next(iter(columns.values())))
    return feature_matrix(pa.table({"item": range(rows), **columns}))


def test_numbers_are_standardised_and_missing_ones_average() -> None:
    found = matrix(price=[1.0, 3.0, None, float("nan")], size=pa.array([10, 30, 20, None], pa.int16()))
    np.testing.assert_allclose(found[:, 0], [-1, 1, 0, 0])
    np.testing.assert_allclose(found[:, 1], [-1.2247449, 1.2247449, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["text", "dictionary", "boolean"])
def test_a_category_is_a_column_for_each_value(kind: str) -> None:
    values = pa.array(["true", "false", None, "false"])
    column = {"text": values, "dictionary": values.dictionary_encode(), "boolean": values.cast(pa.bool_())}
    assert matrix(kind=column[kind]).tolist() == [[0, 1], [1, 0], [0, 0], [1, 0]]


def test_only_frequent_values_have_columns() -> None:
    names = [f"rare {row}" for row in range(2 * MOST_VALUES)] + ["often"] * 3
    found = matrix(brand=names)
    assert found.shape == (len(names), MOST_VALUES)
    assert found[-3:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("large", [False, True])
def test_lists_of_texts_are_several_categories(large: bool) -> None:
    kind = pa.large_list(pa.string()) if large else pa.list_(pa.string())
    found = matrix(tags=pa.array([["a", "b"], None, [], ["b", None]], kind))
    assert found.sum(axis=1).tolist() == [2, 0, 0, 1]
    assert found[:, 0].tolist() == [1, 0, 0, 1], "the more frequent one comes first"


def test_vectors_stay_vectors() -> None:
    values = [[3.0, 0.0], None, [0.0, -3.0]]
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float64(), 2)):
        found = matrix(text=pa.array(values, kind))
        np.testing.assert_allclose(found, np.array([[1, 0], [0, 0], [0, -1]]) * np.sqrt(2), rtol=1e-6)


def test_what_says_nothing_has_no_column() -> None:
    assert matrix(same=[5, 5, 5], none=pa.nulls(3, pa.string()), price=[1, 2, 3]).shape == (3, 1)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, "wanted a table with features"),
        (pa.array([1, 2], pa.timestamp("us")), "feature 'x': wanted numbers, texts"),
        (pa.array([[1.0], [1.0, 2.0]]), r"feature 'x': wanted vectors of one length, got \[1, 2\]"),
        (pa.array([[1.0], [float("nan")]]), "wanted vectors of numbers"),
    ],
)
def test_unusable_features(column: pa.Array | None, message: str) -> None:
    table = pa.table({"item": [1, 2]} | ({} if column is None else {"x": column}))
    with pytest.raises(DataError, match=message):
        feature_matrix(table)
