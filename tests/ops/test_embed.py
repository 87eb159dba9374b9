"""``_core.embed`` against numpy: mean of bags, scale, positions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronorec import _core

RNG = np.random.default_rng(0)


def expected(
    table: np.ndarray,
    items: np.ndarray,
    bags: np.ndarray,
    scale: float,
    position: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    rows = [
        scale * table[items[a:b]].astype(np.float64).mean(0) if b > a else np.zeros(table.shape[1])
        for a, b in pairwise(bags)
    ]
    places = np.concatenate([np.arange(b - a) for a, b in pairwise(offsets)] or [[]])
    return np.array(rows).reshape(-1, table.shape[1]) + position[places.astype(int)]


@given(
    sizes=st.lists(st.integers(0, 5), max_size=40),
    width=st.sampled_from([1, 3, 15, 16, 17, 64, 130]),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_bags_with_positions(sizes: list[int], width: int, cuts: list[int]) -> None:
    bags = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    offsets = np.array(sorted({0, len(sizes), *(c for c in cuts if c <= len(sizes))}), np.int64)
    offsets = offsets if len(offsets) > 1 else np.array([0, len(sizes)], np.int64)
    table = RNG.standard_normal((50, width)).astype(np.float32)
    position = RNG.standard_normal((40, width)).astype(np.float32)
    items = RNG.integers(0, 50, bags[-1]).astype(np.int32)
    output = np.full((len(sizes), width), np.nan, np.float32)
    _core.embed(table, items, bags, 1.5, position, offsets, output)
    np.testing.assert_allclose(
        output, expected(table, items, bags, 1.5, position, offsets), rtol=0, atol=4e-6
    )


def test_one_item_per_token_is_exact() -> None:
    table = RNG.standard_normal((300, 24)).astype(np.float32)
    items = np.concatenate([[0, 299], RNG.integers(0, 300, 1000)]).astype(np.int32)
    output = np.full((len(items), 24), np.nan, np.float32)
    _core.embed(table, items, None, 2.0, None, None, output)
    np.testing.assert_array_equal(output, 2 * table[items])


@pytest.mark.parametrize(
    ("items", "offsets", "message"),
    [
        ([0, 5], [0, 2], r"items: every id must be in \[0, 5\), got 5 at position 1"),
        ([0, -1], [0, 2], "got -1 at position 1"),
        ([0, 1, 2, 3], [0, 4], "wanted sequences of at most 3, got 4"),
        ([0, 1], [0, 3], "must end at 2, got 3"),
    ],
)
def test_unusable_arguments(items: list[int], offsets: list[int], message: str) -> None:
    table, position = np.zeros((5, 4), np.float32), np.zeros((3, 4), np.float32)
    output = np.empty((len(items), 4), np.float32)
    with pytest.raises(ValueError, match=message):
        _core.embed(table, np.array(items, np.int32), None, 1.0, position, np.array(offsets), output)
