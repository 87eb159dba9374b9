"""item_topk on a GPU. The best k items lie in the k groups of items whose best item is best.

So one pass over the items keeps the best of every group of 32, the k best groups are chosen, and only their
items are scored again, by the same tiles, so to the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops.triton._item_scores import (
    QUERIES,
    Scoring,
    adjusted_scores,
    own_scores,
    plain_scores,
)
from chronorec.ops.triton._tiles import launch

_GROUP = 32
_LIMIT = 1 << 25  # keys in memory at once: 256 MB
_RESULTS = 128  # of a query that are written at a time


def topk(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Scores [B, k], descending, ties by ascending item, and items int64 [B, k]; -inf and -1 for none."""
    *scoring, _codes, _code_facts, k = arguments
    parts = Scoring(*scoring)
    batch, groups = parts.queries.shape[0], triton.cdiv(parts.num_items, _GROUP)
    chosen = min(k, groups)
    found = min(k, chosen * _GROUP)
    scores = torch.empty((batch, k), device=parts.queries.device)
    items = torch.empty((batch, k), dtype=torch.int64, device=parts.queries.device)
    step = max(_LIMIT // max(groups, chosen * _GROUP, 1) // QUERIES, 1) * QUERIES
    for first in range(0, batch, step):
        some = min(step, batch - first)
        best = items  # of nothing, where there is no item
        if found:
            best = _best_keys(parts, first, some, groups, chosen).topk(found).values
        results, tiles = (scores[first:], items[first:], best), triton.cdiv(k, _RESULTS)
        launch(_results, (some, tiles), scores, *results, found, k, RESULTS=_RESULTS, num_warps=1)
    return scores, items


def _best_keys(parts: Scoring, first: int, batch: int, groups: int, chosen: int) -> Tensor:
    """Keys [batch, chosen groups * 32] that hold the best items of each query from ``first`` on."""
    like = parts.queries
    of_groups = torch.empty((batch, groups), dtype=torch.int64, device=like.device)
    numbers = parts.num_items, first, batch
    constants = {"GROUP": _GROUP, **parts.constants()}
    tiles = triton.cdiv(batch, QUERIES), triton.cdiv(parts.num_items, parts.items_of_tile())
    launch(
        _group_bests,
        tiles,
        like,
        *parts.arguments(),
        of_groups,
        groups,
        *numbers,
        QUERIES=QUERIES,
        **constants,
    )
    best = of_groups.topk(chosen, sorted=False).indices
    keys = torch.empty((batch, chosen * _GROUP), dtype=torch.int64, device=like.device)
    launch(
        _score_groups, (batch, chosen * _GROUP // QUERIES), like,
        *parts.arguments(), best, chosen, keys, *numbers, QUERIES=QUERIES, **constants,
    )  # fmt: skip
    return keys


@triton.jit
def _key(scores, items):
    """A whole number that is larger the better the score, and for equal ones the smaller the item."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # -0 is as good as 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - items).to(tl.int64)


@triton.jit
def _group_bests(
    queries, panels, bias, adjust, allow, of_groups, groups, num_items, first, batch,
    QUERIES: tl.constexpr, ITEMS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    PANEL: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    items = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    kept, kept_items = row < batch, items < num_items
    query = first + row
    scores = plain_scores(queries, panels, bias, query, items, kept, kept_items, WIDTH, CHUNK, PANEL)
    scores = adjusted_scores(scores, adjust, allow, query, items, kept, kept_items, SEARCH)
    keys = tl.reshape(_key(scores, items[:, None]), (ITEMS // GROUP, GROUP, QUERIES))
    group = tl.program_id(1) * (ITEMS // GROUP) + tl.arange(0, ITEMS // GROUP)
    places = row.to(tl.int64)[None, :] * groups + group[:, None]
    tl.store(of_groups + places, tl.max(keys, 1), mask=kept[None, :] & (group < groups)[:, None])


@triton.jit
def _score_groups(
    queries, panels, bias, adjust, allow, best, chosen, keys, num_items, first, batch,
    QUERIES: tl.constexpr, ITEMS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    PANEL: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    place = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    group = tl.load(best + row * chosen + place // GROUP).to(tl.int32)
    item = group * GROUP + place % GROUP
    kept = item < num_items
    query = tl.full((QUERIES,), 0, tl.int32) + first + row
    scores = own_scores(
        queries, panels, bias, adjust, allow, query, item, kept, ITEMS, WIDTH, CHUNK, PANEL, SEARCH
    )
    tl.store(keys + row.to(tl.int64) * chosen * GROUP + place, _key(scores, item))


@triton.jit
def _results(scores, items, keys, found, k, RESULTS: tl.constexpr):
    """Score and item of each key of a query; -inf and -1 for what is taken out or not there."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * RESULTS + tl.arange(0, RESULTS)
    there = place < found
    key = tl.load(keys + row * found + place, mask=there, other=0)
    high = (key >> 32).to(tl.int32)
    score = (high ^ ((high >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    score = tl.where(there, score, float("-inf"))
    item = 0x7FFFFFFF - (key & 0xFFFFFFFF)
    tl.store(scores + row * k + place, score, mask=place < k)
    tl.store(items + row * k + place, tl.where(score > float("-inf"), item, -1), mask=place < k)
