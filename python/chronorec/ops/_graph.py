"""A graph in compressed rows and its transpose: what graph_aggregate and graph_attention run over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import check_same_device_or_cuda, check_tensor
from chronorec.ops._memory import scratch

if TYPE_CHECKING:
    from jaxtyping import Int, Int64

_IDS = (torch.int32, torch.int64)


class Graph(NamedTuple):
    """Edges from V_src source nodes to V_dst destination nodes, made by :func:`make_graph`.

    The edges of destination ``v`` are ``offsets[v]:offsets[v + 1]``; this order is *the* order of edges, in
    which edge weights and edge scores come. The transpose lists the same edges by source, so that a gradient
    of the sources is a gather too.

    Attributes:
        offsets: int64 [V_dst + 1].
        sources: int32 or int64 [E]: the source of each edge.
        transposed_offsets: int64 [V_src + 1].
        destinations: [E], in the dtype of ``sources``: by source, the destination of each edge.
        edges: [E], in the dtype of ``sources``: by source, which edge it is; ascending within a source.
        destination_scale, source_scale: float32 [V_dst] and [V_src]: 1 / sqrt(number of edges), 0 without.
    """

    offsets: Tensor
    sources: Tensor
    transposed_offsets: Tensor
    destinations: Tensor
    edges: Tensor
    destination_scale: Tensor
    source_scale: Tensor

    @property
    def num_destinations(self) -> int:
        """V_dst."""
        return self.destination_scale.shape[0]

    @property
    def num_sources(self) -> int:
        """V_src."""
        return self.source_scale.shape[0]

    @property
    def num_edges(self) -> int:
        """E."""
        return self.sources.shape[0]


def make_graph(
    offsets: Int64[Tensor, " V_dst+1"], sources: Int[Tensor, " E"], num_sources: int | None = None
) -> Graph:
    """Checks a graph in compressed rows and transposes it (a parallel counting sort), once for many calls.

    Edges may be listed in any order within a destination, more than once, and from a node to itself. From an
    edge list ``source, destination``: ``order = destination.argsort(stable=True)``, sources are
    ``source[order]``, offsets ``destination.bincount(minlength=V_dst)`` summed up from a zero.

    Args:
        offsets: int64, ascending from 0 to E: destination ``v`` has the edges ``offsets[v]:offsets[v + 1]``.
        sources: int32 (half the memory traffic; E below 2^31) or int64, in [0, V_src).
        num_sources: V_src; by default V_dst, the nodes being the same.

    Raises:
        TypeError: wrong dtypes.
        ValueError: offsets that do not start at 0, fall, or do not end at E; a source out of range.
    """
    check_tensor(offsets, "offsets", ("V_dst+1",), torch.int64)
    check_tensor(sources, "sources", ("E",), _IDS)
    check_same_device_or_cuda(offsets=offsets, sources=sources)
    count = max(offsets.shape[0] - 1, 0) if num_sources is None else num_sources
    if count < 0:
        raise ValueError(f"num_sources: wanted at least 0, got {count}")
    offsets, sources = offsets.contiguous(), sources.contiguous()
    transpose = _transpose if sources.is_cpu else _transpose_by_torch
    transposed_offsets, destinations, edges = transpose(offsets, sources, count)
    return Graph(
        offsets,
        sources,
        transposed_offsets,
        destinations,
        edges,
        _inverse_root(offsets),
        _inverse_root(transposed_offsets),
    )


def _transpose(offsets: Tensor, sources: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    transposed_offsets = torch.empty(count + 1, dtype=torch.int64)
    destinations, edges = torch.empty_like(sources), torch.empty_like(sources)
    needed = scratch(_core.graph_transpose_scratch(count, sources.shape[0]))
    try:
        _core.graph_transpose(offsets, sources, transposed_offsets, destinations, edges, needed)
    except ValueError as error:
        raise ValueError(str(error).replace("neighbours", "sources", 1)) from None
    return transposed_offsets, destinations, edges


def _transpose_by_torch(offsets: Tensor, sources: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same on any device. Waits for the checks: kernels on a GPU cannot refuse a bad id."""
    bad = ((sources < 0) | (sources >= count)).nonzero()
    if bad.shape[0]:
        place = int(bad[0])
        came = f"got {int(sources[place])} at position {place}"
        raise ValueError(f"sources: every id must be in [0, {count}), {came}")
    if offsets.shape[0] == 0:
        raise ValueError("offsets: wanted at least one offset, got none")
    first, last, rises = int(offsets[0]), int(offsets[-1]), bool((offsets.diff() >= 0).all())
    if first != 0:
        raise ValueError(f"offsets: must start at 0, got {first}")
    if not rises:
        raise ValueError("offsets: must never fall")
    if last != sources.shape[0]:
        raise ValueError(f"offsets: must end at {sources.shape[0]}, got {last}")
    ordered, edges = sources.sort(stable=True)
    ids = torch.arange(count + 1, dtype=sources.dtype, device=sources.device)
    destinations = torch.searchsorted(offsets, edges, right=True) - 1
    return torch.searchsorted(ordered, ids), destinations.to(sources.dtype), edges.to(sources.dtype)


def _inverse_root(offsets: Tensor) -> Tensor:
    degrees = offsets.diff()
    return torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)


def check_graph(graph: Graph) -> None:
    """Raises TypeError unless this is a graph; its tensors are checked by the core."""
    if not isinstance(graph, Graph):
        raise TypeError(f"graph: wanted a Graph of make_graph, got {type(graph).__name__}")


def node_rows(x: Tensor) -> Tensor:
    """x [V, ...] with contiguous rows, which may be strided among each other."""
    inner = x[0] if x.shape[0] else x
    return x if x.stride(-1) == 1 and inner.is_contiguous() else x.contiguous()
