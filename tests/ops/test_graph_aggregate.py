from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import Graph, graph_aggregate, make_graph, reference
from tests.support.budget import assert_within_budget
from tests.support.graphs import DEGREES, destinations_of, permuted, random_graph
from tests.support.items import threads
from tests.support.jagged import offsets_of
from tests.support.levels import run_at_level
from tests.support.scratch import aligned_scratch, is_intact

DTYPES = [torch.float32, torch.bfloat16]
KINDS: list[dict[str, Any]] = [
    {"reduce": "sum"},
    {"reduce": "sum", "normalize": "symmetric"},
    {"reduce": "mean"},
    {"reduce": "max"},
]


def make_inputs(
    graph: Graph, width: int, dtype: torch.dtype, weighted: bool, seed: int = 0
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Features, weights that bfloat16 can hold, and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(graph.num_sources, width, generator=generator).to(dtype)
    weight = torch.randn(graph.num_edges, generator=generator).bfloat16().float() if weighted else None
    return features, weight, torch.randn(graph.num_destinations, width, generator=generator).to(dtype)


def with_gradients(
    op: Callable[..., Tensor],
    graph: Graph,
    features: Tensor,
    weight: Tensor | None,
    grad: Tensor,
    **kind: Any,
) -> list[Tensor]:
    """Output, gradient of the features, and of the weights if there are any."""
    leaves = [x.detach().requires_grad_() for x in (features, weight) if x is not None]
    output = op(leaves[0], graph, leaves[1] if len(leaves) > 1 else None, **kind)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def specification(
    dtype: torch.dtype, graph: Graph, inputs: tuple[Tensor, Tensor | None, Tensor], **kind: Any
) -> list[Tensor]:
    features, weight, grad = (None if x is None else x.to(dtype) for x in inputs)
    assert features is not None
    assert grad is not None
    return with_gradients(reference.graph_aggregate, graph, features, weight, grad, **kind)


def sizes_of(graph: Graph, inputs: tuple[Tensor, Tensor | None, Tensor], **kind: Any) -> list[Tensor] | None:
    """The sums of the absolute values of what is added up: sums cancel, a maximum does not."""
    if kind["reduce"] == "max":
        return None
    features, weight, grad = (None if x is None else x.abs() for x in inputs)
    assert features is not None
    assert grad is not None
    return specification(torch.float64, graph, (features, weight, grad), **kind)


def assert_matches_reference(
    graph: Graph, width: int, dtype: torch.dtype, weighted: bool, **kind: Any
) -> None:
    """Small graphs are drawn several times: few numbers would leave the largest error to luck."""
    draws = [
        make_inputs(graph, width, dtype, weighted, seed) for seed in range(1 if graph.num_edges > 500 else 4)
    ]
    results = [
        [with_gradients(graph_aggregate, graph, *inputs, **kind) for inputs in draws],
        [specification(dtype, graph, inputs, **kind) for inputs in draws],
        [specification(torch.float64, graph, inputs, **kind) for inputs in draws],
    ]
    sizes = [sizes_of(graph, inputs, **kind) for inputs in draws]
    assert [x.dtype for x in results[0][0]] == [dtype, dtype, torch.float32][: 2 + weighted]
    for i, name in enumerate(("output", "grad_features", "grad_weight")[: 2 + weighted]):
        actual, in_dtype, exact = (torch.cat([draw[i] for draw in result]) for result in results)
        terms = None if sizes[0] is None else torch.cat([size[i] for size in sizes if size is not None])
        assert_within_budget(actual, in_dtype, exact, name, terms=terms)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_matches_reference(
    kind: dict[str, Any], weighted: bool, ids: torch.dtype, dtype: torch.dtype
) -> None:
    assert_matches_reference(random_graph(DEGREES, 40, ids=ids), 33, dtype, weighted, **kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 15, 16, 17, 31, 64, 100, 130])
