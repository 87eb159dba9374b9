"""The exact rank of one target per query against a chunked product and comparison in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, generator
from chronorec.ops import ItemAdjustment, item_rank, pack_items

DEPTH = 64
CHUNK_SCORES = 1 << 26  # what torch may store at once: 256 MB
Providers = dict[str, Callable[[], object]]


def rank(queries_count: int, items: int, seen: int) -> Providers:
    draws = generator(0)
    queries = torch.randn(queries_count, DEPTH, generator=draws)
    table = torch.randn(items, DEPTH, generator=draws)
    packed = pack_items(table)
    targets = torch.randint(0, items, (queries_count,), generator=draws)
    taken, adjust = None, None
    if seen > 0:
        stride = items // seen
        first = torch.randint(0, stride, (queries_count, 1), generator=draws)
        taken = first + stride * torch.arange(seen)
        adjust = ItemAdjustment(torch.arange(queries_count + 1) * seen, taken.flatten())

    def in_torch() -> list[tuple[Tensor, Tensor]]:
        counts = []
        step = max(1, CHUNK_SCORES // items)
        for start in range(0, queries_count, step):
            rows = slice(start, start + step)
            scores = queries[rows] @ table.T
            if taken is not None:
                scores.scatter_(1, taken[rows], -torch.inf)
            own = scores.gather(1, targets[rows].unsqueeze(1))
            counts.append(((scores > own).sum(1), (scores == own).sum(1) - 1))
        return counts

    return {"chronorec": lambda: item_rank(queries, packed, targets, adjust=adjust), "torch": in_torch}


def rank_many(queries_count: int, items: int, each: int) -> Providers:
    """Several targets per query, as where everything after a point in time is asked for."""
    draws = generator(0)
    queries = torch.randn(queries_count, DEPTH, generator=draws)
    table = torch.randn(items, DEPTH, generator=draws)
    packed = pack_items(table)
    targets = torch.randint(0, items, (queries_count, each), generator=draws)
    offsets, flat = torch.arange(queries_count + 1) * each, targets.flatten()

    def in_torch() -> list[tuple[Tensor, Tensor]]:
        counts = []
        step = max(1, CHUNK_SCORES // (items * each))
        for start in range(0, queries_count, step):
            rows = slice(start, start + step)
            scores = queries[rows] @ table.T
            own = scores.gather(1, targets[rows]).unsqueeze(2)
            scores = scores.unsqueeze(1)
            counts.append(((scores > own).sum(2), (scores == own).sum(2) - 1))
        return counts

    return {"chronorec": lambda: item_rank(queries, packed, flat, target_offsets=offsets), "torch": in_torch}


def _case(queries: int, items: int, seen: int = 0) -> Case:
    name = f"B{queries} V{items} D{DEPTH}" + (f" without {seen} seen" if seen else "")
    setup = partial(rank, queries, items, seen)
    return Case("item_rank", name, "forward", "float32", 2 * queries * items * DEPTH, "GF/s", setup)


CASES = [
    _case(6040, 3_400),
    _case(6040, 3_400, seen=165),
    _case(6040, 50_000),
    _case(604, 1_000_000),  # a tenth of the users: torch takes half a minute for all
    Case(
        "item_rank",
        f"B604 V50000 D{DEPTH} 50 targets each",
        "forward",
        "float32",
        2 * 604 * 50_000 * DEPTH,
        "GF/s",
        partial(rank_many, 604, 50_000, 50),
    ),
]
