"""jagged_attention on a GPU: forward, and the way to backward.

A tile is so many consecutive rows of the flat [N, ...] values, whatever sequences they belong to: short
sequences share a tile and no row is empty. The keys of a tile are those from the first event of its first
sequence on; pairs of different sequences are masked.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops.triton._attention import Form, pair_scores, seen_keys, strided, tiling
from chronorec.ops.triton._tiles import jagged_bounds, launch, load_rows, product, store_rows


def forward(query: Tensor, key: Tensor, value: Tensor, *form: Any) -> tuple[Tensor, Tensor]:
    """Output [N, A, D], and of softmax the logsumexp of the scores [N, A]."""
    shape, given = Form(*form), query.shape
    (events, heads, width) = given
    output = torch.empty(given, dtype=query.dtype, device=query.device)
    lse = query.new_empty(0 if shape.silu else events, heads, dtype=torch.float32)
    bias = shape.bias()
    tile, warps = tiling(width, query.dtype, biased=bias != (None, None, None))
    launch(
        _forward,
        (triton.cdiv(events, tile), heads),
        query,
        *strided(query, key, value, output),
        lse,
        shape.sequences(),
        bias,
        events,
        *shape.pairs(events),
        **shape.constants(width, tile),
        num_warps=warps,
        num_stages=1,
    )
    return output, lse


@triton.jit
def _forward(
    query, key, value, output, lse, sequences, bias, events, scale, inverse_divisor, window,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, SILU: tl.constexpr,
    SEARCH: tl.constexpr, TIME: tl.constexpr, DISTANCE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    kept_rows = rows < events
    begin, end = jagged_bounds(sequences[0], sequences[1], tl.minimum(rows, events - 1), SEARCH)
    first, after = seen_keys(rows, begin, end, window, CAUSAL)
    queries = load_rows(query[0] + head * query[2], rows, query[1], kept_rows, WIDTH, PADDED)
    total = tl.zeros((TILE, PADDED), tl.float32)
    largest = tl.full((TILE,), float("-inf"), tl.float32)
    weight = tl.zeros((TILE,), tl.float32)
    # the bias takes registers that operands which stay the same would be kept in
    biased: tl.constexpr = bias[0] is not None or TIME > 0 or DISTANCE > 0
    for start in tl.range(tl.min(first, 0) // TILE * TILE, tl.max(after, 0), TILE, disable_licm=biased):
        keys = start + tl.arange(0, TILE)
        kept_keys = keys < events
        k = load_rows(key[0] + head * key[2], keys, key[1], kept_keys, WIDTH, PADDED)
        v = load_rows(value[0] + head * value[2], keys, value[1], kept_keys, WIDTH, PADDED)
        scores = pair_scores(
            queries, k, rows, keys, kept_rows, kept_keys, head, bias, scale, CAUSAL, TIME, DISTANCE
        )
        seen = (keys[None, :] >= first[:, None]) & (keys[None, :] < after[:, None])
        if SILU:
            weights = tl.where(seen, scores / (1 + tl.exp(-scores)), 0.0)
        else:
            scores = tl.where(seen, scores, float("-inf"))
            higher = tl.maximum(largest, tl.max(scores, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing yet
            weights = tl.exp(scores - base[:, None])
            shrunk = tl.exp(largest - base)
            total *= shrunk[:, None]
            weight = weight * shrunk + tl.sum(weights, 1)
            largest = higher
        total = product(weights.to(v.dtype), v, total)
    if SILU:
        total *= inverse_divisor
    else:
        weight = tl.where(kept_rows, weight, 1.0)
        total /= weight[:, None]
        tl.store(lse + rows * tl.num_programs(1) + head, largest + tl.log(weight), mask=kept_rows)
    store_rows(output[0] + head * output[2], rows, output[1], kept_rows, total, WIDTH, PADDED)
