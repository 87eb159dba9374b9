"""Queries, catalogues and adjustments for the tests of item_topk, item_rank and item_score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops import ItemAdjustment
from tests.support.jagged import offsets_of


def integers(*shape: int, seed: int = 0, high: int = 2) -> Tensor:
    """Small whole numbers: every sum of products is exact in float32, and ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, shape, generator=generator).float()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adjustment(batch: int, items: int, most: int, *, values: bool = True, seed: int = 0) -> ItemAdjustment:
    """Up to ``most`` random items per query, some of them taken out."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randperm(items, generator=generator)[: int(torch.randint(0, most + 1, (), generator=generator))]
        for _ in range(batch)
    ]
    ids = torch.cat([row.sort().values for row in rows] or [torch.empty(0, dtype=torch.int64)])
    added = torch.randint(-3, 4, ids.shape, generator=generator).float()
    added = torch.where(added == -3, -torch.inf, added)
    return ItemAdjustment(offsets_of([len(row) for row in rows]), ids, added if values else None)


def masks(batch: int, items: int) -> list[Tensor]:
    """What is allowed: [V] and [B, V], dense and in few runs, strided, expanded, everything and nothing."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(batch, items, generator=generator) < 0.5
    runs = torch.zeros(batch, items, dtype=torch.bool)
    for row in range(batch):
        runs[row, 700 * (row % 5) : 700 * (row % 5) + row] = True
    runs[:, -1] = True
    wide = torch.rand(items, 2 * batch, generator=generator) < 0.1
    nothing = torch.zeros(items, dtype=torch.bool)
    return [dense, runs, dense[0], runs[-1], wide.T[::2], dense[1].expand(batch, items), ~nothing, nothing]


def query(adjust: ItemAdjustment | None, row: int) -> ItemAdjustment | None:
    """The adjustment of one query alone."""
    if adjust is None:
        return None
    start, end = adjust.offsets[row : row + 2].tolist()
    values = None if adjust.values is None else adjust.values[start:end]
    return ItemAdjustment(torch.tensor([0, end - start]), adjust.items[start:end], values)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = _core.num_threads()
    _core.set_num_threads(count)
    try:
        yield
    finally:
        _core.set_num_threads(before)
