from __future__ import annotations

import pytest
import torch

from chronorec.nn import GraphAttention, GraphConvolution
from chronorec.ops import reference
from tests.support.graphs import random_graph


def test_convolution_without_sizes_is_the_layer_of_lightgcn() -> None:
    graph = random_graph([2, 0, 5, 3], 4)
    layer, features = GraphConvolution(), torch.randn(4, 6)
    assert not list(layer.parameters())
    expected = reference.graph_aggregate(features, graph, normalize="symmetric")
    torch.testing.assert_close(layer(features, graph), expected)


def test_convolution_maps_weighs_and_learns() -> None:
    graph = random_graph([2, 0, 5], 4)
    layer, features, weight = GraphConvolution(6, 3), torch.randn(4, 6), torch.rand(7)
    assert layer.linear is not None
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    mapped = features @ layer.linear.weight.T
    expected = reference.graph_aggregate(mapped, graph, weight, normalize="symmetric") + layer.bias
    output = layer(features, graph, weight)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert GraphConvolution(6, 3, bias=False).bias is None
    with pytest.raises(ValueError, match="output_size: wanted one like input_size=6, got None"):
        GraphConvolution(6)


@pytest.mark.parametrize("between", [False, True])
def test_attention_projects_scores_and_learns(between: bool) -> None:
    graph = random_graph([2, 0, 5, 1], 4)
    layer, features = GraphAttention(6, 3, heads=2), torch.randn(4, 6)
    destinations = torch.randn(4, 6) if between else None
    projected = layer.linear(features).view(4, 2, 3)
    ends = projected if destinations is None else layer.linear(destinations).view(4, 2, 3)
    scores = (projected * layer.source).sum(-1), (ends * layer.destination).sum(-1)
    edge_score = torch.randn(8, 2)
    expected = reference.graph_attention(projected, *scores, graph, edge_score=edge_score).flatten(1)
    output = layer(features, graph, destinations=destinations, edge_score=edge_score)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    assert layer.bias is not None
    for parameter in (layer.linear.weight, layer.source, layer.destination, layer.bias):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_layers_take_bfloat16() -> None:
    graph = random_graph([2, 0, 5, 1], 4)
    features = torch.randn(4, 6).bfloat16()
    for layer in (GraphAttention(6, 3, heads=2), GraphConvolution(6, 3)):
        narrow = layer.bfloat16()
        output = narrow(features, graph)
        assert output.dtype == torch.bfloat16
        exact = layer.float()(features.float(), graph)
        torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)
