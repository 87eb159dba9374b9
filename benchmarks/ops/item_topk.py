"""The best items of a catalogue, exactly, against product + topk in torch and the flat index of faiss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case
from chronorec import _core
from chronorec.ops import ItemAdjustment, item_topk, pack_items

DEPTH = 64
Providers = dict[str, Callable[[], object]]


def topk(batch: int, items: int, k: int) -> Providers:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(batch, DEPTH, generator=generator)
    table = torch.randn(items, DEPTH, generator=generator)
    packed = pack_items(table)
    providers: Providers = {
        "chronorec": lambda: item_topk(queries, packed, k),
        "torch": lambda: torch.topk(queries @ table.T, k),
    }
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(_core.num_threads())
        index = faiss.IndexFlatIP(DEPTH)
        index.add(table.numpy())
        providers["faiss"] = lambda: index.search(queries.numpy(), k)
    return providers


def without_seen_items(batch: int, items: int, k: int, seen: int) -> Providers:
    """Every query leaves out the items of a history."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(batch, DEPTH, generator=generator)
    table = torch.randn(items, DEPTH, generator=generator)
    packed = pack_items(table)
    taken = torch.stack(
        [torch.randperm(items, generator=generator)[:seen].sort().values for _ in range(batch)]
    )
    adjust = ItemAdjustment(torch.arange(batch + 1) * seen, taken.flatten())

    def in_torch() -> object:
        return torch.topk((queries @ table.T).scatter_(1, taken, -torch.inf), k)

    return {"chronorec": lambda: item_topk(queries, packed, k, adjust=adjust), "torch": in_torch}


def one_request(items: int, k: int) -> Providers:
    """As the engine calls it: numpy arrays, everything allocated before."""
    generator = np.random.default_rng(0)
    query = generator.standard_normal((1, DEPTH), dtype=np.float32)
    table = generator.standard_normal((items, DEPTH), dtype=np.float32)
    packed = np.empty((-(-items // 16), DEPTH, 16), np.float32)
    _core.pack_panels(table, packed)
    scores, best = np.empty((1, k), np.float32), np.empty((1, k), np.int32)
    scratch = np.empty(_core.item_topk_scratch(1, items, DEPTH, k), np.uint8)

    def ours() -> None:
        _core.item_topk(query, packed, items, None, None, None, None, k, scores, best, scratch)

    def numpy_partition() -> object:
        product = table @ query[0]
        found = np.argpartition(-product, k)[:k]
        return found[np.argsort(-product[found])]

    torch_query, torch_table = torch.from_numpy(query), torch.from_numpy(table)
    in_torch = lambda: torch.topk(torch_query @ torch_table.T, k)  # noqa: E731
    return {"chronorec": ours, "torch": in_torch, "numpy": numpy_partition}


def _case(batch: int, items: int, k: int, setup: Callable[[], Providers], note: str = "") -> Case:
    if batch == 1:  # bound by reading the table
        work, unit = items * DEPTH * 4, "GB/s"
    else:
        work, unit = 2 * batch * items * DEPTH, "GF/s"
    return Case(
        "item_topk", f"B{batch} V{items} D{DEPTH} K{k}{note}", "forward", "float32", work, unit, setup
    )


CASES = [
    _case(1, 50_000, 10, partial(one_request, 50_000, 10), " numpy"),
    *(_case(b, 1_000_000, 100, partial(topk, b, 1_000_000, 100)) for b in (1, 16, 256)),
    _case(256, 50_000, 10, partial(topk, 256, 50_000, 10)),
    _case(1, 1_000_000, 10_000, partial(topk, 1, 1_000_000, 10_000)),
    _case(256, 50_000, 100, partial(without_seen_items, 256, 50_000, 100, 200), " without 200 seen"),
]
