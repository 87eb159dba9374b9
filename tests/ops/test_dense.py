"""``_core.dense`` and ``_core.pack_panels``: the engine's products, and the vector functions under them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from chronorec import _core
from tests.support.budget import assert_within_budget

NONE, RELU, GELU, SILU, SIGMOID, TANH = range(6)
ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    torch.relu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.silu,
    torch.sigmoid,
    torch.tanh,
]


def pack(weight: Tensor) -> Tensor:
    packed = torch.empty(-(-weight.shape[0] // 16), weight.shape[1], 16)
    _core.pack_panels(weight, packed)
    return packed


def dense(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: int = NONE,
) -> Tensor:
    output = torch.empty(input.shape[0], weight.shape[0])
    _core.dense(input, pack(weight), bias, residual, activation, output)
    return output


def reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: int = NONE,
) -> Tensor:
    output = ACTIVATIONS[activation](F.linear(input, weight, bias))
    return output if residual is None else output + residual


def draw(rows: int, depth: int, cols: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(shape, generator=generator)
        for shape in [(rows, depth), (cols, depth), (cols,), (rows, cols)]
    )  # type: ignore[return-value]


def check(inputs: tuple[Tensor | None, ...], activation: int) -> None:
    exact = reference(*(x if x is None else x.double() for x in inputs), activation=activation)  # type: ignore[arg-type]
    own = reference(*inputs, activation=activation)  # type: ignore[arg-type]
    actual = dense(*inputs, activation=activation)  # type: ignore[arg-type]
    terms = reference(*(x if x is None else x.double().abs() for x in inputs))  # type: ignore[arg-type]
    assert_within_budget(actual, own, exact, "output", terms=terms)


@pytest.mark.parametrize("activation", range(6))
@pytest.mark.parametrize("shape", [(1, 64, 64), (7, 33, 49), (65, 128, 16), (130, 5, 100)], ids=str)
def test_output(shape: tuple[int, int, int], activation: int) -> None:
    input, weight, bias, residual = draw(*shape)
    check((input, weight, bias, residual), activation)
    check((input, weight, None, residual), activation)
    check((input, weight, bias, None), activation)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 6, 7, 8, 9, 63, 64, 65, 500])
def test_rows(rows: int) -> None:
    check(draw(rows, 20, 30), NONE)


@pytest.mark.parametrize("cols", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 64, 65])
def test_columns(cols: int) -> None:
    check(draw(9, 20, cols), RELU)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 70), st.integers(0, 5), st.integers(0, 99))
def test_any_shape(rows: int, depth: int, cols: int, activation: int, seed: int) -> None:
    check(draw(rows, depth, cols, seed), activation)


def test_a_row_does_not_depend_on_the_others() -> None:
    input, weight, bias, residual = draw(131, 50, 70)
    batch = dense(input, weight, bias, residual, GELU)
    for row in (0, 5, 64, 127, 130):
        one = slice(row, row + 1)
        assert torch.equal(dense(input[one], weight, bias, residual[one], GELU), batch[one])


def test_strided_and_offset_input() -> None:
    input, weight, bias, residual = draw(40, 64, 20)
    view = input[3::3, 5:43]
    weight = weight[:, :38]
    residual = residual[: view.shape[0]].contiguous()
    strided = dense(view, weight, bias, residual, TANH)
    assert torch.equal(strided, dense(view.contiguous(), weight.contiguous(), bias, residual, TANH))


def test_runs_and_thread_counts_agree_bitwise() -> None:
    inputs = draw(300, 40, 50)
    before, results = _core.num_threads(), []
    for threads in (1, 2, 2, 4):
        _core.set_num_threads(threads)
        results.append(dense(*inputs, activation=SILU))
    _core.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pack_panels(dtype: torch.dtype) -> None:
    rows = torch.randn(37, 11).to(dtype)
    packed = pack(rows)
    unpacked = packed.permute(0, 2, 1).reshape(48, 11)
    assert torch.equal(unpacked[:37], rows.float())
    assert torch.equal(unpacked[37:], torch.zeros(11, 11))


def apply(activation: int, x: np.ndarray) -> np.ndarray:
    """The activation alone: a product of depth 0, and x as bias."""
    output = np.full((1, x.size), np.nan, np.float32)
    weight = np.zeros((-(-x.size // 16), 0, 16), np.float32)
    _core.dense(np.zeros((1, 0), np.float32), weight, x, None, activation, output)
    return output[0]


def sweep() -> np.ndarray:
    """Every 5000th finite float, both signs, denormals included, and a fine grid where the functions bend."""
    bits = np.arange(0, 0x7F800000, 5000, dtype=np.uint32)
    positive = np.concatenate([bits.view(np.float32), np.linspace(0, 110, 200_001, dtype=np.float32)])
    return np.concatenate([positive, -positive])


def ulp_error(actual: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units in the last place."""
    unit = np.spacing(np.abs(exact).astype(np.float32))
    return float(np.max(np.abs(actual.astype(np.float64) - exact) / unit))


