from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import Graph, graph_attention, make_graph, reference
from tests.support.budget import assert_within_budget
from tests.support.graphs import DEGREES, destinations_of, permuted, random_graph
from tests.support.items import threads
from tests.support.jagged import offsets_of
from tests.support.levels import run_at_level
from tests.support.scratch import aligned_scratch, is_intact

DTYPES = [torch.float32, torch.bfloat16]
NAMES = ["output", "grad_features", "grad_source_score", "grad_destination_score", "grad_edge_score"]


def make_inputs(
    graph: Graph, heads: int, width: int, dtype: torch.dtype, with_edges: bool = True, seed: int = 0
) -> list[Tensor | None]:
    """Features, the scores of sources, destinations and edges, and the gradient of the output.

    Scores are numbers that bfloat16 can hold.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().float()

    return [
        draw(graph.num_sources, heads, width).to(dtype),
        draw(graph.num_sources, heads),
        draw(graph.num_destinations, heads),
        draw(graph.num_edges, heads) if with_edges else None,
        draw(graph.num_destinations, heads, width).to(dtype),
    ]


def with_gradients(
    op: Callable[..., Tensor], graph: Graph, inputs: Sequence[Tensor | None], **options: Any
) -> list[Tensor]:
    """Output and the gradients of all inputs there are."""
    *given, grad = inputs
    features, source_score, destination_score, edge_score = (
        None if x is None else x.detach().requires_grad_() for x in given
    )
    output = op(features, source_score, destination_score, graph, edge_score=edge_score, **options)
    leaves = [x for x in (features, source_score, destination_score, edge_score) if x is not None]
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def specification(
    dtype: torch.dtype, graph: Graph, inputs: Sequence[Tensor | None], **options: Any
) -> list[Tensor]:
    cast = [None if x is None else x.to(dtype) for x in inputs]
    return with_gradients(reference.graph_attention, graph, cast, **options)


def sizes_of(
    graph: Graph, inputs: Sequence[Tensor | None], negative_slope: float = 0.2
) -> list[Tensor | None]:
    """The sums of the absolute values of what is added up; none where the largest element says enough."""
    features, source_score, destination_score, edge_score, grad = (
        None if x is None else x.double() for x in inputs
    )
    assert features is not None
    assert source_score is not None
    assert destination_score is not None
    assert grad is not None
    sources, destinations = graph.sources.long(), destinations_of(graph)
    scores = source_score[sources] + destination_score[destinations]
    scores = scores if edge_score is None else scores + edge_score
    terms = torch.where(scores > 0, scores, negative_slope * scores).exp()
    zeros = torch.zeros_like(destination_score)
    weights = terms / zeros.index_add(0, destinations, terms)[destinations]
    products = torch.einsum("ead,ead->ea", grad.abs()[destinations], features.abs()[sources])
    mean = zeros.index_add(0, destinations, weights * products)[destinations]
    edges = weights * (products + mean)
    by_source = torch.zeros_like(source_score).index_add(0, sources, edges)
    by_destination = zeros.index_add(0, destinations, edges)
    return [None, None, by_source, by_destination, edges]


def assert_matches_reference(
    graph: Graph, heads: int, width: int, dtype: torch.dtype, with_edges: bool = True, **options: Any
) -> None:
    """Small graphs are drawn several times: few numbers would leave the largest error to luck."""
    draws = [
        make_inputs(graph, heads, width, dtype, with_edges, seed)
        for seed in range(1 if graph.num_edges > 500 else 4)
    ]
    results = [
        [with_gradients(graph_attention, graph, inputs, **options) for inputs in draws],
        [specification(dtype, graph, inputs, **options) for inputs in draws],
        [specification(torch.float64, graph, inputs, **options) for inputs in draws],
    ]
    sizes = [sizes_of(graph, inputs, **options) for inputs in draws]
    for i, name in enumerate(NAMES[: len(results[0][0])]):
        actual, in_dtype, exact = (torch.cat([draw[i] for draw in result]) for result in results)
        assert actual.dtype == (dtype if i < 2 else torch.float32)
        terms = [size[i] for size in sizes if size[i] is not None]
        assert_within_budget(actual, in_dtype, exact, name, terms=torch.cat(terms) if terms else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("with_edges", [False, True])
def test_matches_reference(with_edges: bool, ids: torch.dtype, dtype: torch.dtype) -> None:
    assert_matches_reference(random_graph(DEGREES, 40, ids=ids), 4, 16, dtype, with_edges)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "width"),
    [(1, 1), (1, 64), (2, 3), (3, 5), (4, 17), (5, 16), (8, 8), (6, 15), (16, 4), (17, 3), (33, 9), (2, 130)],
)
def test_any_width_and_head_count(heads: int, width: int, dtype: torch.dtype) -> None:
    assert_matches_reference(random_graph([3, 0, 40, 2, 11, 130], 9), heads, width, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("degrees", "num_sources"),
    [([], 0), ([], 3), ([0, 0, 0], 0), ([0, 0], 4), ([1], 1), ([3000], 2), ([0, 2048, 0, 2049, 4097], 7)],
)
@pytest.mark.parametrize("heads", [3, 17])
def test_edges_of_the_domain(degrees: list[int], num_sources: int, heads: int, dtype: torch.dtype) -> None:
    graph = random_graph(degrees, num_sources)
    assert_matches_reference(graph, heads, 6, dtype)
    features, source_score, destination_score, _, _ = make_inputs(graph, heads, 6, dtype)
    assert features is not None
    assert source_score is not None
    assert destination_score is not None
    output = graph_attention(features, source_score, destination_score, graph)
    assert (output[torch.tensor(degrees, dtype=torch.int64) == 0] == 0).all()


def test_no_heads() -> None:
    graph = random_graph([2, 0, 5], 4)
    results = with_gradients(graph_attention, graph, make_inputs(graph, 0, 3, torch.float32))
    assert [tuple(x.shape) for x in results] == [(3, 0, 3), (4, 0, 3), (4, 0), (3, 0), (7, 0)]


@settings(max_examples=12, deadline=None)
@given(
    degrees=st.lists(st.integers(0, 30), max_size=20),
    num_sources=st.integers(1, 30),
    heads=st.integers(1, 9),
    width=st.integers(1, 20),
    with_edges=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    ids=st.sampled_from([torch.int32, torch.int64]),
)
def test_random_graphs(
    degrees: list[int],
    num_sources: int,
    heads: int,
    width: int,
    with_edges: bool,
    dtype: torch.dtype,
    ids: torch.dtype,
) -> None:
    graph = random_graph(degrees, num_sources, ids=ids)
    assert_matches_reference(graph, heads, width, dtype, with_edges)


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0])
def test_negative_slope(slope: float) -> None:
    assert_matches_reference(random_graph(DEGREES, 40), 2, 8, torch.float32, negative_slope=slope)


def test_equal_scores_give_the_mean() -> None:
    graph = random_graph([4, 0, 300, 1], 50)
    features = torch.randn(50, 2, 5)
    output = graph_attention(features, torch.zeros(50, 2), torch.randn(4, 2), graph)
    mean = reference.graph_aggregate(features.flatten(1).double(), graph, reduce="mean")
    torch.testing.assert_close(output.flatten(1).double(), mean, rtol=1e-5, atol=1e-6)


def test_large_scores_stay_finite() -> None:
    graph = random_graph(DEGREES, 40)
    inputs = make_inputs(graph, 4, 8, torch.float32)
    scaled = [inputs[0], *(None if x is None else 100 * x for x in inputs[1:4]), inputs[4]]
    exact = specification(torch.float64, graph, scaled)
    results = with_gradients(graph_attention, graph, scaled)
    for actual, e in zip(results, exact, strict=True):
        assert actual.isfinite().all()
        torch.testing.assert_close(actual.double(), e, rtol=1e-3, atol=5e-3)


def test_rising_scores_move_the_maximum_across_blocks() -> None:
    """Every later edge beats all earlier ones, so each block and part rescales what came before."""
    graph = make_graph(offsets_of([5000]), torch.arange(5000), 5000)
    inputs = make_inputs(graph, 2, 6, torch.float32)
    inputs[1] = torch.linspace(-200, 200, 5000)[:, None].expand(5000, 2).contiguous()
    inputs[3] = None
    results = with_gradients(graph_attention, graph, inputs)
    in_dtype, exact = (specification(d, graph, inputs) for d in (torch.float32, torch.float64))
    sizes = sizes_of(graph, inputs)
    for a, i, e, name, terms in zip(results, in_dtype, exact, NAMES, sizes, strict=False):
        assert_within_budget(a, i, e, name, terms=terms)


def test_masked_edges_count_for_nothing() -> None:
    graph = random_graph([4, 2500, 3, 70], 50)
    inputs = make_inputs(graph, 3, 6, torch.float32)
    edge_score = inputs[3]
    assert edge_score is not None
    generator = torch.Generator().manual_seed(5)
    kept = torch.rand(graph.num_edges, generator=generator) < 0.5
    kept[destinations_of(graph) == 2] = False  # nothing left here
    kept[4 : 4 + 2100] = False  # nor in the first part of a divided row
    edge_score[~kept] = -torch.inf
    results = with_gradients(graph_attention, graph, inputs)
    degrees = torch.bincount(destinations_of(graph)[kept], minlength=4)
    fewer = make_graph(offsets_of(degrees.tolist()), graph.sources[kept], 50)
    expected = with_gradients(graph_attention, fewer, [*inputs[:3], edge_score[kept], inputs[4]])
    assert (results[0][2] == 0).all()
    assert (results[4][~kept] == 0).all()
    results[4] = results[4][kept]
    for actual, e in zip(results, expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_stays_with_its_edges(which: int, bad: float) -> None:
    graph = random_graph(DEGREES, 300)
    inputs = make_inputs(graph, 3, 7, torch.float32)
    clean = with_gradients(graph_attention, graph, inputs)[0]
    changed = inputs[which]
    assert changed is not None
    changed[7, 1] = bad
    dirty = with_gradients(graph_attention, graph, inputs)[0]
    touched = torch.zeros(graph.num_destinations, dtype=torch.bool)
    touched[destinations_of(graph)[graph.sources == 7]] = True
    assert 0 < touched.sum() < len(touched)
    assert not dirty[touched, 1].isfinite().any()
    assert torch.equal(clean[~touched], dirty[~touched])
    assert torch.equal(clean[:, [0, 2]], dirty[:, [0, 2]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    graph = random_graph([4, 0, 30, 1], 12)
    inputs = make_inputs(graph, 3, 7, dtype)
    expected = with_gradients(graph_attention, graph, inputs)
    pad = torch.nn.functional.pad
    wide = [None if x is None else pad(x.flatten(1), (5, 3, 2, 0))[2:, 5:-3].view_as(x) for x in inputs]
    crossed = [None if x is None else x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    for changed in (wide, crossed):
        for a, e in zip(with_gradients(graph_attention, graph, changed), expected, strict=True):
            assert torch.equal(a, e)


def test_expanded_gradient() -> None:
    graph = random_graph([4, 0, 30, 1], 12)
    inputs = make_inputs(graph, 3, 7, torch.float32)
    shape = (4, 3, 7)
    expected = with_gradients(graph_attention, graph, [*inputs[:4], torch.ones(shape)])
    actual = with_gradients(graph_attention, graph, [*inputs[:4], torch.ones(()).expand(shape)])
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_order_of_edges_in_a_row_does_not_matter() -> None:
    graph = random_graph(DEGREES, 50)
    inputs = make_inputs(graph, 4, 8, torch.float32)
    generator = torch.Generator().manual_seed(1)
    shuffle = torch.randperm(graph.num_edges, generator=generator)
    shuffle = shuffle[destinations_of(graph)[shuffle].argsort(stable=True)]
    other = make_graph(graph.offsets, graph.sources[shuffle], 50)
    assert inputs[3] is not None
    results = with_gradients(graph_attention, other, [*inputs[:3], inputs[3][shuffle], inputs[4]])
    results[4] = torch.empty_like(results[4]).index_put((shuffle,), results[4])
    in_dtype, exact = (specification(d, graph, inputs) for d in (torch.float32, torch.float64))
    for a, i, e, name in zip(results, in_dtype, exact, NAMES, strict=True):
        assert_within_budget(a, i, e, name)


def test_permuting_the_nodes_permutes_the_result() -> None:
    graph = random_graph(DEGREES, 50)
    features, source_score, destination_score, edge_score, grad = make_inputs(graph, 4, 8, torch.float32)
    assert features is not None
    assert source_score is not None
    assert destination_score is not None
    assert edge_score is not None
    assert grad is not None
    generator = torch.Generator().manual_seed(2)
    rows, cols = torch.randperm(len(DEGREES), generator=generator), torch.randperm(50, generator=generator)
    moved, edges = permuted(graph, rows, cols)
    inputs = [features, source_score, destination_score, edge_score, grad]
    expected = with_gradients(graph_attention, graph, inputs)
    actual = with_gradients(
        graph_attention,
        moved,
        [features[cols], source_score[cols], destination_score[rows], edge_score[edges], grad[rows]],
    )
    for i, order in ((0, rows), (3, rows), (4, edges)):
        assert torch.equal(actual[i], expected[i][order])
    for i in (1, 2):  # edges of a source come in another order
        torch.testing.assert_close(actual[i], expected[i][cols], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_deterministic_across_runs_and_threads(dtype: torch.dtype) -> None:
    degrees, sources = [*DEGREES, 9000], 5  # few sources: the rows of the transpose are divided too
    inputs = make_inputs(random_graph(degrees, sources), 4, 8, dtype)
    expected = with_gradients(graph_attention, random_graph(degrees, sources), inputs)
    for count in (1, 2, 3, 8):
        with threads(count):
            graph = random_graph(degrees, sources)
            for a, e in zip(with_gradients(graph_attention, graph, inputs), expected, strict=True):
                assert torch.equal(a, e)


def test_cannot_be_differentiated_twice() -> None:
    graph = random_graph([4, 0, 9, 1], 6)
    features = torch.randn(6, 2, 3, requires_grad=True)
    output = graph_attention(features, torch.zeros(6, 2), torch.zeros(4, 2), graph)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(output.sum(), features, create_graph=True)


def test_only_wanted_gradients() -> None:
    graph = random_graph([4, 0, 9, 1], 6)
    inputs = make_inputs(graph, 2, 3, torch.float32)
    expected = with_gradients(graph_attention, graph, inputs)
    for i in range(4):
        features, source_score, destination_score, edge_score, grad = (
            None if x is None else x.clone().requires_grad_(j == i) for j, x in enumerate(inputs)
        )
        assert features is not None
        assert source_score is not None
        assert destination_score is not None
        output = graph_attention(features, source_score, destination_score, graph, edge_score=edge_score)
        leaf = (features, source_score, destination_score, edge_score)[i]
        assert leaf is not None
        assert torch.equal(torch.autograd.grad(output, leaf, grad)[0], expected[i + 1])


def test_reference_gradcheck() -> None:
    graph = random_graph([3, 0, 5], 4)
    inputs = [
        x.double().requires_grad_() for x in make_inputs(graph, 2, 3, torch.float32)[:4] if x is not None
    ]
    assert torch.autograd.gradcheck(
        lambda x, s, d, e: reference.graph_attention(x, s, d, graph, edge_score=e), inputs
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    graph = random_graph([3, 0, 5, 20], 6)
    inputs = [None if x is None else x.requires_grad_() for x in make_inputs(graph, 2, 5, dtype)[:4]]
    matrices = graph[:5]
    for edge_score in (inputs[3], None):
        torch.library.opcheck(
            torch.ops.chronorec.graph_attention_forward, (*inputs[:3], edge_score, *matrices, 0.2)
        )


def test_compiles_whole() -> None:
    graph = random_graph([3, 0, 5, 20], 6)
    inputs = make_inputs(graph, 2, 5, torch.float32)
    compiled = torch.compile(
        lambda x, s, d, g, edge_score: 3 * graph_attention(x, s, d, g, edge_score=edge_score), fullgraph=True
    )
    eager = with_gradients(lambda *a, **k: 3 * graph_attention(*a, **k), graph, inputs)
    for a, e in zip(with_gradients(compiled, graph, inputs), eager, strict=True):
        torch.testing.assert_close(a, e)


def test_core_runs_on_numpy() -> None:
    graph = random_graph(DEGREES, 30)
    inputs = make_inputs(graph, 3, 7, torch.float32)
    features, source_score, destination_score = (x.numpy() for x in inputs[:3] if x is not None)
    output = np.full((len(DEGREES), 3, 7), np.nan, np.float32)
    softmax = np.empty((len(DEGREES), 2, 3), np.float32)
    size = _core.graph_attention_scratch(len(DEGREES), graph.num_edges, 3, 7)
    scratch = aligned_scratch(size)
    matrix = graph.offsets.numpy(), graph.sources.numpy()
    arguments = (features, source_score, destination_score, None, *matrix, 0.2, output, softmax)
    _core.graph_attention_forward(*arguments, scratch)
    assert is_intact(scratch)
    wanted = graph_attention(*(torch.from_numpy(x) for x in arguments[:3]), graph)
    assert np.array_equal(output, wanted.numpy())
    with threads(1):
        least = _core.graph_attention_scratch(len(DEGREES), graph.num_edges, 3, 7)
    with pytest.raises(ValueError, match="scratch: wanted at least"):
        _core.graph_attention_forward(*arguments, scratch[: least - 64])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"features": torch.zeros(4, 2, 3, dtype=torch.float64)},
            TypeError,
            "features: wanted torch.float32",
        ),
        ({"features": torch.zeros(3, 2, 3)}, ValueError, r"features: wanted shape \[4 x A x D\]"),
        ({"features": torch.zeros(4, 2, 0)}, ValueError, "features: wanted a width of at least 1"),
        ({"features": torch.zeros(4, 2, 3, device="meta")}, ValueError, "wanted device"),
        ({"graph": None}, TypeError, "graph: wanted a Graph of make_graph, got NoneType"),
        ({"source_score": torch.zeros(4, 3)}, ValueError, r"source_score: wanted shape \[4 x 2\]"),
        ({"source_score": torch.zeros(4, 2).bfloat16()}, TypeError, "source_score: wanted torch.float32"),
        ({"destination_score": torch.zeros(4, 2)}, ValueError, r"destination_score: wanted shape \[2 x 2\]"),
        ({"edge_score": torch.zeros(4, 2)}, ValueError, r"edge_score: wanted shape \[5 x 2\]"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {
        "features": torch.zeros(4, 2, 3),
        "source_score": torch.zeros(4, 2),
        "destination_score": torch.zeros(2, 2),
        "graph": random_graph([2, 3], 4),
    }
    with pytest.raises(error, match=message):
        graph_attention(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_other_levels_stay_within_budget(level: str) -> None:
    code = (
        "import torch; from tests.ops.test_graph_attention import *\n"
        "for dtype in DTYPES: assert_matches_reference(random_graph(DEGREES, 40), 9, 5, dtype)"
    )
    run_at_level(level, code)
