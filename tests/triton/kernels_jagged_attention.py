"""jagged_attention in Triton's interpreter: the properties of its CPU kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec.ops import AttentionBias, jagged_attention
from tests.support.attention import (
    BIASES,
    DTYPES,
    FORMS,
    assert_matches_reference,
    make_bias,
    make_inputs,
    with_gradients,
)
from tests.support.jagged import offsets_of


@pytest.fixture(autouse=True)
def _few_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is slow: less is drawn than for the CPU kernel."""
    if request.config.getoption("device") == "cpu":
        monkeypatch.setattr("tests.support.attention.draws_of", lambda lengths: 2)


LENGTHS = [5, 0, 1, 40, 0, 13, 2]  # a tile holds 32 events


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [3, 24])
def test_budget(width: int, dtype: torch.dtype) -> None:
    assert_matches_reference(LENGTHS, 2, width, dtype)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms(form: dict[str, Any]) -> None:
    assert_matches_reference([33, 1, 40], 1, 16, torch.float32, **form)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kinds", "columns"), [(["position"], 1), (["position"], 40), (BIASES, 7)], ids=str)
def test_bias(kinds: list[str], columns: int, causal: bool) -> None:
    assert_matches_reference([40, 0, 3, 50], 1, 8, torch.float32, kinds, columns=columns, causal=causal)


def test_bias_in_bfloat16() -> None:
    assert_matches_reference([40, 3], 2, 16, torch.bfloat16, BIASES)


def test_bias_of_silu() -> None:
    assert_matches_reference([40, 3], 1, 16, torch.float32, BIASES, activation="silu", divisor=70.0)


@settings(max_examples=5)
@given(st.lists(st.integers(0, 20), max_size=3), st.booleans(), st.integers(1, 60))
def test_any_lengths(lengths: list[int], causal: bool, window: int) -> None:
    assert_matches_reference([*lengths, 3], 1, 4, torch.float32, ["position"], causal=causal, window=window)


def results(
    lengths: list[int], inputs: list[Tensor], kinds: list[str], op: Any = jagged_attention
) -> list[Tensor]:
    bias = make_bias(sum(lengths), 2, kinds)
    tables = [t for t in (bias.position, bias.time_table, bias.distance_table) if t is not None]
    return with_gradients(op, offsets_of(lengths), bias)(*inputs, *tables)


def test_runs_agree_bitwise() -> None:
    inputs = make_inputs(LENGTHS, 2, 16, torch.float32)
    first, second = (results(LENGTHS, inputs, BIASES) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_strided_inputs() -> None:
    projection = torch.randn(sum(LENGTHS), 3, 2, 16)
    strided = [*projection.unbind(1), torch.randn(2, sum(LENGTHS), 16).transpose(0, 1)]
    packed = [x.contiguous() for x in strided]
    for a, b in zip(results(LENGTHS, strided, []), results(LENGTHS, packed, []), strict=True):
        assert torch.equal(a, b)


def test_one_table_for_all_heads() -> None:
    inputs = make_inputs([20, 9], 2, 8, torch.float32)[:3]
    table = torch.randn(1, 5, requires_grad=True)
    jagged_attention(*inputs, offsets_of([20, 9]), bias=AttentionBias(position=table)).sum().backward()
    assert table.grad is not None
    assert table.grad.shape == (1, 5)


def test_nothing_crosses_sequences() -> None:
    lengths = [30, 50, 7]
    inputs = make_inputs(lengths, 2, 8, torch.float32)
    whole = jagged_attention(*inputs[:3], offsets_of(lengths)).split(lengths)
    parts = zip(*(x.split(lengths) for x in inputs[:3]), strict=True)
    for length, output, part in zip(lengths, whole, parts, strict=True):
        torch.testing.assert_close(output, jagged_attention(*part, offsets_of([length])), rtol=0, atol=1e-6)


def test_opcheck() -> None:
    inputs = [x.requires_grad_() for x in make_inputs([9, 4], 2, 8, torch.float32)[:3]]
    arguments = (*inputs, offsets_of([9, 4]), 0.3, True, 1 << 62, False, 1.0, *[None] * 7)
    torch.library.opcheck(torch.ops.chronorec.jagged_attention_forward.default, arguments)
