"""Attention over the edges of a graph, edge by edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

    from chronorec.ops._graph import Graph


def graph_attention(
    features: Float[Tensor, "V_src A D"],
    source_score: Float[Tensor, "V_src A"],
    destination_score: Float[Tensor, "V_dst A"],
    graph: Graph,
    *,
    edge_score: Float[Tensor, "E A"] | None = None,
    negative_slope: float = 0.2,
) -> Float[Tensor, "V_dst A D"]:
    """See :func:`chronorec.ops.graph_attention`."""
    count = len(graph.offsets) - 1
    destinations = torch.repeat_interleave(torch.arange(count), graph.offsets.diff())
    sources = graph.sources.long()
    scores = source_score[sources] + destination_score[destinations]
    if edge_score is not None:
        scores = scores + edge_score
    scores = torch.where(scores > 0, scores, negative_slope * scores)
    index = destinations[:, None].expand_as(scores)
    largest = scores.new_zeros(count, scores.shape[1])
    largest = largest.scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
    largest = torch.where(largest == -torch.inf, 0.0, largest)  # no finite score: all terms are zero
    terms = torch.exp(scores - largest[destinations])
    total = scores.new_zeros(count, scores.shape[1]).index_add(0, destinations, terms)
    weights = terms / torch.where(total == 0, 1.0, total)[destinations]
    messages = weights[:, :, None] * features[sources]
    return features.new_zeros(count, *features.shape[1:]).index_add(0, destinations, messages)