def test_any_width(width: int, dtype: torch.dtype) -> None:
    graph = random_graph([3, 0, 40, 2, 11], 9)
    for kind, weighted in itertools.product(KINDS, (False, True)):
        assert_matches_reference(graph, width, dtype, weighted, **kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
@pytest.mark.parametrize(
    ("degrees", "num_sources"),
    [([], 0), ([], 3), ([0, 0, 0], 0), ([0, 0], 4), ([1], 1), ([3000], 2), ([0, 2048, 0, 2049, 2047], 7)],
)
def test_edges_of_the_domain(
    degrees: list[int], num_sources: int, kind: dict[str, Any], dtype: torch.dtype
) -> None:
    assert_matches_reference(random_graph(degrees, num_sources), 10, dtype, True, **kind)


def test_no_columns() -> None:
    graph = random_graph([2, 0, 5], 4)
    for kind in KINDS:
        inputs = make_inputs(graph, 0, torch.float32, True)
        output, grad_features, grad_weight = with_gradients(graph_aggregate, graph, *inputs, **kind)
        assert output.shape == (3, 0)
        assert grad_features.shape == (4, 0)
        assert (grad_weight == 0).all()


@settings(max_examples=15, deadline=None)
@given(
    degrees=st.lists(st.integers(0, 30), max_size=20),
    num_sources=st.integers(1, 30),
    width=st.integers(1, 40),
    kind=st.sampled_from(KINDS),
    weighted=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    ids=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 5),
)
def test_random_graphs(
    degrees: list[int],
    num_sources: int,
    width: int,
    kind: dict[str, Any],
    weighted: bool,
    dtype: torch.dtype,
    ids: torch.dtype,
    seed: int,
) -> None:
    assert_matches_reference(
        random_graph(degrees, num_sources, ids=ids, seed=seed), width, dtype, weighted, **kind
    )


def test_symmetric_is_the_normalised_adjacency() -> None:
    graph = random_graph([2, 0, 5, 1], 4)
    dense = torch.zeros(4, 4).index_put(
        (destinations_of(graph), graph.sources.long()), torch.tensor(1.0), accumulate=True
    )
    rows, cols = (dense.sum(d).clamp(min=1).rsqrt() for d in (1, 0))
    features = make_inputs(graph, 5, torch.float32, False)[0]
    actual = graph_aggregate(features, graph, normalize="symmetric")
    torch.testing.assert_close(actual, rows[:, None] * dense * cols @ features)


@pytest.mark.parametrize("weighted", [False, True])
def test_first_of_equal_messages_takes_the_gradient(weighted: bool) -> None:
    graph = make_graph(offsets_of([3, 2500]), torch.tensor([2, 0, 0] + [1] * 2500), 3)
    features = torch.ones(3, 4, requires_grad=True)
    weight = torch.ones(2503, requires_grad=True) if weighted else None
    graph_aggregate(features, graph, weight, reduce="max").sum().backward()
    assert features.grad is not None
    assert features.grad[:, 0].tolist() == [0, 1, 1]
    if weight is not None:
        assert weight.grad is not None
        assert weight.grad.nonzero()[:, 0].tolist() == [0, 3]


@pytest.mark.parametrize("at", [0, 700, 2047, 2048, 4999])
def test_nan_wins_the_maximum(at: int) -> None:
    graph = make_graph(offsets_of([5000, 3]), torch.arange(5000).roll(1)[torch.arange(5003) % 5000], 5000)
    features = make_inputs(graph, 20, torch.float32, False)[0]
    features[graph.sources[at], 18] = torch.nan
    output = graph_aggregate(features, graph, reduce="max")
    assert output[0].isnan().nonzero().tolist() == [[18]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_what_is_not_finite_stays_with_its_edges(kind: dict[str, Any]) -> None:
    graph = random_graph(DEGREES, 300)
    features, weight, _ = make_inputs(graph, 20, torch.float32, True)
    clean = graph_aggregate(features, graph, weight, **kind)
    features[7, 17] = torch.inf
    dirty = graph_aggregate(features, graph, weight, **kind)
    touched = torch.zeros(graph.num_destinations, dtype=torch.bool)
    touched[destinations_of(graph)[graph.sources == 7]] = True
    assert 0 < touched.sum() < len(touched)
    assert torch.equal(clean[~touched], dirty[~touched])
    assert torch.equal(clean[:, :17], dirty[:, :17])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_strides_do_not_matter(kind: dict[str, Any], dtype: torch.dtype) -> None:
    graph = random_graph([4, 0, 30, 1], 12)
    features, weight, grad = make_inputs(graph, 21, dtype, True)
    assert weight is not None
    expected = with_gradients(graph_aggregate, graph, features, weight, grad, **kind)
    pad = torch.nn.functional.pad
    for change in (lambda x: pad(x, (5, 3, 2, 0))[2:, 5:-3], lambda x: x.t().contiguous().t()):
        strided = torch.stack([weight, weight], 1)[:, 0]
        actual = with_gradients(graph_aggregate, graph, change(features), strided, change(grad), **kind)
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)


