"""The properties of tests/ops/test_graph_aggregate.py, by the CUDA kernels on the SIMT layer."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronorec.ops import graph_aggregate
from tests.ops import test_graph_aggregate as properties
from tests.ops.test_graph_aggregate import (
    DTYPES,
    KINDS,
    assert_matches_reference,
    make_inputs,
    with_gradients,
)
from tests.simt.module import SimtModule
from tests.support.graphs import PART, PART_DEGREES, random_graph

SEEDS = [1, 2, 3]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))


@pytest.fixture(autouse=True)
def cuda(seeded_module: SimtModule, monkeypatch: pytest.MonkeyPatch) -> SimtModule:
    source = importlib.import_module("chronorec.ops.graph_aggregate")
    monkeypatch.setattr(source, "backend", lambda tensor: seeded_module)
    return seeded_module


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@every_kind
def test_matches_reference(
    kind: dict[str, Any], weighted: bool, dtype: torch.dtype, cuda: SimtModule
) -> None:
    for seed, (width, ids) in enumerate([(16, torch.int32), (33, torch.int64)]):
        cuda.seed(seed)
        graph = random_graph(PART_DEGREES, 40, ids=ids)
        assert_matches_reference(graph, width, dtype, weighted, **kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 4, 7, 8, 32, 64, 130, 264])
def test_any_width(width: int, dtype: torch.dtype) -> None:
    properties.test_any_width(width, dtype)


@every_kind
@pytest.mark.parametrize(
    ("degrees", "num_sources"),
    [
        *[([], 0), ([], 3), ([0, 0, 0], 0), ([0, 0], 4), ([1], 1), ([700], 2)],
        *[([0, PART, 0, PART + 1, 255], 7), ([1, *[0] * 300, 2, *[0] * 90, 1], 3)],
    ],
)
def test_edges_of_the_domain(degrees: list[int], num_sources: int, kind: dict[str, Any]) -> None:
    assert_matches_reference(random_graph(degrees, num_sources), 10, torch.float32, True, **kind)


def test_no_columns() -> None:
    properties.test_no_columns()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    degrees=st.lists(st.one_of(st.integers(0, 30), st.integers(PART - 6, 3 * PART)), max_size=8),
    num_sources=st.integers(1, 30),
    width=st.integers(1, 24),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 5),
)
def test_random_graphs(
    cuda: SimtModule,
    degrees: list[int],
    num_sources: int,
    width: int,
    kind: dict[str, Any],
    dtype: torch.dtype,
    seed: int,
) -> None:
    cuda.seed(seed)
    assert_matches_reference(random_graph(degrees, num_sources, seed=seed), width, dtype, True, **kind)


@pytest.mark.parametrize("dtype", DTYPES)
@every_kind
def test_bitwise_same_in_every_order_of_threads(
    kind: dict[str, Any], dtype: torch.dtype, cuda: SimtModule
) -> None:
    graph = random_graph(PART_DEGREES, 5)  # few sources: the rows of the transpose are long too
    inputs = make_inputs(graph, 8, dtype, True)
    cuda.seed(0)
    expected = with_gradients(graph_aggregate, graph, *inputs, **kind)
    for seed in SEEDS:
        cuda.seed(seed)
        for actual, e in zip(with_gradients(graph_aggregate, graph, *inputs, **kind), expected, strict=True):
            assert torch.equal(actual, e)


def test_first_of_equal_messages_takes_the_gradient() -> None:
    for weighted in (False, True):
        properties.test_first_of_equal_messages_takes_the_gradient(weighted)


@pytest.mark.parametrize("at", [0, PART - 1, PART, 2048, 4999])
def test_nan_wins_the_maximum(at: int) -> None:
    properties.test_nan_wins_the_maximum(at)


@every_kind
def test_what_is_not_finite_stays_with_its_edges(kind: dict[str, Any]) -> None:
    properties.test_what_is_not_finite_stays_with_its_edges(kind)


@every_kind
def test_strides_do_not_matter(kind: dict[str, Any]) -> None:
    properties.test_strides_do_not_matter(kind, torch.bfloat16)


def test_expanded_gradient() -> None:
    properties.test_expanded_gradient()


def test_errors_name_the_argument(cuda: SimtModule) -> None:
    x, offsets, ids = torch.zeros(4, 8), torch.tensor([0, 2]), torch.tensor([0, 3])
    scratch = torch.empty(cuda.graph_scratch(1, 2, 8), dtype=torch.uint8)
    good: list[Any] = [x, None, None, None, offsets, ids, None, torch.empty(1, 8), scratch]
    cuda.graph_sum(*good)
    bad = {
        0: (x.double(), "features: wanted float32, got float64"),
        1: (torch.zeros(3), r"weight: wanted shape \[2\], got \[3\]"),
        4: (offsets.int(), "offsets: wanted int64"),
        6: (ids.int(), "edges: wanted int64"),
        7: (torch.empty(2, 8), r"output: wanted shape \[1, 8\], got \[2, 8\]"),
        8: (scratch[:-64], "scratch: wanted at least"),
    }
    for place, (value, message) in bad.items():
        with pytest.raises(RuntimeError, match=message):
            cuda.graph_sum(*good[:place], value, *good[place + 1 :])
    with pytest.raises(RuntimeError, match=r"features: wanted fewer than 2\^31 rows"):
        cuda.graph_sum(torch.zeros(8).expand(2**31, 8), *good[1:])


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize(("degrees", "num_sources"), [([], 0), ([], 3), ([0, 3, 0, 0, 40, 1, 0], 9)])
def test_transpose_by_torch(degrees: list[int], num_sources: int, ids: torch.dtype) -> None:
    from chronorec.ops._graph import _transpose, _transpose_by_torch

    graph = random_graph(degrees, num_sources, ids=ids)
    arguments = graph.offsets, graph.sources, num_sources
    for actual, expected in zip(_transpose_by_torch(*arguments), _transpose(*arguments), strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("offsets", "sources"),
    [([0, 1], [4]), ([0, 1], [-1]), ([1, 1], [0]), ([0, 2, 1], [0]), ([0, 2], [0]), ([], [])],
)
def test_transpose_by_torch_refuses_what_the_core_refuses(offsets: list[int], sources: list[int]) -> None:
    from chronorec.ops._graph import _transpose, _transpose_by_torch

    messages = []
    for transpose in (_transpose, _transpose_by_torch):
        with pytest.raises(ValueError, match=r"offsets|sources") as raised:
            transpose(torch.tensor(offsets, dtype=torch.int64), torch.tensor(sources, dtype=torch.int32), 4)
        messages.append(str(raised.value))
    assert messages[0].startswith(messages[1])
