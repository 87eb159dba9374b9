"""jagged_attention's backward on a GPU: one kernel by rows, one by keys, and the tables' partial sums.

The kernel by rows also sums the gradients of the tables over its own pairs. These partial sums lie in memory
per tile of rows and are added up in order afterwards, so runs agree bitwise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops.triton._attention import (
    Form,
    distance_bucket,
    pair_scores,
    pair_weights,
    seeing_rows,
    seen_keys,
    strided,
    tiling,
    time_bucket,
)
from chronorec.ops.triton._tiles import bisection_steps, jagged_bounds, launch, load_rows, product, store_rows


def backward(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value, and of the three tables: empty where there is no table."""
    *form, output, lse = rest
    shape = Form(*form)
    events, heads, width = query.shape
    bias = shape.bias()
    biased = bias != (None, None, None)
    tile, warps = tiling(width, query.dtype, biased=biased)
    tiles = triton.cdiv(events, tile)
    grads = [torch.empty(query.shape, dtype=query.dtype, device=query.device) for _ in range(3)]
    delta = torch.empty_like(lse)
    partial = _partial_sums(shape, tiles, tile, heads, query)
    inputs = (*strided(query, key, value, grad_output), lse, delta, shape.sequences(), bias)
    numbers = (events, *shape.pairs(events))
    if biased:
        warps *= 2  # the sums and the bias in fewer threads would spill
    constants = {**shape.constants(width, tile), "num_warps": warps, "num_stages": 1}
    of_query, *of_key_value = strided(*grads)
    by_rows = (*inputs, *strided(output), of_query, partial, *numbers)
    launch(_by_rows, (tiles, heads), query, *by_rows, **constants)
    if shape.silu:
        constants["maxnreg"] = 255  # ptxas would rather spill a little than run fewer warps
    launch(_by_keys, (tiles, heads), query, *inputs, *of_key_value, *numbers, **constants)
    return (*grads, *_table_gradients(shape, partial, tile, query))


def _partial_sums(shape: Form, tiles: int, tile: int, heads: int, like: Tensor) -> tuple[Any, Any, Any]:
    """Per tile of rows and head: sums by gap, beyond the gaps of the table last; by time; by distance."""

    def buckets(boundaries: Tensor | None) -> Tensor | None:
        if boundaries is None:
            return None
        columns = 1 << bisection_steps(boundaries.shape[0])
        return like.new_empty(tiles, heads, columns, dtype=torch.float32)

    position = None
    if shape.position is not None:
        below, above = _gap_tiles(shape, tile)
        sums = like.new_zeros(tiles, heads, below + above + 1, 2 * tile, dtype=torch.float32)
        position = sums, below, above
    return position, buckets(shape.time_boundaries), buckets(shape.distance_boundaries)


def _gap_tiles(shape: Form, tile: int) -> tuple[int, int]:
    """How many tiles of gaps below 0, and from 0 on, hold columns of their own of the position table."""
    assert shape.position is not None
    columns = shape.position.shape[1]
    half = 0 if shape.causal else columns // 2
    return triton.cdiv(half, tile), triton.cdiv(columns - half, tile) + 1


def _table_gradients(shape: Form, partial: tuple[Any, Any, Any], tile: int, like: Tensor) -> list[Tensor]:
    position, *by_bucket = partial
    grads = [like.new_empty((), dtype=torch.float32)]
    if position is not None and shape.position is not None:
        grads = [_by_column(position[0].sum(0), shape, tile)]
    for sums, table in zip(by_bucket, (shape.time_table, shape.distance_table), strict=True):
        if sums is None or table is None:
            grads.append(like.new_empty((), dtype=torch.float32))
        else:
            grads.append(sums.sum(0)[:, : table.shape[1]].contiguous())
    return grads