def test_expanded_gradient() -> None:
    graph = random_graph([4, 0, 30, 1], 12)
    for kind in KINDS:
        features, weight, grad = make_inputs(graph, 8, torch.float32, True)
        expected = with_gradients(graph_aggregate, graph, features, weight, torch.ones_like(grad), **kind)
        one = torch.ones(()).expand_as(grad)
        actual = with_gradients(graph_aggregate, graph, features, weight, one, **kind)
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_order_of_edges_in_a_row_does_not_matter(kind: dict[str, Any]) -> None:
    graph = random_graph(DEGREES, 50)
    inputs = features, weight, grad = make_inputs(graph, 16, torch.float32, True)
    assert weight is not None
    generator = torch.Generator().manual_seed(1)
    shuffle = torch.randperm(graph.num_edges, generator=generator)
    shuffle = shuffle[destinations_of(graph)[shuffle].argsort(stable=True)]
    other = make_graph(graph.offsets, graph.sources[shuffle], 50)
    actual = with_gradients(graph_aggregate, other, features, weight[shuffle], grad, **kind)
    actual[2] = torch.empty_like(actual[2]).index_put((shuffle,), actual[2])
    in_dtype, exact = (specification(d, graph, inputs, **kind) for d in (torch.float32, torch.float64))
    for a, i, e in zip(actual, in_dtype, exact, strict=True):
        assert_within_budget(a, i, e)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_permuting_the_nodes_permutes_the_result(kind: dict[str, Any]) -> None:
    graph = random_graph(DEGREES, 50)
    features, weight, grad = make_inputs(graph, 16, torch.float32, True)
    assert weight is not None
    generator = torch.Generator().manual_seed(2)
    rows, cols = torch.randperm(len(DEGREES), generator=generator), torch.randperm(50, generator=generator)
    moved, edges = permuted(graph, rows, cols)
    expected = with_gradients(graph_aggregate, graph, features, weight, grad, **kind)
    actual = with_gradients(graph_aggregate, moved, features[cols], weight[edges], grad[rows], **kind)
    assert torch.equal(actual[0], expected[0][rows])
    assert torch.equal(actual[2], expected[2][edges])
    torch.testing.assert_close(
        actual[1], expected[1][cols], rtol=1e-4, atol=1e-4
    )  # edges come in another order


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_bitwise_deterministic_across_runs_and_threads(kind: dict[str, Any], dtype: torch.dtype) -> None:
    degrees, sources = [*DEGREES, 9000], 5  # few sources: the rows of the transpose are divided too
    inputs = make_inputs(random_graph(degrees, sources), 24, dtype, True)
    expected = with_gradients(graph_aggregate, random_graph(degrees, sources), *inputs, **kind)
    for count in (1, 2, 3, 8):
        with threads(count):
            graph = random_graph(degrees, sources)
            for a, e in zip(with_gradients(graph_aggregate, graph, *inputs, **kind), expected, strict=True):
                assert torch.equal(a, e)


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: "-".join(kind.values()))
def test_sums_can_be_differentiated_twice(kind: dict[str, Any]) -> None:
    graph = random_graph([4, 0, 9, 1], 6)
    features, weight, grad = make_inputs(graph, 7, torch.float32, True)
    assert weight is not None
    results = []
    for op, dtype in ((graph_aggregate, torch.float32), (reference.graph_aggregate, torch.float64)):
        x, w, g = (t.to(dtype).requires_grad_() for t in (features, weight, grad))
        first = torch.autograd.grad(op(x, graph, w, **kind), (x, w), g, create_graph=True)
        results.append(torch.autograd.grad(sum(t.square().sum() for t in first), (x, w, g)))
    for actual, exact in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-4)