def exact_sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@pytest.mark.parametrize(("activation", "exact"), [(SIGMOID, exact_sigmoid), (TANH, np.tanh)])
def test_vector_functions_in_ulp(activation: int, exact: Callable[[np.ndarray], np.ndarray]) -> None:
    x = sweep()
    wanted = exact(x.astype(np.float64))
    normal = np.abs(wanted) >= np.finfo(np.float32).tiny
    assert ulp_error(apply(activation, x)[normal], wanted[normal]) <= (3 if activation == SIGMOID else 2)
    tiny = apply(activation, x)[~normal]
    assert np.all(np.abs(tiny - wanted[~normal]) <= np.finfo(np.float32).tiny)


@pytest.mark.parametrize("activation", [SIGMOID, TANH])
def test_vector_functions_never_fall(activation: int) -> None:
    """Within their error: no step down of more than 2 ulp between neighbours."""
    x = np.sort(sweep())
    y = apply(activation, x).astype(np.float64)
    assert np.all(np.diff(y) >= -2 * np.spacing(np.abs(y[1:]).astype(np.float32)))


@pytest.mark.parametrize("activation", range(6))
def test_extremes(activation: int) -> None:
    big = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 100.0, -100.0, 1e4, -1e4, 1e38, -1e38]
    x = torch.tensor([*big, float("inf"), -float("inf"), float("nan")])
    wanted = ACTIVATIONS[activation](x.double()).float()
    if activation == GELU:  # 1e38 cubed is infinite in float32 and in torch's own kernel
        wanted = ACTIVATIONS[activation](x)
    actual = torch.from_numpy(apply(activation, x.numpy()))
    torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": torch.zeros(2, 4, 16)}, r"weight: wanted shape \[2, 5, 16\], got \[2, 4, 16\]"),
        ({"bias": torch.zeros(19)}, r"bias: wanted shape \[20\], got \[19\]"),
        ({"residual": torch.zeros(3, 19)}, r"residual: wanted shape \[3, 20\], got \[3, 19\]"),
        ({"activation": 6}, "activation: wanted 0 to 5, got 6"),
        ({"activation": -1}, "activation: wanted 0 to 5, got -1"),
        ({"output": torch.zeros(4, 20)}, r"output: wanted shape \[3, any\], got \[4, 20\]"),
        ({"output": torch.zeros(20, 3).T}, "output: the last dimension must be contiguous"),
    ],
)
def test_errors(change: dict[str, object], text: str) -> None:
    arguments = {
        "input": torch.zeros(3, 5),
        "weight": torch.zeros(2, 5, 16),
        "bias": torch.zeros(20),
        "residual": None,
        "activation": 0,
        "output": torch.zeros(3, 20),
    }
    with pytest.raises(ValueError, match=text):
        _core.dense(*(arguments | change).values())
