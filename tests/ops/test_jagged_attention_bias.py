"""Learned bias by position, time and place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from chronorec.ops import AttentionBias, jagged_attention, reference
from tests.support.attention import (
    BIASES,
    DTYPES,
    assert_matches_reference,
    make_bias,
    make_inputs,
    with_gradients,
)
from tests.support.jagged import offsets_of


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kinds", [["position"], ["time"], ["distance"], BIASES], ids=str)
@pytest.mark.parametrize(
    "form", [{}, {"causal": False}, {"activation": "silu", "window": 60, "divisor": 10.0}], ids=str
)
def test_bias(kinds: list[str], form: dict[str, Any], dtype: torch.dtype) -> None:
    assert_matches_reference([63, 0, 1, 250], 2, 20, dtype, kinds, **form)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("columns", [1, 2, 8, 16, 31, 32, 33, 64, 65, 256])
def test_sizes_of_tables(columns: int, in_order: bool) -> None:
    assert_matches_reference([130, 5, 40], 2, 16, torch.float32, BIASES, columns, in_order)


def test_one_row_of_a_table_serves_all_heads() -> None:
    query, key, value, grad = make_inputs([40, 9], 3, 8, torch.float32)
    bias = make_bias(49, 1, BIASES)
    tables = [bias.position, bias.time_table, bias.distance_table]
    wide = [table.expand(3, -1) for table in tables if table is not None]
    run = with_gradients(jagged_attention, offsets_of([40, 9]), bias)
    one, all_heads = run(query, key, value, grad, *tables), run(query, key, value, grad, *wide)
    for a, e in zip(one[:4], all_heads[:4], strict=True):
        assert torch.equal(a, e)
    for a, e in zip(one[4:], all_heads[4:], strict=True):
        torch.testing.assert_close(a, e.sum(0, keepdim=True))


def test_bfloat16_tables_learn_in_bfloat16() -> None:
    query, key, value, grad = make_inputs([40, 9], 2, 8, torch.bfloat16)
    bias = make_bias(49, 2, BIASES)
    tables = [table for table in (bias.position, bias.time_table, bias.distance_table) if table is not None]
    run = with_gradients(jagged_attention, offsets_of([40, 9]), bias)
    wide, narrow = (
        run(query, key, value, grad, *tables),
        run(query, key, value, grad, *(t.bfloat16() for t in tables)),
    )
    for a, e in zip(narrow, wide, strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.equal(a, e.bfloat16())


@pytest.mark.parametrize("gap", [1, 2**24 - 1, 2**24 + 1, 2**40 - 1, 2**40, 2**62])
def test_gaps_of_time_are_compared_in_float32(gap: int) -> None:
    """A bucket is exact: the weights show which one a pair is in."""
    boundaries = torch.tensor([1.0, 2.0, 2.0**24, 2.0**40, 2.0**62])
    times, table = torch.tensor([0, gap]), torch.arange(6.0)[None]
    bias = AttentionBias(times=times, time_boundaries=boundaries, time_table=table)
    query, value = torch.zeros(2, 1, 1), torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
    actual = jagged_attention(query, query, value, offsets_of([2]), bias=bias)[1].item()
    bucket = int((torch.tensor(gap).float() >= boundaries).sum())
    assert math.isclose(actual, 1 / (1 + math.exp(-bucket)), rel_tol=1e-5)


def test_great_circles() -> None:
    """Paris to New York is 5837 km, around the date line 2 degrees of the equator are 222 km."""
    places = torch.tensor([[48.8566, 2.3522], [40.7128, -74.0060], [0.0, 179.0], [0.0, -179.0]])
    for pair, kilometres in (((0, 1), 5837.0), ((2, 3), 222.4)):
        for boundary, reached in ((kilometres - 2, 1.0), (kilometres + 2, 0.0)):
            bias = AttentionBias(
                places=places[list(pair)],
                distance_boundaries=torch.tensor([boundary, 30000.0]),
                distance_table=torch.tensor([[0.0, 100.0, -500.0]]),
            )
            query, value = torch.zeros(2, 1, 1), torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
            for op in (jagged_attention, reference.jagged_attention):
                actual = op(query, query, value, offsets_of([2]), bias=bias)[1].item()
                assert abs(actual - (reached or 0.5)) < 1e-6
