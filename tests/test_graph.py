"""A graph lists its edges twice, by destination and by source, and refuses what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chronorec.ops import graph_aggregate, make_graph
from tests.support.graphs import destinations_of, random_graph
from tests.support.items import threads
from tests.support.jagged import offsets_of


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize(("edges", "num_sources"), [(0, 0), (0, 5), (1, 1), (1000, 37), (200_000, 999)])
def test_transpose_lists_the_same_edges_by_source(edges: int, num_sources: int, ids: torch.dtype) -> None:
    degrees = [edges // 2, 0, edges - edges // 2]
    for count in (1, 3):
        with threads(count):
            graph = random_graph(degrees, num_sources, ids=ids)
        order = graph.sources.long().argsort(stable=True)
        counts = torch.bincount(graph.sources.long(), minlength=num_sources)
        assert graph.edges.dtype == graph.destinations.dtype == ids
        assert torch.equal(graph.edges.long(), order)
        assert torch.equal(graph.destinations.long(), destinations_of(graph)[order])
        assert torch.equal(graph.transposed_offsets, offsets_of(counts.tolist()))
        assert (graph.num_sources, graph.num_destinations, graph.num_edges) == (num_sources, 3, edges)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1])
def test_bad_sources_are_refused(bad: int, ids: torch.dtype) -> None:
    sources = torch.zeros(70_000, dtype=ids)
    sources[69_000] = bad
    message = rf"sources: every id must be in \[0, 4\), got {bad} at position 69000"
    with pytest.raises(ValueError, match=message):
        make_graph(offsets_of([70_000]), sources, 4)
    graph = make_graph(offsets_of([70_000]), torch.zeros_like(sources), 4)._replace(sources=sources)
    with pytest.raises(ValueError, match="neighbours: every id must be in"):
        graph_aggregate(torch.zeros(4, 2), graph)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0])),
            TypeError,
            "offsets: wanted torch.int64",
        ),
        (
            (torch.tensor([0, 1]), torch.tensor([0.0])),
            TypeError,
            "sources: wanted torch.int32 or torch.int64",
        ),
        ((torch.tensor([0, 1]), torch.tensor([[0]])), ValueError, "sources: wanted shape"),
        ((torch.tensor([1, 1]), torch.tensor([0])), ValueError, "offsets: must start at 0"),
        ((torch.tensor([0, 2, 1]), torch.tensor([0])), ValueError, "offsets: must never fall"),
        ((torch.tensor([0, 2]), torch.tensor([0])), ValueError, "offsets: must end at 1"),
        ((torch.tensor([0, 1]), torch.tensor([0]), -1), ValueError, "num_sources: wanted at least 0"),
        (
            (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)),
            ValueError,
            "offsets: wanted",
        ),
    ],
)
def test_make_graph_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_graph(*arguments)
