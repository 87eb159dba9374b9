"""Scores of listed candidates against a gather and a product in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import Case, generator
from chronorec.ops import item_score, pack_items

DEPTH, ITEMS = 64, 50_000
Providers = dict[str, Callable[[], object]]


def score(batch: int, listed: int, packed: bool) -> Providers:
    draws = generator(0)
    queries = torch.randn(batch, DEPTH, generator=draws)
    table = torch.randn(ITEMS, DEPTH, generator=draws)
    ours = pack_items(table) if packed else table
    items = torch.randint(0, ITEMS, (batch, listed), generator=draws)
    flat, offsets = items.flatten(), torch.arange(batch + 1) * listed
    if batch == 1:
        query = queries[0]
        in_torch = lambda: table[flat] @ query  # noqa: E731
    else:
        in_torch = lambda: torch.bmm(table[items], queries.unsqueeze(2))  # noqa: E731
    return {"chronorec": lambda: item_score(queries, ours, flat, item_offsets=offsets), "torch": in_torch}


def _case(batch: int, listed: int, packed: bool = False) -> Case:
    name = f"B{batch} V{ITEMS} D{DEPTH} {listed} listed" + (" packed" if packed else "")
    work = 2 * batch * listed * DEPTH
    setup = partial(score, batch, listed, packed)
    return Case("item_score", name, "forward", "float32", work, "GF/s", setup, cuda=False)


CASES = [
    _case(1, 100),
    _case(1, 200),
    _case(256, 200),
    _case(1, 100, packed=True),
    _case(256, 200, packed=True),
]
