"""Aggregation over the edges of a graph, message by message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

    from chronorec.ops._graph import Graph


def graph_aggregate(
    features: Float[Tensor, "V_src D"],
    graph: Graph,
    weight: Float[Tensor, " E"] | None = None,
    *,
    reduce: Literal["sum", "mean", "max"] = "sum",
    normalize: Literal["none", "symmetric"] = "none",
) -> Float[Tensor, "V_dst D"]:
    """See :func:`chronorec.ops.graph_aggregate`."""
    degrees = graph.offsets.diff()
    destinations = torch.repeat_interleave(torch.arange(len(degrees)), degrees)
    sources = graph.sources.long()
    messages = features[sources]
    if weight is not None:
        messages = messages * weight[:, None]
    if normalize == "symmetric":
        product = degrees[destinations] * graph.transposed_offsets.diff()[sources]
        messages = messages * product.to(features.dtype).rsqrt()[:, None]
    if reduce == "max":
        return _first_max(messages, destinations, graph.offsets)
    total = features.new_zeros(len(degrees), features.shape[1]).index_add(0, destinations, messages)
    if reduce == "mean":
        total = total / degrees.clamp(min=1).to(features.dtype)[:, None]
    return total


def _first_max(messages: Tensor, destinations: Tensor, offsets: Tensor) -> Tensor:
    """Largest message per destination; its gradient goes to the first of equal messages."""
    output = messages.new_zeros(len(offsets) - 1, messages.shape[1])
    index = destinations[:, None].expand_as(messages)
    largest = output.scatter_reduce(0, index, messages.detach(), "amax", include_self=False)[destinations]
    same = (messages == largest) | (messages.isnan() & largest.isnan())
    place = torch.arange(len(messages))[:, None].where(same, len(messages))
    first = torch.full_like(output, len(messages), dtype=torch.int64)
    first = first.scatter_reduce(0, index, place, "amin")
    padded = torch.cat([messages, messages.new_zeros(1, messages.shape[1])])  # the last row: no edge
    return padded.gather(0, first)
