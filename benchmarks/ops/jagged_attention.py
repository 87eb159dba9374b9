"""jagged_attention against torch's scaled_dot_product_attention on the same batch, padded if jagged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case
from chronorec.ops import jagged_attention, jagged_attention_step

Providers = dict[str, Callable[[], object]]


def history_lengths(batch: int, longest: int) -> list[int]:
    """Log-normal lengths, median about 95, cut at ``longest``: like the histories of real users."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(4.55 + 0.8 * torch.randn(batch, generator=generator))
    return [int(x) for x in lengths.clamp(1, longest)]


def pad(rows: Tensor, lengths: list[int]) -> Tensor:
    """[N, A, D] -> [B, A, T, D], contiguous."""
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = rows.new_zeros(len(lengths), max(lengths), *rows.shape[1:]).index_put((real,), rows)
    return padded.transpose(1, 2).contiguous()


def run(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor | None) -> Callable[[], object]:
    if grad is None:
        return lambda: attention(*inputs)
    leaves = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(attention(*leaves), leaves, grad)


def setup(lengths: list[int], heads: int, width: int, dtype: torch.dtype, backward: bool) -> Providers:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    projection = torch.randn(sum(lengths), 3, heads, width).to(dtype)
    grad = torch.randn(sum(lengths), heads, width).to(dtype)
    rows = list(projection.unbind(1))
    dense_rows, dense_grad = [pad(x, lengths) for x in rows], pad(grad, lengths)

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return jagged_attention(query, key, value, offsets)

    dense = partial(F.scaled_dot_product_attention, is_causal=True)
    return {
        "chronorec": run(ours, rows, grad if backward else None),
        "torch sdpa": run(dense, dense_rows, dense_grad if backward else None),
    }


def setup_step(batch: int, length: int, heads: int, width: int) -> Providers:
    query, (key, value) = torch.randn(batch, heads, width), torch.randn(2, batch * length, heads, width)
    offsets = torch.arange(0, batch * length + 1, length)
    dense_key, dense_value = (pad(x, [length] * batch) for x in (key, value))
    return {
        "chronorec": lambda: jagged_attention_step(query, key, value, offsets),
        "torch sdpa": lambda: F.scaled_dot_product_attention(query[:, :, None], dense_key, dense_value),
    }


def sequence_cases(
    name: str, lengths: list[int], heads: int, width: int, dtype: torch.dtype = torch.float32
) -> list[Case]:
    # two products over the causal half forward, five more backward
    forward = 2.0 * sum(n * (n + 1) for n in lengths) * heads * width
    return [
        Case(
            op="jagged_attention",
            name=name,
            mode="forward+backward" if backward else "forward",
            dtype=str(dtype).removeprefix("torch."),
            work=forward * (3.5 if backward else 1),
            unit="GF/s",
            setup=partial(setup, lengths, heads, width, dtype, backward),
        )
        for backward in (False, True)
    ]


def step_case(batch: int, length: int, heads: int, width: int) -> Case:
    return Case(
        op="jagged_attention",
        name=f"step B{batch} T{length} A{heads} D{width}",
        mode="step",
        dtype="float32",
        work=8.0 * batch * length * heads * width,
        unit="GB/s",
        setup=partial(setup_step, batch, length, heads, width),
    )


CASES: list[Case] = [
    *sequence_cases("B128 T200 A2 D32", [200] * 128, 2, 32),
    *sequence_cases("B32 T256 A2 D64", [256] * 32, 2, 64),
    *sequence_cases("histories B128 T<=200 A2 D32", history_lengths(128, 200), 2, 32),
    *sequence_cases("histories B128 T<=200 A2 D32", history_lengths(128, 200), 2, 32, torch.bfloat16),
    *sequence_cases("B4 T2000 A2 D64", [2000] * 4, 2, 64),
    step_case(1, 200, 2, 32),
    step_case(128, 200, 2, 32),
]
