"""Graph layers: propagation and attention over the neighbours of a node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chronorec.ops import Graph, graph_aggregate, graph_attention


class GraphConvolution(nn.Module):
    """Symmetrically normalised propagation ``D^-1/2 A D^-1/2 X``, with a linear map first if sizes are given.

    With sizes this is the layer of GCN (Kipf and Welling, 2017) without its activation; self loops are edges
    of the graph. Without sizes it has no parameters: the layer of LightGCN (He et al., 2020).

    Args:
        input_size, output_size: widths of the linear map; none: no map.
        bias: whether the output gets a bias; needs sizes.
    """

    def __init__(
        self, input_size: int | None = None, output_size: int | None = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        if (input_size is None) != (output_size is None):
            raise ValueError(f"output_size: wanted one like input_size={input_size}, got {output_size}")
        self.linear: nn.Linear | None = None
        self.bias: nn.Parameter | None = None
        if input_size is not None and output_size is not None:
            self.linear = nn.Linear(input_size, output_size, bias=False)
            nn.init.xavier_uniform_(self.linear.weight)
            self.bias = nn.Parameter(torch.zeros(output_size)) if bias else None

    def forward(self, features: Tensor, graph: Graph, weight: Tensor | None = None) -> Tensor:
        """features [V_src, D], weight float32 [E] or none -> [V_dst, D] or [V_dst, output_size]."""
        if self.linear is not None:
            features = self.linear(features)
        output = graph_aggregate(features, graph, weight, normalize="symmetric")
        return output if self.bias is None else output + self.bias.to(output.dtype)


class GraphAttention(nn.Module):
    """Multi-head attention over the neighbours of a node: the layer of GAT (Velickovic et al., 2018).

    Features are projected per head; the score of an edge is a learned function of its two ends. The output
    puts the heads side by side; the activation is the caller's.

    Args:
        input_size: width of the features.
        width: width D of a head.
        heads: number A of heads.
        negative_slope: of the leaky ReLU of the scores.
        bias: whether the output gets a bias.
    """

    def __init__(
        self, input_size: int, width: int, heads: int = 1, *, negative_slope: float = 0.2, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.negative_slope = heads, negative_slope
        self.linear = nn.Linear(input_size, heads * width, bias=False)
        self.source = nn.Parameter(torch.empty(heads, width))
        self.destination = nn.Parameter(torch.empty(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads * width)) if bias else None
        for weight in (self.linear.weight, self.source, self.destination):
            nn.init.xavier_uniform_(weight)

    def forward(
        self,
        features: Tensor,
        graph: Graph,
        *,
        destinations: Tensor | None = None,
        edge_score: Tensor | None = None,
    ) -> Tensor:
        """Attends once.

        Args:
            features: [V_src, input_size].
            graph: its destinations are the same nodes unless ``destinations`` says otherwise.
            destinations: [V_dst, input_size], the features of the destinations.
            edge_score: float32 [E, heads], added to the scores.

        Returns:
            [V_dst, heads * width].
        """
        projected = self.linear(features).unflatten(1, (self.heads, -1))
        ends = projected if destinations is None else self.linear(destinations).unflatten(1, (self.heads, -1))
        output = graph_attention(
            projected,
            (projected.float() * self.source).sum(-1),
            (ends.float() * self.destination).sum(-1),
            graph,
            edge_score=edge_score,
            negative_slope=self.negative_slope,
        ).flatten(1)
        return output if self.bias is None else output + self.bias.to(output.dtype)
