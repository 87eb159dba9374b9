"""What all kernels share: launches, products of tiles, rows of a matrix, the bounds of a jagged row."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops._backend import on_device

# The interpreter holds bfloat16 as integers and would multiply these: there tiles are widened first.
_WIDENS = tl.constexpr(triton.knobs.runtime.interpret)


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Runs a kernel on the current stream of the device of ``like``; an empty grid runs nothing."""
    if 0 in grid:
        return
    with on_device(like.device):
        kernel[grid](*arguments, **constants)


def padded_width(width: int) -> int:
    """The width of a tile that holds rows this wide: a power of two that the matrix units take."""
    return max(16, 1 << (width - 1).bit_length())


@triton.jit
def product(a, b, total):
    """total + a @ b in float32: three products of TF32 parts for float32, else one of the narrow type."""
    if _WIDENS and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="tf32x3")


@triton.jit
def load_rows(base, rows, stride, kept, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows of a matrix with a contiguous last dimension, [rows, PADDED]; zeros where not kept."""
    lanes = tl.arange(0, PADDED)
    mask = kept[:, None] & (lanes < WIDTH)[None, :]
    return tl.load(base + rows.to(tl.int64)[:, None] * stride + lanes[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, rows, stride, kept, values, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The reverse of load_rows, rounded to the type of the matrix."""
    lanes = tl.arange(0, PADDED)
    mask = kept[:, None] & (lanes < WIDTH)[None, :]
    places = base + rows.to(tl.int64)[:, None] * stride + lanes[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def count_not_above(ascending, count, values, STEPS: tl.constexpr, EQUAL: tl.constexpr = True):
    """How many of ``count`` ascending numbers are <= a value, or < without EQUAL, by bisection; count is
    below 2 ** STEPS.
    """
    found = tl.zeros((count + values).shape, tl.int32)
    for step in tl.static_range(STEPS):
        probe = found + (1 << (STEPS - 1 - step))
        inside = probe <= count
        number = tl.load(ascending + probe - 1, mask=inside, other=0)
        if EQUAL:
            ahead = inside & (number <= values)
        else:
            ahead = inside & (number < values)
        found = tl.where(ahead, probe, found)
    return found


@triton.jit
def jagged_bounds(offsets, sequences, rows, STEPS: tl.constexpr):
    """First row, and the row after the last, of the sequence that owns each row."""
    after = tl.minimum(count_not_above(offsets, sequences, rows, STEPS), sequences)
    begin = tl.load(offsets + tl.maximum(after - 1, 0))
    return begin.to(tl.int32), tl.load(offsets + after).to(tl.int32)


def bisection_steps(count: int) -> int:
    """STEPS of ``count_not_above`` for so many numbers."""
    return count.bit_length()
