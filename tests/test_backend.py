"""The way of a CUDA tensor through the public functions, as far as it goes without a GPU."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from chronorec.ops import (
    _backend,
    _check,
    graph_aggregate,
    graph_attention,
    item_cross_entropy,
    item_rank,
    item_topk,
    jagged_attention,
    make_graph,
    pack_items,
)
from chronorec.ops._graph import Graph
from tests.support.graphs import random_graph
from tests.support.recurrent import CELLS, Cell


def on_fake_gpu(graph: Graph) -> Graph:
    return Graph(*(torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in graph))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_fake_cuda_tensors(reduce: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "HAS_CUDA", True)
    real = random_graph([3, 0, 5], 4)
    with FakeTensorMode():
        features = torch.empty(4, 8, device="cuda")
        output = graph_aggregate(features, on_fake_gpu(real), reduce=reduce)
        assert (output.device.type, output.shape) == ("cuda", (3, 8))
        scores = torch.empty(4, 2, device="cuda"), torch.empty(3, 2, device="cuda")
        output = graph_attention(features.view(4, 2, 4), *scores, on_fake_gpu(real))
        assert (output.device.type, output.shape) == ("cuda", (3, 2, 4))


def test_refused_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "HAS_CUDA", False)
    real = random_graph([3, 0, 5], 4)
    with FakeTensorMode():
        graph = on_fake_gpu(real)
        with pytest.raises(NotImplementedError, match="features: device cuda:0 has no kernel in this build"):
            graph_aggregate(torch.empty(4, 8, device="cuda"), graph)
        with pytest.raises(NotImplementedError, match="offsets: device cuda:0 has no kernel in this build"):
            make_graph(graph.offsets, graph.sources, 4)


def test_functions_take_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    module = SimpleNamespace(
        graph_sum=lambda *arguments: calls.append(arguments), graph_scratch=lambda *sizes: sum(sizes)
    )
    monkeypatch.setitem(sys.modules, "chronorec._cuda", module)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(calls.append((device,))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(_backend, "_on_stream", _backend._OnStream)  # nothing of this test is kept
    with FakeTensorMode():
        backend = _backend.backend(torch.empty(1, device="cuda"))
    entered = (torch.device("cuda:0"),)
    for current, expected in ((0, [("x", None, 7)]), (1, [entered, entered, ("x", None, 7)])):
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        assert backend.graph_scratch(1, 2, 3) == 6
        backend.graph_sum("x", None)
        assert calls == expected
        calls.clear()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.raw)
def test_recurrent_layers_take_cuda_tensors(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "HAS_CUDA", True)
    real = cell.inputs([3, 0, 5], 6, 10)
    with FakeTensorMode():
        values, offsets, *weights = (torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in real)
        output, *final = cell.run(values, offsets, *weights)
        assert (output.device.type, output.shape, len(final)) == ("cuda", (8, 10), len(cell.states))
        packed = cell.pack(*weights[:4])
        assert packed.weight_hh.shape == real[3].shape
        stepped = cell.step(torch.empty(3, 6, device="cuda"), weights[4:], packed)
        assert stepped[0].shape == (3, 10)
        with pytest.raises(NotImplementedError, match="precision: int8 has no CUDA kernel"):
            cell.pack(*weights[:4], precision="int8")


def test_attention_and_items_take_cuda_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "HAS_TRITON", True)
    with FakeTensorMode():
        query = torch.empty(9, 2, 8, device="cuda")
        offsets = torch.empty(3, dtype=torch.int64, device="cuda")
        assert jagged_attention(query, query, query, offsets).device.type == "cuda"
        queries, table = torch.empty(5, 8, device="cuda"), torch.empty(30, 8, device="cuda")
        assert item_topk(queries, table, 4).items.shape == (5, 4)
        assert item_rank(queries, table, offsets.new_empty(5)).greater.device.type == "cuda"
        targets = offsets.new_empty(5)
        assert item_cross_entropy(queries, table, targets).shape == ()
        negatives = offsets.new_empty(5, 7)
        assert item_cross_entropy(queries, table, targets, negatives=negatives, loss="bpr").shape == ()
        with pytest.raises(NotImplementedError, match="precision: wanted 'float32' on cuda:0, got 'int8'"):
            pack_items(table, precision="int8")


def test_attention_and_items_are_refused_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "HAS_TRITON", False)
    with FakeTensorMode():
        query = torch.empty(9, 2, 8, device="cuda")
        offsets = torch.empty(3, dtype=torch.int64, device="cuda")
        with pytest.raises(NotImplementedError, match="query: device cuda:0 has no kernel in this build"):
            jagged_attention(query, query, query, offsets)
        with pytest.raises(NotImplementedError, match="table: device cuda:0 has no kernel in this build"):
            item_topk(torch.empty(5, 8), torch.empty(30, 8, device="cuda"), 4)
