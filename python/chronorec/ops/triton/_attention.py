"""Pairs of events in tiles: who sees whom, their scores with the learned bias, weights and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops._memory import rows
from chronorec.ops.triton._tiles import bisection_steps, count_not_above, padded_width, product

_INT32 = 2**31 - 1


class Form(NamedTuple):
    """The arguments of the op after query, key and value, in the order of its schema."""

    offsets: Tensor
    scale: float
    causal: bool
    window: int
    silu: bool
    divisor: float
    position: Tensor | None
    times: Tensor | None
    time_boundaries: Tensor | None
    time_table: Tensor | None
    places: Tensor | None
    distance_boundaries: Tensor | None
    distance_table: Tensor | None

    def sequences(self) -> tuple[Tensor, int]:
        return self.offsets.contiguous(), len(self.offsets) - 1

    def pairs(self, events: int) -> tuple[float, float, int]:
        """scale, divisor and window for the kernels."""
        return self.scale, 1 / self.divisor, min(self.window, events + 1, _INT32)

    def bias(self) -> tuple[Any, Any, Any]:
        """Per kind of bias what the kernels take: (table, head stride, columns, events, boundaries)."""
        return (
            _kind(self.position),
            _kind(self.time_table, self.times, self.time_boundaries),
            _kind(self.distance_table, self.places, self.distance_boundaries),
        )

    def constants(self, width: int, tile: int) -> dict[str, Any]:
        return {
            "WIDTH": width,
            "PADDED": padded_width(width),
            "TILE": tile,
            "CAUSAL": self.causal,
            "SILU": self.silu,
            "SEARCH": bisection_steps(len(self.offsets) - 1),
            "TIME": _steps(self.time_boundaries),
            "DISTANCE": _steps(self.distance_boundaries),
        }


def _kind(table: Tensor | None, *of_pairs: Tensor | None) -> tuple[Any, ...] | None:
    if table is None:
        return None
    table = rows(table)
    return table, table.stride(0), table.shape[1], *of_pairs


def _steps(boundaries: Tensor | None) -> int:
    return 0 if boundaries is None else bisection_steps(boundaries.shape[0])


def strided(*tensors: Tensor) -> tuple[Any, ...]:
    """(tensor, stride of an event, stride of a head) of each, copied if its rows are not contiguous."""
    return tuple((x, x.stride(0), x.stride(1)) for x in map(rows, tensors))


def tiling(width: int, dtype: torch.dtype, *, biased: bool) -> tuple[int, int]:
    """Events of a tile, and warps: what was fastest on an H100 of what spills nothing at widths up to 128.

    Forward and backward have the same tile, so that backward's scores are forward's, to the last bit.

    Args:
        biased: whose bisections need registers for an address per pair.
    """
    wide = padded_width(width) > 64
    if dtype == torch.float32 or biased:
        return 16, 4 if wide else 2
    return 32 if wide else 64, 4


@triton.jit
def position_column(rows, columns_of_keys, count, CAUSAL: tl.constexpr):
    """The column of the position table for each pair."""
    gap = rows[:, None] - columns_of_keys[None, :]
    if not CAUSAL:
        gap += count // 2
    return tl.minimum(tl.maximum(gap, 0), count - 1)


@triton.jit
def time_bucket(time, rows, keys, kept_rows, kept_keys, STEPS: tl.constexpr):
    """The column of the time table for each pair: how many boundaries its gap has reached."""
    here = tl.load(time[3] + rows, mask=kept_rows, other=0)
    there = tl.load(time[3] + keys, mask=kept_keys, other=0)
    gap = tl.abs((here[:, None] - there[None, :]).to(tl.float32))
    return count_not_above(time[4], time[2] - 1, gap, STEPS)


@triton.jit
def distance_bucket(distance, rows, keys, kept_rows, kept_keys, STEPS: tl.constexpr):
    """The column of the distance table for each pair, by the square of the chord between its places."""
    chord = tl.zeros((rows.shape[0], keys.shape[0]), tl.float32)
    for axis in tl.static_range(3):
        here = tl.load(distance[3] + rows * 3 + axis, mask=kept_rows, other=0.0)
        there = tl.load(distance[3] + keys * 3 + axis, mask=kept_keys, other=0.0)
        step = here[:, None] - there[None, :]
        chord += step * step
    return count_not_above(distance[4], distance[2] - 1, chord, STEPS)


@triton.jit
def pair_scores(
    query, key, rows, keys, kept_rows, kept_keys, head, bias, scale,
    CAUSAL: tl.constexpr, TIME: tl.constexpr, DISTANCE: tl.constexpr,
):  # fmt: skip
    """scale query . key + bias, [rows, keys]."""
    position, time, distance = bias
    scores = tl.zeros((rows.shape[0], keys.shape[0]), tl.float32)
    scores = product(query, tl.trans(key), scores) * scale
    if position is not None:
        column = position_column(rows, keys, position[2], CAUSAL)
        scores += tl.load(position[0] + head * position[1] + column)
    if time is not None:
        column = time_bucket(time, rows, keys, kept_rows, kept_keys, TIME)
        scores += tl.load(time[0] + head * time[1] + column)
    if distance is not None:
        column = distance_bucket(distance, rows, keys, kept_rows, kept_keys, DISTANCE)
        scores += tl.load(distance[0] + head * distance[1] + column)
    return scores


@triton.jit
def seen_keys(rows, begin, end, window, CAUSAL: tl.constexpr):
    """The first key that each row sees, and the one after the last, of its sequence from begin to end.

    Two bounds for each row, where masks of the pairs would need registers for each pair.
    """
    after = rows + 1 if CAUSAL else rows + window
    return tl.maximum(begin, rows - window + 1), tl.minimum(end, after)


@triton.jit
def seeing_rows(keys, begin, end, window, CAUSAL: tl.constexpr):
    """The first row that sees each key, and the one after the last."""
    first = keys if CAUSAL else tl.maximum(begin, keys - window + 1)
    return first, tl.minimum(end, keys + window)


@triton.jit
def pair_weights(scores, seen, lse, SILU: tl.constexpr):
    """Weights of the pairs, 0 where not seen, and slope: slope (grad_output . value - delta) is the gradient
    of the score of a pair that is seen. Those of silu are still to be divided by the divisor.

    Args:
        lse: per row, of softmax: logsumexp of the scores; delta is grad_output . output then, else 0.
    """
    if SILU:
        gate = 1 / (1 + tl.exp(-scores))
        weights = scores * gate
        slope = gate + weights * (1 - gate)
        weights = tl.where(seen, weights, 0.0)
    else:
        weights = tl.where(seen, tl.exp(scores - lse[:, None]), 0.0)
        slope = weights
    return weights, slope