def test_maximum_cannot_be_differentiated_twice() -> None:
    graph = random_graph([4, 0, 9, 1], 6)
    features = torch.randn(6, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(graph_aggregate(features, graph, reduce="max").sum(), features, create_graph=True)


def test_only_wanted_gradients() -> None:
    graph = random_graph([4, 0, 9, 1], 6)
    for kind in KINDS:
        features, weight, grad = make_inputs(graph, 7, torch.float32, True)
        assert weight is not None
        both = with_gradients(graph_aggregate, graph, features, weight, grad, **kind)
        for i, leaf in ((1, features), (2, weight)):
            leaf.requires_grad_()
            (alone,) = torch.autograd.grad(graph_aggregate(features, graph, weight, **kind), leaf, grad)
            leaf.requires_grad_(False)
            assert torch.equal(alone, both[i])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_reference_gradcheck(kind: dict[str, Any]) -> None:
    graph = random_graph([3, 0, 5], 4)
    features, weight, _ = make_inputs(graph, 3, torch.float32, True)
    assert weight is not None
    assert torch.autograd.gradcheck(
        lambda x, w: reference.graph_aggregate(x, graph, w, **kind),
        (features.double().requires_grad_(), weight.double().requires_grad_()),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    graph = random_graph([3, 0, 5, 20], 6)
    features, weight, grad = make_inputs(graph, 5, dtype, True)
    assert weight is not None
    for leaf in (features, weight, grad):
        leaf.requires_grad_()
    forth = graph.offsets, graph.sources
    back = graph.transposed_offsets, graph.destinations, graph.edges
    ops = torch.ops.chronorec
    scales = graph.destination_scale, graph.source_scale
    torch.library.opcheck(ops.graph_sum, (features, weight, *scales, *forth, None, *back))
    torch.library.opcheck(ops.graph_sum, (features, None, None, None, *forth, None, *back))
    torch.library.opcheck(ops.graph_sum, (grad, weight, *scales[::-1], *back, *forth, None))
    torch.library.opcheck(ops.graph_dot, (grad, features, *scales, *forth, *back))
    torch.library.opcheck(ops.graph_max, (features, weight, *forth, *back))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_compiles_whole(kind: dict[str, Any]) -> None:
    graph = random_graph([3, 0, 5, 20], 6)
    inputs = make_inputs(graph, 5, torch.float32, True)
    compiled = torch.compile(lambda x, g, w: 2 * graph_aggregate(x, g, w, **kind), fullgraph=True)
    eager = with_gradients(lambda x, g, w: 2 * graph_aggregate(x, g, w, **kind), graph, *inputs)
    for a, e in zip(with_gradients(compiled, graph, *inputs), eager, strict=True):
        torch.testing.assert_close(a, e)


def test_core_runs_on_numpy() -> None:
    graph = random_graph(DEGREES, 30)
    features = make_inputs(graph, 19, torch.float32, False)[0]
    output = np.full((len(DEGREES), 19), np.nan, np.float32)
    size = _core.graph_scratch(len(DEGREES), graph.num_edges, 19)
    scratch = aligned_scratch(size)
    arrays = [x.numpy() for x in (graph.offsets, graph.sources)]
    _core.graph_sum(features.numpy(), None, None, None, *arrays, None, output, scratch)
    assert is_intact(scratch)
    assert np.array_equal(output, graph_aggregate(features, graph).numpy())
    with pytest.raises(ValueError, match="scratch: wanted at least"):
        _core.graph_sum(features.numpy(), None, None, None, *arrays, None, output, scratch[: size - 64])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": torch.zeros(4, 2, dtype=torch.float64)},
            TypeError,
            "features: wanted torch.float32 or",
        ),
        ({"features": torch.zeros(3, 2)}, ValueError, r"features: wanted shape \[4 x D\]"),
        ({"features": torch.zeros(4, 2, device="meta")}, ValueError, "sources: wanted device"),
        ({"graph": (1, 2)}, TypeError, "graph: wanted a Graph of make_graph, got tuple"),
        ({"weight": torch.zeros(4)}, ValueError, r"weight: wanted shape \[5\]"),
        ({"weight": torch.zeros(5, dtype=torch.bfloat16)}, TypeError, "weight: wanted torch.float32"),
        ({"reduce": "min"}, ValueError, "reduce: wanted 'sum', 'mean' or 'max', got 'min'"),
        ({"normalize": "rows"}, ValueError, "normalize: wanted 'none' or 'symmetric', got 'rows'"),
        ({"reduce": "mean", "normalize": "symmetric"}, ValueError, "normalize: wanted 'none' with reduce"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"features": torch.zeros(4, 2), "graph": random_graph([2, 3], 4)}
    with pytest.raises(error, match=message):
        graph_aggregate(**{**good, **change})


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_other_levels_stay_within_budget(level: str) -> None:
    code = (
        "import torch; from tests.ops.test_graph_aggregate import *\n"
        "for dtype, kind in itertools.product(DTYPES, KINDS):\n"
        "    assert_matches_reference(random_graph(DEGREES, 40), 25, dtype, True, **kind)"
    )
    run_at_level(level, code)
