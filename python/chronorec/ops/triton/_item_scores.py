"""Scores of a tile of items for a tile of queries: the same numbers in item_topk and item_rank.

A call has one shape of tile, so that a score is the same sum in the same order wherever it computes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops._memory import rows
from chronorec.ops.triton._tiles import bisection_steps, count_not_above, product

QUERIES = 32  # of a tile


class Scoring(NamedTuple):
    """What makes up a score, in the order of the ops' schema, and whether queries have lists of targets."""

    queries: Tensor
    panels: Tensor
    num_items: int
    bias: Tensor | None
    adjust_offsets: Tensor | None
    adjust_items: Tensor | None
    adjust_values: Tensor | None
    allow: Tensor | None
    targets_listed: bool = False

    def arguments(self) -> tuple[Any, ...]:
        """(queries, stride), (table, strides of a panel and of the width, panel), bias, adjust, allow."""
        queries, panels, allow = rows(self.queries), self.panels.contiguous(), None
        if self.allow is not None:
            flat = self.allow.dim() == 1
            allow = self.allow, 0 if flat else self.allow.stride(0), self.allow.stride(-1)
        adjust = None
        if self.adjust_offsets is not None and self.adjust_items is not None:
            values = None if self.adjust_values is None else self.adjust_values.contiguous()
            adjust = self.adjust_offsets.contiguous(), self.adjust_items.contiguous(), values
        bias = None if self.bias is None else self.bias.contiguous()
        return (queries, queries.stride(0)), panels, bias, adjust, allow

    def constants(self) -> dict[str, Any]:
        width = self.queries.shape[1]
        listed = 0 if self.adjust_items is None else self.adjust_items.shape[0]
        narrow = torch.float32 not in (self.queries.dtype, self.panels.dtype)
        return {
            "WIDTH": width,
            "CHUNK": min(64 if narrow else 32, max(16, triton.next_power_of_2(width))),
            "PANEL": self.panels.shape[2],
            "SEARCH": bisection_steps(listed),
            "ITEMS": self.items_of_tile(),
            "num_warps": 4 if self._is_plain() else 8,
            "num_stages": 2,
            # ptxas would rather spill a little than run fewer warps
            "maxnreg": None if narrow and self._is_plain() else 255,
        }

    def _is_plain(self) -> bool:
        return self.adjust_items is None and self.allow is None and not self.targets_listed

    def items_of_tile(self) -> int:
        """Lists and masks need registers of their own."""
        return 128 if self._is_plain() else 64


@triton.jit
def plain_scores(
    queries, panels, bias, query, items, kept_queries, kept_items,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, PANEL: tl.constexpr,
):  # fmt: skip
    """table . query + bias, [items, queries], before any adjustment."""
    scores = tl.zeros((items.shape[0], query.shape[0]), tl.float32)
    places = (items // PANEL).to(tl.int64) * (WIDTH * PANEL) + items % PANEL
    for start in range(0, WIDTH, CHUNK):
        lanes = start + tl.arange(0, CHUNK)
        inside = lanes < WIDTH
        rows = tl.load(
            panels + places[:, None] + (lanes * PANEL)[None, :],
            mask=kept_items[:, None] & inside[None, :],
            other=0.0,
        )
        vectors = tl.load(
            queries[0] + query.to(tl.int64)[None, :] * queries[1] + lanes[:, None],
            mask=kept_queries[None, :] & inside[:, None],
            other=0.0,
        )
        if rows.dtype != vectors.dtype:
            rows, vectors = rows.to(tl.float32), vectors.to(tl.float32)
        scores = product(rows, vectors, scores)
    if bias is not None:
        scores += tl.load(bias + items, mask=kept_items, other=0.0).to(tl.float32)[:, None]
    return scores


@triton.jit
def adjusted_scores(scores, adjust, allow, query, items, kept_queries, kept_items, SEARCH: tl.constexpr):
    """Scores of consecutive items after the queries' own additions, -inf where taken out or not kept."""
    if SEARCH > 0:
        first = tl.load(adjust[0] + query, mask=kept_queries, other=0)
        after = tl.load(adjust[0] + query + 1, mask=kept_queries, other=0)
        count = (after - first).to(tl.int32)
        lowest = tl.min(items, 0)
        place = count_not_above(adjust[1] + first, count, lowest, SEARCH, EQUAL=False)
        end = count_not_above(adjust[1] + first, count, lowest + items.shape[0], SEARCH, EQUAL=False)
        for step in range(tl.max(end - place, 0)):
            here = place + step < end
            at = first + place + step
            item = tl.load(adjust[1] + at, mask=here, other=-1).to(tl.int32)
            added = tl.full(at.shape, float("-inf"), tl.float32)
            if adjust[2] is not None:
                added = tl.load(adjust[2] + at, mask=here, other=0.0).to(tl.float32)
            scores = tl.where(items[:, None] == item[None, :], scores + added[None, :], scores)
    kept = kept_items[:, None] & kept_queries[None, :]
    if allow is not None:
        places = query.to(tl.int64)[None, :] * allow[1] + items.to(tl.int64)[:, None] * allow[2]
        kept = kept & (tl.load(allow[0] + places, mask=kept, other=0) != 0)
    return tl.where(kept & (scores > float("-inf")), scores, float("-inf"))


@triton.jit
def own_scores(
    queries, panels, bias, adjust, allow, query, item, kept, ITEMS: tl.constexpr,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, PANEL: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    """One item's score per query, -inf where it is taken out: the diagonal of a tile of the usual shape."""
    lanes = tl.arange(0, ITEMS)
    chosen = lanes[:, None] == tl.arange(0, query.shape[0])[None, :]
    items = tl.sum(tl.where(chosen, item[None, :], 0), 1)
    kept_items = tl.sum(tl.where(chosen, kept[None, :].to(tl.int32), 0), 1) != 0
    scores = plain_scores(queries, panels, bias, query, items, kept, kept_items, WIDTH, CHUNK, PANEL)
    own = tl.sum(tl.where(chosen, scores, 0.0), 0)
    if SEARCH > 0:
        first = tl.load(adjust[0] + query, mask=kept, other=0)
        after = tl.load(adjust[0] + query + 1, mask=kept, other=0)
        count = (after - first).to(tl.int32)
        place = count_not_above(adjust[1] + first, count, item, SEARCH, EQUAL=False)
        found = tl.load(adjust[1] + first + place, mask=place < count, other=-1) == item
        added = tl.full(own.shape, float("-inf"), tl.float32)
        if adjust[2] is not None:
            added = tl.load(adjust[2] + first + place, mask=found, other=0.0).to(tl.float32)
        own = tl.where(found, own + added, own)
    if allow is not None:
        place = query.to(tl.int64) * allow[1] + item.to(tl.int64) * allow[2]
        kept = kept & (tl.load(allow[0] + place, mask=kept, other=0) != 0)
    return tl.where(kept & (own > float("-inf")), own, float("-inf"))
