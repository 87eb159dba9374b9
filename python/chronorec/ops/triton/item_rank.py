"""item_rank on a GPU: the score of each target first, then one pass over the items that counts."""

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
from chronorec.ops.triton._tiles import bisection_steps, count_not_above, launch

_PROGRAMS = 1024  # about how many share the items, whatever the device


def rank(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Per target, int64 [M]: how many other items score more, and how many exactly as much."""
    *scoring, targets, offsets = arguments
    parts = Scoring(*scoring)._replace(targets_listed=offsets is not None)
    greater, equal = (torch.empty_like(targets, dtype=torch.int64) for _ in range(2))
    own = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    batch, items = parts.queries.shape[0], parts.num_items
    given = parts.arguments()
    listed = targets.contiguous(), None if offsets is None else offsets.contiguous(), targets.shape[0]
    steps = 0 if offsets is None else bisection_steps(batch + 1)
    constants = {"QUERIES": QUERIES, **parts.constants()}
    results = own, greater, equal
    launch(
        _own, (triton.cdiv(targets.shape[0], QUERIES),), own,
        *given, listed, results, batch, items, OWNERS=steps, **constants,
    )  # fmt: skip
    step = parts.items_of_tile()
    groups, tiles = triton.cdiv(batch, QUERIES), triton.cdiv(items, step)
    span = triton.cdiv(tiles, max(_PROGRAMS // max(groups, 1), 1)) * step
    launch(
        _count, (groups, triton.cdiv(items, max(span, 1))), own,
        *given, listed, results, batch, items, span, **constants,
    )  # fmt: skip
    return greater, equal


@triton.jit
def _own(
    queries, panels, bias, adjust, allow, listed, results, batch, num_items,
    QUERIES: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, PANEL: tl.constexpr,
    SEARCH: tl.constexpr, OWNERS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    kept = place < listed[2]
    query = place
    if listed[1] is not None:
        query = tl.minimum(count_not_above(listed[1], batch + 1, place, OWNERS), batch) - 1
    item = tl.load(listed[0] + place, mask=kept, other=0).to(tl.int32)
    own = own_scores(
        queries, panels, bias, adjust, allow, query, item, kept, ITEMS, WIDTH, CHUNK, PANEL, SEARCH
    )
    out = own == float("-inf")
    # nothing is above NaN, nor equal to it: a target that was taken out keeps its count
    tl.store(results[0] + place, tl.where(out, float("nan"), own), mask=kept)
    tl.store(results[1] + place, tl.where(out, num_items, 0).to(tl.int64), mask=kept)
    tl.store(results[2] + place, tl.zeros(place.shape, tl.int64), mask=kept)


@triton.jit
def _count(
    queries, panels, bias, adjust, allow, listed, results, batch, num_items, span,
    QUERIES: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, PANEL: tl.constexpr,
    SEARCH: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    kept = query < batch
    first = query.to(tl.int64)
    count = tl.where(kept, 1, 0)
    if listed[1] is not None:
        first = tl.load(listed[1] + query, mask=kept, other=0)
        count = (tl.load(listed[1] + query + 1, mask=kept, other=0) - first).to(tl.int32)
    most = tl.max(count, 0)
    begin = tl.program_id(1) * span
    # lists and masks take registers that the queries would be kept in
    listing: tl.constexpr = SEARCH > 0 or allow is not None or listed[1] is not None
    for start in tl.range(begin, tl.minimum(begin + span, num_items), ITEMS, disable_licm=listing):
        items = start + tl.arange(0, ITEMS)
        kept_items = items < num_items
        scores = plain_scores(queries, panels, bias, query, items, kept, kept_items, WIDTH, CHUNK, PANEL)
        scores = adjusted_scores(scores, adjust, allow, query, items, kept, kept_items, SEARCH)
        for step in range(most):
            here = step < count
            target = tl.load(listed[0] + first + step, mask=here, other=-1).to(tl.int32)
            own = tl.load(results[0] + first + step, mask=here, other=float("nan"))
            other = items[:, None] != target[None, :]
            above = tl.sum((scores > own[None, :]).to(tl.int32), 0)
            level = tl.sum(((scores == own[None, :]) & other).to(tl.int32), 0)
            # whole numbers: whoever comes first, the sum is the same
            tl.atomic_add(results[1] + first + step, above.to(tl.int64), mask=here & (above > 0))
            tl.atomic_add(results[2] + first + step, level.to(tl.int64), mask=here & (level > 0))
