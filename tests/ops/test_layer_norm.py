"""``_core.layer_norm``: what the engine runs where training uses torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from chronorec import _core
from tests.support.budget import assert_within_budget


def layer_norm(input: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float = 1e-5) -> Tensor:
    output = torch.empty(input.shape)
    _core.layer_norm(input, weight, bias, epsilon, output)
    return output


def check(
    rows: int, width: int, with_bias: bool = True, scale: float = 1.0, shift: float = 0.0, seed: int = 0
) -> None:
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(rows, width, generator=generator) * scale + shift
    weight, bias = torch.randn(2, width, generator=generator).unbind()
    chosen = bias if with_bias else None
    exact = F.layer_norm(
        input.double(), (width,), weight.double(), None if chosen is None else chosen.double(), 1e-5
    )
    own = F.layer_norm(input, (width,), weight, chosen, 1e-5)
    # input less mean, both rounded at their own size, and the spread divides the difference
    x = input.double()
    spread = (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True).add(1e-5).sqrt()
    terms = (x.abs() + x.abs().mean(1, keepdim=True)) / spread * weight.abs()
    terms = terms + (0 if chosen is None else chosen.abs())
    assert_within_budget(layer_norm(input, weight, chosen), own, exact, "output", terms=terms)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 500, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
def test_width(width: int, with_bias: bool) -> None:
    check(5, width, with_bias)


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 500])
def test_rows(rows: int) -> None:
    check(rows, 40)


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 1000.0), (0.0, 3.0)])
def test_scales(scale: float, shift: float) -> None:
    check(20, 50, scale=scale, shift=shift)


@given(st.integers(0, 140), st.integers(1, 70), st.booleans(), st.integers(0, 99))
def test_any_shape(rows: int, width: int, with_bias: bool, seed: int) -> None:
    check(rows, width, with_bias, seed=seed)


def test_runs_and_thread_counts_agree_bitwise() -> None:
    input, weight = torch.randn(300, 50), torch.randn(50)
    before, results = _core.num_threads(), []
    for threads in (1, 2, 2, 4):
        _core.set_num_threads(threads)
        results.append(layer_norm(input, weight, None))
    _core.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_nan_stays_in_its_row() -> None:
    input = torch.randn(3, 20)
    input[1, 7] = float("nan")
    output = layer_norm(input, torch.ones(20), torch.zeros(20))
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()


def test_errors() -> None:
    x, w = torch.zeros(3, 5), torch.zeros(5)
    with pytest.raises(ValueError, match="input: wanted at least one column, got 0"):
        layer_norm(torch.zeros(3, 0), torch.zeros(0), None)
    with pytest.raises(ValueError, match=r"weight: wanted shape \[5\], got \[4\]"):
        layer_norm(x, torch.zeros(4), None)
    with pytest.raises(ValueError, match=r"bias: wanted shape \[5\], got \[6\]"):
        layer_norm(x, w, torch.zeros(6))
    with pytest.raises(TypeError, match="input: wanted float32, got bfloat16"):
        layer_norm(x.bfloat16(), w, None)
    with pytest.raises(ValueError, match="input: wanted a contiguous array"):
        layer_norm(torch.zeros(3, 10)[:, :5], w, None)
