"""Scores of listed candidates against a gather and a product in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import Case
from chronorec.ops import item_score, pack_items

DEPTH, ITEMS = 64, 50_000
Providers = dict[str, Callable[[], object]]


def score(batch: int, listed: int) -> Providers:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(batch, DEPTH, generator=generator)
    table = torch.randn(ITEMS, DEPTH, generator=generator)
    packed = pack_items(table)
    items = torch.randint(0, ITEMS, (batch, listed), generator=generator)
    flat, offsets = items.flatten(), torch.arange(batch + 1) * listed
    return {
        "chronorec": lambda: item_score(queries, packed, flat, item_offsets=offsets),
        "torch": lambda: torch.bmm(table[items], queries.unsqueeze(2)),
    }


def _case(batch: int, listed: int) -> Case:
    name = f"B{batch} V{ITEMS} D{DEPTH} {listed} listed"
    work = 2 * batch * listed * DEPTH
    return Case("item_score", name, "forward", "float32", work, "GF/s", partial(score, batch, listed))


CASES = [_case(1, 200), _case(256, 200)]
