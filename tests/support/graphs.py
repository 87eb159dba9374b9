"""Graphs that break kernels, and random ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chronorec.ops import Graph, make_graph
from tests.support.jagged import offsets_of

# around the lane widths, empty rows at both ends, and one row of several parts (of 2048 edges)
DEGREES = [0, 1, 2, 3, 7, 8, 9, 0, 0, 15, 16, 17, 63, 64, 65, 129, 5000, 1, 500, 1000, 0]

# The same for the CUDA kernels, whose parts are stretches of PART edges of the whole matrix: the row of six
# fills them exactly, those behind it meet theirs at the tail and at the head.
PART = 256
PART_DEGREES = [0, 1, 2, 3, 0, 0, 7, 8, 31, 32, 33, 255, 256, 257, 139, 1536, 650, 5, 450, 0]


def random_graph(
    degrees: Sequence[int], num_sources: int, *, ids: torch.dtype = torch.int32, seed: int = 0
) -> Graph:
    """Destinations with these numbers of edges, from random sources: duplicates and self loops among them."""
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randint(max(num_sources, 1), (sum(degrees),), generator=generator)
    return make_graph(offsets_of(list(degrees)), sources.to(ids), num_sources)


def destinations_of(graph: Graph) -> Tensor:
    """The destination of each edge, in the order of the graph."""
    return torch.repeat_interleave(torch.arange(graph.num_destinations), graph.offsets.diff())


def permuted(graph: Graph, destination_order: Tensor, source_order: Tensor) -> tuple[Graph, Tensor]:
    """The graph whose nodes i are the nodes order[i], and which edge of the old one each of its edges is."""
    ends = graph.offsets
    edges = torch.cat(
        [torch.arange(int(ends[v]), int(ends[v + 1])) for v in destination_order.tolist()]
        or [torch.empty(0, dtype=torch.int64)]
    )
    rank = torch.empty_like(source_order)
    rank[source_order] = torch.arange(len(source_order))
    sources = rank[graph.sources[edges].long()].to(graph.sources.dtype)
    offsets = offsets_of(ends.diff()[destination_order].tolist())
    return make_graph(offsets, sources, graph.num_sources), edges
