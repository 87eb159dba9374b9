"""The properties of tests/ops/test_graph_attention.py, by the CUDA kernels on the SIMT layer."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronorec.ops import graph_attention
from tests.ops import test_graph_attention as properties
from tests.ops.test_graph_attention import DTYPES, assert_matches_reference, make_inputs, with_gradients
from tests.simt.module import SimtModule
from tests.support.graphs import PART, PART_DEGREES, random_graph

SEEDS = [1, 2, 3]


@pytest.fixture(autouse=True)
def cuda(seeded_module: SimtModule, monkeypatch: pytest.MonkeyPatch) -> SimtModule:
    source = importlib.import_module("chronorec.ops.graph_attention")
    monkeypatch.setattr(source, "backend", lambda tensor: seeded_module)
    return seeded_module


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_edges", [False, True])
def test_matches_reference(with_edges: bool, dtype: torch.dtype, cuda: SimtModule) -> None:
    for seed, (heads, width, ids) in enumerate([(4, 16, torch.int32), (3, 7, torch.int64)]):
        cuda.seed(seed)
        graph = random_graph(PART_DEGREES, 40, ids=ids)
        assert_matches_reference(graph, heads, width, dtype, with_edges)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "width"),
    [(1, 1), (1, 4), (1, 64), (1, 264), (2, 130), (3, 24), (4, 17), (8, 8), (6, 15), (17, 3), (33, 9)],
)
def test_any_width_and_head_count(heads: int, width: int, dtype: torch.dtype) -> None:
    assert_matches_reference(random_graph([3, 0, 40, 2, 300], 9), heads, width, dtype)


@pytest.mark.parametrize(
    ("degrees", "num_sources"),
    [
        *[([], 0), ([], 3), ([0, 0, 0], 0), ([0, 0], 4), ([1], 1), ([700], 2)],
        *[([0, PART, 0, PART + 1, 255], 7), ([1, *[0] * 300, 2, *[0] * 90, 1], 3)],
    ],
)
@pytest.mark.parametrize("heads", [3, 17])
def test_edges_of_the_domain(degrees: list[int], num_sources: int, heads: int) -> None:
    properties.test_edges_of_the_domain(degrees, num_sources, heads, torch.float32)


def test_no_heads() -> None:
    properties.test_no_heads()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    degrees=st.lists(st.one_of(st.integers(0, 30), st.integers(PART - 6, 3 * PART)), max_size=8),
    num_sources=st.integers(1, 30),
    heads=st.integers(1, 9),
    width=st.integers(1, 20),
    with_edges=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    ids=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 5),
)
def test_random_graphs(
    cuda: SimtModule,
    degrees: list[int],
    num_sources: int,
    heads: int,
    width: int,
    with_edges: bool,
    dtype: torch.dtype,
    ids: torch.dtype,
    seed: int,
) -> None:
    cuda.seed(seed)
    graph = random_graph(degrees, num_sources, ids=ids, seed=seed)
    assert_matches_reference(graph, heads, width, dtype, with_edges)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(4, 8), (2, 3)])
def test_bitwise_same_in_every_order_of_threads(
    heads: int, width: int, dtype: torch.dtype, cuda: SimtModule
) -> None:
    graph = random_graph(PART_DEGREES, 5)  # few sources: the rows of the transpose are long too
    inputs = make_inputs(graph, heads, width, dtype)
    cuda.seed(0)
    expected = with_gradients(graph_attention, graph, inputs)
    for seed in SEEDS:
        cuda.seed(seed)
        for actual, e in zip(with_gradients(graph_attention, graph, inputs), expected, strict=True):
            assert torch.equal(actual, e)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_negative_slope(slope: float) -> None:
    graph = random_graph([0, 9, PART + 20, 4], 20)
    assert_matches_reference(graph, 2, 8, torch.float32, negative_slope=slope)


def test_equal_scores_give_the_mean() -> None:
    properties.test_equal_scores_give_the_mean()


def test_rising_scores_move_the_maximum() -> None:
    properties.test_rising_scores_move_the_maximum_across_blocks()


def test_masked_edges_count_for_nothing() -> None:
    properties.test_masked_edges_count_for_nothing()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_stays_with_its_edges(which: int, bad: float) -> None:
    properties.test_what_is_not_finite_stays_with_its_edges(which, bad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    properties.test_strides_do_not_matter(dtype)


def test_expanded_gradient() -> None:
    properties.test_expanded_gradient()


def test_only_wanted_gradients() -> None:
    properties.test_only_wanted_gradients()


def test_large_scores_stay_finite() -> None:
    properties.test_large_scores_stay_finite()


def test_errors_name_the_argument(cuda: SimtModule) -> None:
    x, offsets, ids = torch.zeros(4, 2, 8), torch.tensor([0, 2]), torch.tensor([0, 3])
    scratch = torch.empty(cuda.graph_attention_scratch(1, 2, 2, 8), dtype=torch.uint8)
    outputs = torch.empty(1, 2, 8), torch.empty(1, 2, 2)
    good: list[Any] = [x, torch.zeros(4, 2), torch.zeros(1, 2), None, offsets, ids, 0.2, *outputs, scratch]
    cuda.graph_attention_forward(*good)
    bad = {
        0: (x.double(), "features: wanted float32, got float64"),
        1: (torch.zeros(3, 2), r"source_score: wanted shape \[4, 2\], got \[3, 2\]"),
        2: (torch.zeros(1, 2).bfloat16(), "destination_score: wanted float32, got bfloat16"),
        3: (torch.zeros(2, 3), r"edge_score: wanted shape \[2, 2\], got \[2, 3\]"),
        4: (offsets.int(), "offsets: wanted int64"),
        7: (torch.empty(2, 2, 8), r"output: wanted shape \[1, 2, 8\], got \[2, 2, 8\]"),
        9: (scratch[:-64], "scratch: wanted at least"),
    }
    for place, (value, message) in bad.items():
        with pytest.raises(RuntimeError, match=message):
            cuda.graph_attention_forward(*good[:place], value, *good[place + 1 :])
    with pytest.raises(RuntimeError, match="features: wanted contiguous rows"):
        cuda.graph_attention_forward(torch.zeros(4, 2, 16)[:, :, :8], *good[1:])