def _by_column(sums: Tensor, shape: Form, tile: int) -> Tensor:
    """Sums by tile of gaps [A, below + above + 1, 2 tile] -> by column of the position table [A, columns].

    Neighbouring tiles of gaps overlap by half. The last entry holds what lies beyond either end.
    """
    assert shape.position is not None
    below, _ = _gap_tiles(shape, tile)
    columns = shape.position.shape[1]
    tiles, beyond = sums[:, :-1], sums[:, -1]
    lower, upper = tiles[..., :tile].flatten(1), tiles[..., tile:].flatten(1)
    gaps = F.pad(lower, (0, tile)) + F.pad(upper, (tile, 0))  # the first is gap -(below + 1) tile
    first = (below + 1) * tile - (0 if shape.causal else columns // 2)
    grad = gaps[:, first : first + columns].contiguous()
    grad[:, 0] += gaps[:, :first].sum(1) + beyond[:, 0]
    grad[:, -1] += gaps[:, first + columns :].sum(1) + beyond[:, 1]
    return grad


@triton.jit
def _bucket_sums(sums, gradients, seen, buckets):
    """sums[b] plus the gradients of the pairs in bucket b, for the buckets that occur."""
    columns = tl.arange(0, sums.shape[0])
    lowest = tl.min(tl.where(seen, buckets, sums.shape[0]))
    highest = tl.max(tl.where(seen, buckets, -1))
    for bucket in range(lowest, highest + 1):
        found = tl.sum(tl.where(buckets == bucket, gradients, 0.0))
        sums = tl.where(columns == bucket, sums + found, sums)
    return sums


@triton.jit
def _gap_sums(gradients, TILE: tl.constexpr):
    """Sums along the diagonals of a tile: entry g is of the gap g - TILE between row and column."""
    rows = tl.arange(0, TILE)[:, None]
    columns = rows + TILE - tl.arange(0, 2 * TILE)[None, :]
    inside = (columns >= 0) & (columns < TILE)
    turned = tl.gather(gradients, tl.minimum(tl.maximum(columns, 0), TILE - 1), 1)
    return tl.sum(tl.where(inside, turned, 0.0), 0)


@triton.jit
def _by_rows(
    query, key, value, grad_output, lse, delta, sequences, bias, output, grad_query, partial,
    events, scale, inverse_divisor, window,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, SILU: tl.constexpr,
    SEARCH: tl.constexpr, TIME: tl.constexpr, DISTANCE: tl.constexpr,
):  # fmt: skip
    head, heads = tl.program_id(1), tl.num_programs(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    kept_rows = rows < events
    begin, end = jagged_bounds(sequences[0], sequences[1], tl.minimum(rows, events - 1), SEARCH)
    first, after = seen_keys(rows, begin, end, window, CAUSAL)
    after = tl.where(kept_rows, after, 0)
    queries = load_rows(query[0] + head * query[2], rows, query[1], kept_rows, WIDTH, PADDED)
    grads = load_rows(grad_output[0] + head * grad_output[2], rows, grad_output[1], kept_rows, WIDTH, PADDED)
    own_lse = tl.zeros((TILE,), tl.float32)
    own_delta = tl.zeros((TILE,), tl.float32)
    if not SILU:
        outputs = load_rows(output[0] + head * output[2], rows, output[1], kept_rows, WIDTH, PADDED)
        # by a tile like that of the pairs: a row that sees one key gets a gradient of exactly zero
        products = product(grads, tl.trans(outputs), tl.zeros((TILE, TILE), tl.float32))
        own = tl.arange(0, TILE)[:, None] == tl.arange(0, TILE)[None, :]
        own_delta = tl.sum(tl.where(own, products, 0.0), 1)
        own_lse = tl.load(lse + rows * heads + head, mask=kept_rows, other=0.0)
        tl.store(delta + rows * heads + head, own_delta, mask=kept_rows)
    by_gap, by_time, by_distance = partial
    slot = tl.program_id(0).to(tl.int64) * heads + head
    time_sums = tl.zeros((1 << TIME,), tl.float32)
    distance_sums = tl.zeros((1 << DISTANCE,), tl.float32)
    beyond = tl.zeros((2,), tl.float32)
    total = tl.zeros((TILE, PADDED), tl.float32)
    # ptxas keeps operands that stay the same in registers, and these grow scarce
    scarce: tl.constexpr = TILE * PADDED > 1024 or bias[0] is not None or TIME > 0 or DISTANCE > 0
    for start in tl.range(tl.min(first, 0) // TILE * TILE, tl.max(after, 0), TILE, disable_licm=scarce):
        keys = start + tl.arange(0, TILE)
        kept_keys = keys < events
        k = load_rows(key[0] + head * key[2], keys, key[1], kept_keys, WIDTH, PADDED)
        v = load_rows(value[0] + head * value[2], keys, value[1], kept_keys, WIDTH, PADDED)
        scores = pair_scores(
            queries, k, rows, keys, kept_rows, kept_keys, head, bias, scale, CAUSAL, TIME, DISTANCE
        )
        seen = (keys[None, :] >= first[:, None]) & (keys[None, :] < after[:, None])
        _, slope = pair_weights(scores, seen, own_lse, SILU)
        products = product(grads, tl.trans(v), tl.zeros((TILE, TILE), tl.float32))
        change = tl.where(seen, slope * (products - own_delta[:, None]), 0.0)
        if SILU:
            change *= inverse_divisor
        if by_gap is not None:
            sums = by_gap[0] + slot * (by_gap[1] + by_gap[2] + 1) * 2 * TILE
            step = tl.program_id(0) - start // TILE
            if (step >= -by_gap[1]) & (step < by_gap[2]):
                place = (step + by_gap[1]) * 2 * TILE + tl.arange(0, 2 * TILE)
                tl.store(sums + place, _gap_sums(change, TILE))
            else:
                beyond += tl.where(tl.arange(0, 2) == (step >= 0).to(tl.int32), tl.sum(change), 0.0)
        if by_time is not None:
            buckets = time_bucket(bias[1], rows, keys, kept_rows, kept_keys, TIME)
            time_sums = _bucket_sums(time_sums, change, seen, buckets)
        if by_distance is not None:
            buckets = distance_bucket(bias[2], rows, keys, kept_rows, kept_keys, DISTANCE)
            distance_sums = _bucket_sums(distance_sums, change, seen, buckets)
        total = product(change.to(k.dtype), k, total)
    if by_gap is not None:
        place = ((slot + 1) * (by_gap[1] + by_gap[2] + 1) - 1) * 2 * TILE + tl.arange(0, 2)
        tl.store(by_gap[0] + place, beyond)
    if by_time is not None:
        tl.store(by_time + (slot << TIME) + tl.arange(0, 1 << TIME), time_sums)
    if by_distance is not None:
        tl.store(by_distance + (slot << DISTANCE) + tl.arange(0, 1 << DISTANCE), distance_sums)
    store_rows(
        grad_query[0] + head * grad_query[2], rows, grad_query[1], kept_rows, total * scale, WIDTH, PADDED
    )


@triton.jit
def _by_keys(
    query, key, value, grad_output, lse, delta, sequences, bias, grad_key, grad_value,
    events, scale, inverse_divisor, window,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, SILU: tl.constexpr,
    SEARCH: tl.constexpr, TIME: tl.constexpr, DISTANCE: tl.constexpr,
):  # fmt: skip
    head, heads = tl.program_id(1), tl.num_programs(1)
    keys = tl.program_id(0) * TILE + tl.arange(0, TILE)
    kept_keys = keys < events
    begin, end = jagged_bounds(sequences[0], sequences[1], tl.minimum(keys, events - 1), SEARCH)
    first, after = seeing_rows(keys, begin, end, window, CAUSAL)
    after = tl.where(kept_keys, after, 0)
    k = load_rows(key[0] + head * key[2], keys, key[1], kept_keys, WIDTH, PADDED)
    v = load_rows(value[0] + head * value[2], keys, value[1], kept_keys, WIDTH, PADDED)
    of_key = tl.zeros((TILE, PADDED), tl.float32)
    of_value = tl.zeros((TILE, PADDED), tl.float32)
    for start in range(tl.min(first, 0), tl.max(after, 0), TILE):
        rows = start + tl.arange(0, TILE)
        kept_rows = rows < events
        queries = load_rows(query[0] + head * query[2], rows, query[1], kept_rows, WIDTH, PADDED)
        grads = load_rows(
            grad_output[0] + head * grad_output[2], rows, grad_output[1], kept_rows, WIDTH, PADDED
        )
        row_lse = tl.zeros((TILE,), tl.float32)
        row_delta = tl.zeros((TILE,), tl.float32)
        if not SILU:
            row_lse = tl.load(lse + rows * heads + head, mask=kept_rows, other=0.0)
            row_delta = tl.load(delta + rows * heads + head, mask=kept_rows, other=0.0)
        scores = pair_scores(
            queries, k, rows, keys, kept_rows, kept_keys, head, bias, scale, CAUSAL, TIME, DISTANCE
        )
        seen = (rows[:, None] >= first[None, :]) & (rows[:, None] < after[None, :])
        weights, slope = pair_weights(scores, seen, row_lse, SILU)
        of_value = product(tl.trans(weights.to(grads.dtype)), grads, of_value)
        products = product(grads, tl.trans(v), tl.zeros((TILE, TILE), tl.float32))
        change = tl.where(seen, slope * (products - row_delta[:, None]), 0.0)
        of_key = product(tl.trans(change.to(queries.dtype)), queries, of_key)
    if SILU:
        of_key *= inverse_divisor
        of_value *= inverse_divisor
    store_rows(grad_key[0] + head * grad_key[2], keys, grad_key[1], kept_keys, of_key * scale, WIDTH, PADDED)
    store_rows(grad_value[0] + head * grad_value[2], keys, grad_value[1], kept_keys, of_value, WIDTH, PADDED)
