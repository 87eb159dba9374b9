"""graph_attention against PyG's GATConv without its linear projection, on a user-item graph.

Both are given projected features and scores: scores per edge, softmax and aggregation are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case, Provider, generator
from benchmarks.ops._graphs import bipartite
from chronorec.ops import Graph, graph_attention

SMALL = 600, 800, 6_000


def pyg_rival(graph: Graph, heads: int, width: int) -> dict[str, Callable[..., Tensor]]:
    """GATConv's own message passing, edges sorted by destination (its fastest order)."""
    try:
        from torch_geometric.nn import GATConv
    except ImportError:
        return {}
    layer = GATConv(heads * width, width, heads, add_self_loops=False, bias=False)
    rows = torch.repeat_interleave(graph.offsets.diff())
    edges = torch.stack([graph.sources.long(), rows])

    def attend(features: Tensor, source_score: Tensor, destination_score: Tensor) -> Tensor:
        scores: Any = source_score, destination_score
        weights = layer.edge_updater(edges, alpha=scores, edge_attr=None, size=None)
        output: Tensor = layer.propagate(edges, x=(features, features), alpha=weights, size=None)
        return output

    return {"pyg GATConv": attend}


def torch_rival(graph: Graph) -> dict[str, Callable[..., Tensor]]:
    """Softmax by segments and a sparse product per head."""
    rows, sources = torch.repeat_interleave(graph.offsets.diff()), graph.sources.long()
    size = graph.num_destinations, graph.num_sources

    def attend(features: Tensor, source_score: Tensor, destination_score: Tensor) -> Tensor:
        scores = torch.nn.functional.leaky_relu(source_score[sources] + destination_score[rows], 0.2)
        top = torch.segment_reduce(scores.detach(), "max", offsets=graph.offsets, axis=0, initial=0.0)
        terms = (scores - top[rows]).exp()
        total = torch.zeros_like(destination_score).index_add(0, rows, terms)
        weights = terms / total[rows]
        outputs = [
            torch.sparse_csr_tensor(graph.offsets, sources, weights[:, a].contiguous(), size) @ features[:, a]
            for a in range(features.shape[1])
        ]
        return torch.stack(outputs, 1)

    return {"torch sparse csr per head": attend}


def run(attend: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor | None) -> Provider:
    if grad is None:
        return lambda: attend(*inputs)
    leaves = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(attend(*leaves), leaves, grad)


def setup(
    sizes: tuple[int, ...], heads: int, width: int, dtype: torch.dtype, backward: bool
) -> dict[str, Provider]:
    graph = bipartite(*sizes)
    draws = generator(0)
    nodes = graph.num_destinations
    features = torch.randn(nodes, heads, width, generator=draws)
    source_score, destination_score = torch.randn(2, nodes, heads, generator=draws)
    grad = torch.randn(nodes, heads, width, generator=draws) if backward else None
    scores = [source_score, destination_score]

    def ours(features: Tensor, source_score: Tensor, destination_score: Tensor) -> Tensor:
        return graph_attention(features, source_score, destination_score, graph)

    narrow = None if grad is None else grad.to(dtype)
    providers = {"chronorec": run(ours, [features.to(dtype), *scores], narrow)}
    rivals = pyg_rival(graph, heads, width)
    if not backward:
        rivals |= torch_rival(graph)
    suffix = "" if dtype == torch.float32 else " float32"
    for name, rival in rivals.items():
        providers[name + suffix] = run(rival, [features, *scores], grad)
    if dtype == torch.bfloat16:
        for name, rival in pyg_rival(graph, heads, width).items():
            providers[name] = run(rival, [x.to(dtype) for x in (features, *scores)], narrow)
    return providers


def cases(
    name: str, sizes: tuple[int, ...], heads: int, width: int, dtype: torch.dtype = torch.float32
) -> list[Case]:
    users, items, edges = sizes or (29_858, 40_981, 1_027_370)
    size, columns = dtype.itemsize, heads * width
    # a row, its scores and an index for each edge, one write of the result
    forward = 2 * edges * (columns * size + heads * 4 + 4) + (users + items) * columns * size
    # the same with more per row, and the scores' gradients written and read once
    backward = forward + 2 * edges * heads * (12 + 8)
    return [
        Case(
            op="graph_attention",
            name=f"{name} A{heads} D{width}",
            mode=mode,
            dtype=str(dtype).removeprefix("torch."),
            work=work,
            unit="GB/s",
            setup=partial(setup, sizes, heads, width, dtype, mode != "forward"),
        )
        for mode, work in (("forward", forward), ("forward+backward", forward + backward))
    ]


CASES: list[Case] = [
    *cases("gowalla-like", (), 4, 16),
    *cases("gowalla-like", (), 4, 16, torch.bfloat16),
    *cases("gowalla-like", (), 8, 8),
    *cases("gowalla-like", (), 1, 64),
    *cases("small", SMALL, 4, 16),
]
