"""The best items of a catalogue, exactly, against product + topk in torch and the flat index of faiss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Case, generator, on_gpu
from chronorec import _core
from chronorec.engine.precision import Precision
from chronorec.ops import ItemAdjustment, item_topk, pack_items

DEPTH = 64
Providers = dict[str, Callable[[], object]]


def _draw(batch: int, items: int) -> tuple[Tensor, Tensor, torch.Generator]:
    draws = generator(0)
    queries = torch.randn(batch, DEPTH, generator=draws)
    return queries, torch.randn(items, DEPTH, generator=draws), draws


def topk(batch: int, items: int, k: int, precision: Precision = "float32") -> Providers:
    """Codes change only our speed: the rivals work in float32 whatever our precision, on the same answer."""
    queries, table, _ = _draw(batch, items)
    packed = pack_items(table, precision=precision)
    providers: Providers = {
        "chronorec": lambda: item_topk(queries, packed, k),
        "torch": lambda: torch.topk(queries @ table.T, k),
    }
    if importlib.util.find_spec("faiss") is not None and not on_gpu():
        import faiss

        faiss.omp_set_num_threads(_core.num_threads())
        index = faiss.IndexFlatIP(DEPTH)
        index.add(table.numpy())
        providers["faiss"] = lambda: index.search(queries.numpy(), k)
    return providers


def without_seen_items(batch: int, items: int, k: int, seen: int) -> Providers:
    """Every query leaves out the items of a history."""
    queries, table, draws = _draw(batch, items)
    packed = pack_items(table)
    taken = torch.stack([torch.randperm(items, generator=draws)[:seen].sort().values for _ in range(batch)])
    adjust = ItemAdjustment(torch.arange(batch + 1) * seen, taken.flatten())

    def in_torch() -> object:
        return torch.topk((queries @ table.T).scatter_(1, taken, -torch.inf), k)

    return {"chronorec": lambda: item_topk(queries, packed, k, adjust=adjust), "torch": in_torch}


def with_mask(batch: int, items: int, k: int, share: float) -> Providers:
    """Only a range of the catalogue is allowed, and of that every other item."""
    queries, table, _ = _draw(batch, items)
    packed = pack_items(table)
    allow = (torch.arange(items) % 2 == 0) & (torch.arange(items) < 2 * share * items)

    def in_torch() -> object:
        return torch.topk((queries @ table.T).masked_fill_(~allow, -torch.inf), k)

    return {"chronorec": lambda: item_topk(queries, packed, k, allow=allow), "torch": in_torch}


def one_request(items: int, k: int) -> Providers:
    """As the engine calls it: numpy arrays, everything allocated before."""
    generator = np.random.default_rng(0)
    query = generator.standard_normal((1, DEPTH), dtype=np.float32)
    table = generator.standard_normal((items, DEPTH), dtype=np.float32)
    packed = np.empty((-(-items // 16), DEPTH, 16), np.float32)
    _core.pack_panels(table, packed)
    scores, best = np.empty((1, k), np.float32), np.empty((1, k), np.int32)
    scratch = np.empty(_core.item_topk_scratch(1, items, DEPTH, k, 0) + 64, np.uint8)
    scratch = scratch[-scratch.ctypes.data % 64 :]
    nones = (None,) * 7

    def ours() -> None:
        _core.item_topk(query, packed, items, *nones, k, scores, best, scratch)

    def numpy_partition() -> object:
        product = table @ query[0]
        found = np.argpartition(-product, k)[:k]
        return found[np.argsort(-product[found])]

    torch_query, torch_table = torch.from_numpy(query), torch.from_numpy(table)
    in_torch = lambda: torch.topk(torch_query @ torch_table.T, k)  # noqa: E731
    return {"chronorec": ours, "torch": in_torch, "numpy": numpy_partition}


_ITEM_BYTES = {"float32": 4 * DEPTH, "bfloat16": 2 * DEPTH + 6, "int8": DEPTH + 6}


def _case(
    batch: int,
    items: int,
    k: int,
    setup: partial[Providers],
    note: str = "",
    precision: Precision = "float32",
) -> Case:
    if batch == 1:  # bound by reading the table
        work, unit = items * _ITEM_BYTES[precision], "GB/s"
    else:
        work, unit = 2 * batch * items * DEPTH, "GF/s"
    name = f"B{batch} V{items} D{DEPTH} K{k}{note}"
    on_cuda = precision == "float32" and setup.func is not one_request
    return Case("item_topk", name, "forward", precision, work, unit, setup, cuda=on_cuda)


def _plain(batch: int, items: int, k: int, precision: Precision = "float32") -> Case:
    return _case(batch, items, k, partial(topk, batch, items, k, precision), precision=precision)


CASES = [
    _case(1, 50_000, 10, partial(one_request, 50_000, 10), " numpy"),
    *(_plain(b, 1_000_000, 100) for b in (1, 16, 256)),
    *(_plain(b, 1_000_000, 100, "int8") for b in (1, 16, 256)),
    *(_plain(b, 1_000_000, 100, "bfloat16") for b in (1, 16, 256)),
    *(_plain(16, v, 100) for v in (15_625, 62_500, 250_000)),  # with a million above: linear in V
    _plain(256, 50_000, 10),
    _plain(1, 1_000_000, 10_000),
    _case(256, 50_000, 100, partial(without_seen_items, 256, 50_000, 100, 200), " without 200 seen"),
    _case(16, 1_000_000, 100, partial(with_mask, 16, 1_000_000, 100, 0.05), " 5 % allowed"),
]
