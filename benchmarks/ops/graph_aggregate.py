"""graph_aggregate against torch's sparse CSR product and PyG's cached one, on a user-item graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case, Provider, generator
from benchmarks.ops._graphs import bipartite
from chronorec.ops import Graph, graph_aggregate

SMALL = 600, 800, 6_000
KINDS: dict[str, dict[str, Any]] = {
    "symmetric": {"normalize": "symmetric"},
    "weighted": {},
    "mean": {"reduce": "mean"},
    "max": {"reduce": "max"},
}
TORCH_REDUCE = {"symmetric": "sum", "weighted": "sum", "mean": "mean", "max": "amax"}


def values_of(graph: Graph, kind: str) -> Tensor:
    """The values of the sparse matrix that makes a rival compute the same."""
    if kind == "symmetric":
        rows = graph.destination_scale.repeat_interleave(graph.offsets.diff())
        return rows * graph.source_scale[graph.sources.long()]
    if kind == "weighted":
        return torch.rand(graph.num_edges, generator=generator(1))
    return torch.ones(graph.num_edges)


def run(aggregate: Callable[[Tensor], Tensor], features: Tensor, grad: Tensor | None) -> Provider:
    if grad is None:
        return lambda: aggregate(features)
    leaf = features.detach().requires_grad_()
    return lambda: torch.autograd.grad(aggregate(leaf), leaf, grad)


def torch_rivals(graph: Graph, kind: str, values: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The product with both index types, and the one that takes a reduction where it is differentiable."""
    size = graph.num_destinations, graph.num_sources
    wide = torch.sparse_csr_tensor(graph.offsets, graph.sources.long(), values, size)
    if TORCH_REDUCE[kind] != "sum":
        return {"torch sparse csr": lambda x: torch.sparse.mm(wide, x, TORCH_REDUCE[kind])}
    rivals: dict[str, Callable[[Tensor], Tensor]] = {
        "torch sparse csr reduce": lambda x: torch.sparse.mm(wide, x, "sum")
    }
    if values.dtype == torch.float32:
        narrow = torch.sparse_csr_tensor(graph.offsets.int(), graph.sources, values, size)
        rivals["torch sparse csr int32"] = lambda x: torch.sparse.mm(narrow, x)
        rivals["torch sparse csr int64"] = lambda x: torch.sparse.mm(wide, x)
    return rivals


def pyg_rival(graph: Graph, values: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """PyG's EdgeIndex, which keeps the transpose for its backward as ours does."""
    try:
        from torch_geometric import EdgeIndex
    except ImportError:
        return {}
    rows = torch.repeat_interleave(graph.offsets.diff())
    size = graph.num_destinations, graph.num_sources
    index = EdgeIndex(torch.stack([rows, graph.sources.long()]), sparse_size=size, sort_order="row")
    index.fill_cache_()
    return {"pyg EdgeIndex": lambda x: index.matmul(x, values)}


def setup(
    sizes: tuple[int, ...], kind: str, width: int, dtype: torch.dtype, backward: bool
) -> dict[str, Provider]:
    graph = bipartite(*sizes)
    draws = generator(0)
    features = torch.randn(graph.num_sources, width, generator=draws)
    grad = torch.randn(graph.num_destinations, width, generator=draws) if backward else None
    narrow = features.to(dtype), None if grad is None else grad.to(dtype)
    values = values_of(graph, kind)
    weight = values if kind == "weighted" else None
    providers = {"chronorec": run(lambda x: graph_aggregate(x, graph, weight, **KINDS[kind]), *narrow)}
    rivals = torch_rivals(graph, kind, values)
    if kind in ("symmetric", "weighted"):
        rivals |= pyg_rival(graph, values)
    if dtype == torch.float32:
        return providers | {name: run(rival, features, grad) for name, rival in rivals.items()}
    providers |= {f"{name} float32": run(rival, features, grad) for name, rival in rivals.items()}
    if not backward:
        in_dtype = torch_rivals(graph, kind, values.to(dtype))
        providers |= {name: run(rival, *narrow) for name, rival in in_dtype.items()}
    return providers


def cases(
    name: str,
    sizes: tuple[int, ...],
    kind: str,
    width: int,
    dtype: torch.dtype = torch.float32,
    modes: tuple[str, ...] = ("forward", "forward+backward"),
) -> list[Case]:
    users, items, edges = sizes or (29_858, 40_981, 1_027_370)
    size = dtype.itemsize
    one_way = 2 * edges * (width * size + 4) + (users + items) * width * size
    return [
        Case(
            op="graph_aggregate",
            name=f"{name} {kind} D{width}",
            mode=mode,
            dtype=str(dtype).removeprefix("torch."),
            work=one_way * (1 if mode == "forward" else 2),
            unit="GB/s",
            setup=partial(setup, sizes, kind, width, dtype, mode != "forward"),
        )
        for mode in modes
    ]


CASES: list[Case] = [
    *cases("gowalla-like", (), "symmetric", 64),
    *cases("gowalla-like", (), "symmetric", 64, torch.bfloat16),
    *cases("gowalla-like", (), "weighted", 64, modes=("forward",)),
    *cases("gowalla-like", (), "mean", 64, modes=("forward",)),
    *cases("gowalla-like", (), "max", 64, modes=("forward",)),
    *cases("gowalla-like", (), "symmetric", 16),
    *cases("gowalla-like", (), "symmetric", 128, modes=("forward",)),
    *cases("small", SMALL, "symmetric", 64),
]
