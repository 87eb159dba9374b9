from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import item_cross_entropy, reference
from tests.support.item_loss import (
    DTYPES,
    KINDS,
    RESULTS,
    Problem,
    assert_matches_reference,
    call,
    draw,
    loss_and_gradients,
    options_of,
)
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [EDGE_LENGTHS, LONG_LENGTHS], ids=["edge", "long"])
def test_sets_of_targets(lengths: list[int], kind: str, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(lengths, 1100, 24, **options_of(kind, 100)), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_many_blocks_and_chunks(kind: str) -> None:
    assert_matches_reference(draw([0, 1, 2, 3] * 70, 20_011, 20, **options_of(kind, 700)))


WEIGHTING = [
    {"weights": True},
    {"temperature": 0.07},
    {"temperature": 30.0},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"weights": True, "temperature": 0.5, "label_smoothing": 0.3},
]


def weighted(problem: Problem, weighting: dict[str, Any]) -> Problem:
    """The problem with these options; weights, some of them zero, are drawn."""
    if weighting.get("weights"):
        drawn = torch.rand(len(problem.hidden), generator=torch.Generator().manual_seed(3))
        weighting = weighting | {"weights": (drawn - 0.2).clamp(min=0)}
    return replace(problem, **weighting)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighting", WEIGHTING, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weighting(kind: str, weighting: dict[str, Any], dtype: torch.dtype) -> None:
    if kind != "full" and "label_smoothing" in weighting:
        weighting = weighting | {"label_smoothing": 0.0}
    assert_matches_reference(weighted(draw(130, 290, 17, **options_of(kind, 40)), weighting), dtype)
    sets = draw([2, 0, 1, 3, 1], 30, 12, **options_of(kind, 40), bias=False)
    assert_matches_reference(weighted(sets, weighting), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_targets_are_as_if_not_there(kind: str) -> None:
    problem = draw([2, 1, 0, 3, 1], 20, 6, **options_of(kind, 30))
    kept = torch.tensor([True, False, False, True, True, False, True])
    targets = torch.where(kept, problem.targets, 7777)
    log_q = problem.target_log_q
    without = replace(
        problem,
        targets=problem.targets[kept],
        target_offsets=offsets_of([1, 0, 0, 2, 1]),
        target_log_q=None if log_q is None else log_q[kept],
    )
    actual = loss_and_gradients(item_cross_entropy, replace(problem, targets=targets, ignore_index=7777))
    for a, b in zip(actual, loss_and_gradients(item_cross_entropy, without), strict=True):
        assert torch.equal(a, b)
    assert_matches_reference(replace(problem, targets=targets, ignore_index=7777))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weight_zero_reach_nothing(kind: str, dtype: torch.dtype) -> None:
    problem = draw(40, 30, 8, **options_of(kind)).to(dtype)
    weights = torch.ones(40)
    weights[3:9] = 0
    problem.hidden[3:9] = torch.nan
    kept = weights > 0
    alone = problem.of_rows(kept)
    actual = loss_and_gradients(item_cross_entropy, replace(problem, weights=weights))
    expected = loss_and_gradients(item_cross_entropy, alone)
    assert not actual[1][~kept].any()
    actual[1] = actual[1][kept]
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    for result in loss_and_gradients(item_cross_entropy, replace(problem, weights=torch.zeros(40))):
        assert (result == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    jagged_lengths,
    st.integers(1, 80),
    st.integers(1, 70),
    st.sampled_from(KINDS),
    st.integers(0, 90),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 1000),
)
def test_drawn_problems(
    lengths: list[int],
    items: int,
    depth: int,
    kind: str,
    negatives: int,
    bias: bool,
    log_q: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    problem = draw(lengths, items, depth, bias=bias, log_q=log_q, seed=seed, **options_of(kind, negatives))
    assert_matches_reference(problem, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_and_offset_inputs(kind: str) -> None:
    problem = draw([2, 0, 1, 3, 1], 30, 12, **options_of(kind, 40))
    expected = loss_and_gradients(item_cross_entropy, problem)

    def inside(x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        if x.dim() == 1:
            return torch.stack([x, x], 1)[:, 1]
        return torch.empty(x.shape[0] + 3, x.shape[1] + 5, dtype=x.dtype)[2:-1, 3:-2].copy_(x)

    strided = Problem(**{name: inside(x) for name, x in vars(problem).items()})  # type: ignore[arg-type]
    by_column = {"hidden": problem.hidden.T.contiguous().T, "table": problem.table.T.contiguous().T}
    transposed = replace(problem, **by_column)
    for other in (strided, transposed):
        for a, b in zip(loss_and_gradients(item_cross_entropy, other), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_target_do_not_count(kind: str) -> None:
    problem = draw([2, 0, 1, 0], 20, 6, **options_of(kind, 30))
    kept = problem.of_rows(torch.tensor([0, 2]))
    actual = loss_and_gradients(item_cross_entropy, problem)
    expected = loss_and_gradients(item_cross_entropy, kept)
    expected[1] = torch.zeros_like(problem.hidden).index_copy_(0, torch.tensor([0, 2]), expected[1])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (actual[1][[1, 3]] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[], [0, 0, 0]])
def test_nothing_to_learn_from(lengths: list[int], kind: str, dtype: torch.dtype) -> None:
    for result in loss_and_gradients(
        item_cross_entropy, draw(lengths, 9, 5, **options_of(kind, 5)).to(dtype)
    ):
        assert (result == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind: str) -> None:
    problem = draw(40, 70, 16, **options_of(kind, 50))
    p = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = problem.of_rows(p)
    actual = loss_and_gradients(item_cross_entropy, shuffled)
    expected = loss_and_gradients(item_cross_entropy, problem)
    expected[1] = expected[1][p]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e4])
def test_small_and_large_logits(scale: float, kind: str) -> None:
    problem = draw(20, 60, 16, **options_of(kind, 40))
    assert_matches_reference(replace(problem, hidden=problem.hidden * scale))


def test_not_a_number_is_not_hidden() -> None:
    problem = draw(20, 40, 8)
    problem.hidden[3, 2] = torch.nan
    assert call(item_cross_entropy, problem).isnan()
    assert call(item_cross_entropy, replace(problem, negatives=torch.arange(5))).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_bitwise_equal_between_runs_and_thread_counts(kind: str, dtype: torch.dtype) -> None:
    problem = draw([1, 0, 3] * 100, 700, 40, **options_of(kind, 300)).to(dtype)
    first = loss_and_gradients(item_cross_entropy, problem)
    before = _core.num_threads()
    try:
        for threads in (1, 2, 3, 5, 2):
            _core.set_num_threads(threads)
            for a, b in zip(first, loss_and_gradients(item_cross_entropy, problem), strict=True):
                assert torch.equal(a, b)
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["hidden", "table", "bias", "hidden table", "table bias", "hidden bias"])
def test_only_the_wanted_gradients(wanted: str, kind: str) -> None:
    problem = draw(70, 150, 20, **options_of(kind, 100))
    everything = dict(zip(RESULTS, loss_and_gradients(item_cross_entropy, problem), strict=True))
    loss, *gradients = loss_and_gradients(item_cross_entropy, problem, wanted)
    assert torch.equal(loss, everything["loss"])
    for name, gradient in zip(wanted.split(), gradients, strict=True):
        assert torch.equal(gradient, everything[f"{name}_grad"])


def test_without_gradients() -> None:
    problem = draw(70, 150, 20)
    expected = loss_and_gradients(item_cross_entropy, problem)[0]
    assert torch.equal(call(item_cross_entropy, problem), expected)
    with torch.no_grad():
        loss = call(item_cross_entropy, replace(problem, hidden=problem.hidden.requires_grad_()))
    assert torch.equal(loss, expected)
    assert not loss.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_scaled_loss(dtype: torch.dtype) -> None:
    problem = draw(30, 40, 12).to(dtype)
    plain = loss_and_gradients(item_cross_entropy, problem)
    scaled = loss_and_gradients(lambda *a, **k: -0.5 * item_cross_entropy(*a, **k), problem)
    for a, b in zip(scaled[1:], plain[1:], strict=True):
        assert torch.equal(a, -0.5 * b)


def test_backward_may_run_again() -> None:
    problem = draw(30, 40, 12)
    once = loss_and_gradients(item_cross_entropy, problem)[1]
    hidden = problem.hidden.clone().requires_grad_()
    loss = call(item_cross_entropy, replace(problem, hidden=hidden))
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(hidden.grad, times * once)


def test_gradients_of_gradients_are_refused() -> None:
    problem = draw(3, 4, 5)
    loss = call(item_cross_entropy, replace(problem, hidden=problem.hidden.requires_grad_()))
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(loss, problem.hidden, create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_reference(kind: str) -> None:
    problem = draw([2, 0, 1], 7, 3, **options_of(kind, 6)).to(torch.float64)

    def loss(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return call(reference.item_cross_entropy, replace(problem, hidden=hidden, table=table, bias=bias))

    inputs = [x.requires_grad_() for x in (problem.hidden, problem.table, problem.bias) if x is not None]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("kind", ["full", "shared", "gbce", "gbce shared"])
def test_opcheck(kind: str) -> None:
    problem = draw([2, 0, 1], 7, 3, **options_of(kind, 6))
    floats = {n: getattr(problem, n).requires_grad_() for n in ("hidden", "table", "bias")}
    p = replace(problem, **floats)
    data = (
        p.hidden,
        p.table,
        p.targets,
        p.target_offsets,
        p.bias,
        p.negatives,
        p.negative_log_q,
        p.target_log_q,
    )
    if kind in ("full", "shared"):
        op, numbers = torch.ops.chronorec.item_cross_entropy.default, (0.5, 0.0)
    else:
        op, numbers = torch.ops.chronorec.item_sampled_loss.default, (0.5, 1, 0.75)
    torch.library.opcheck(op, (*data, None, *numbers, -100, True, True, True))


@pytest.mark.parametrize("kind", KINDS)
def test_compile(kind: str) -> None:
    problem = draw([2, 0, 1], 7, 3, **options_of(kind, 6))

    def doubled(*args: Tensor, **options: Tensor) -> Tensor:
        return 2 * item_cross_entropy(*args, **options)

    actual = loss_and_gradients(torch.compile(doubled, fullgraph=True, backend="aot_eager"), problem)
    for a, b in zip(actual, loss_and_gradients(doubled, problem), strict=True):
        torch.testing.assert_close(a, b)


LOG_Q = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": torch.zeros(3, 4, dtype=torch.float64)}, TypeError, "hidden: wanted torch.float32 or"),
        ({"hidden": torch.zeros(3)}, ValueError, r"hidden: wanted shape \[N x D\]"),
        ({"table": torch.zeros(5, 4, dtype=torch.bfloat16)}, TypeError, "table: wanted torch.float32"),
        ({"table": torch.zeros(5, 3)}, ValueError, r"table: wanted shape \[V x 4\]"),
        ({"targets": torch.zeros(3, dtype=torch.int32)}, TypeError, "targets: wanted torch.int64"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, ValueError, r"targets: wanted shape \[3\]"),
        ({"targets": torch.tensor([0, 5, 1])}, ValueError, r"targets: every id must be in \[0, 5\)"),
        ({"targets": torch.tensor([0, -1, 1])}, ValueError, r"targets: every id must be in \[0, 5\)"),
        ({"target_offsets": torch.tensor([0, 1, 3])}, ValueError, r"target_offsets: wanted shape \[4\]"),
        ({"target_offsets": torch.tensor([0, 2, 1, 3])}, ValueError, "target_offsets: must never fall"),
        ({"target_offsets": torch.tensor([0, 1, 1, 2])}, ValueError, "target_offsets: must end at 3"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias: wanted shape \[5\]"),
        ({"bias": torch.zeros(5).bfloat16()}, TypeError, "bias: wanted torch.float32"),
        ({"negatives": torch.zeros(2)}, TypeError, "negatives: wanted torch.int64"),
        ({"negatives": torch.tensor([5])}, ValueError, r"negatives: every id must be in \[0, 5\)"),
        (
            {"negatives": torch.zeros(4, 2, dtype=torch.int64)},
            ValueError,
            r"negatives: wanted shape \[3 x K\]",
        ),
        (
            {"negatives": torch.tensor([[1], [5], [0]])},
            ValueError,
            r"negatives: every id must be in \[0, 5\)",
        ),
        (
            {"negatives": torch.zeros(3, 2, dtype=torch.int64), "negative_log_q": torch.zeros(2)},
            ValueError,
            r"negative_log_q: wanted shape \[3 x 2\]",
        ),
        ({"loss": "hinge"}, ValueError, "loss: wanted one of softmax, gbce, bpr, got 'hinge'"),
        ({"loss": "bpr"}, ValueError, "negatives: wanted a tensor for loss='bpr', got None"),
        (
            {"loss": "gbce", "negatives": torch.tensor([1]), "target_log_q": LOG_Q},
            ValueError,
            "target_log_q: wanted none for loss='gbce'",
        ),
        ({"calibration": -0.1}, ValueError, "calibration: wanted 0 to 1, got -0.1"),
        ({"negative_log_q": LOG_Q}, ValueError, "negative_log_q: wanted negatives"),
        ({"target_log_q": LOG_Q}, ValueError, "target_log_q: wanted negatives"),
        (
            {"negatives": torch.tensor([1, 2]), "negative_log_q": LOG_Q},
            ValueError,
            r"negative_log_q: wanted shape \[2\]",
        ),
        (
            {"negatives": torch.tensor([1, 2, 0]), "negative_log_q": LOG_Q.double()},
            TypeError,
            "negative_log_q: wanted torch.float32",
        ),
        (
            {"negatives": torch.tensor([1]), "target_log_q": torch.zeros(2)},
            ValueError,
            r"target_log_q: wanted shape \[3\]",
        ),
        ({"temperature": 0.0}, ValueError, "temperature: wanted a number above 0, got 0.0"),
        ({"temperature": math.inf}, ValueError, "temperature: wanted a number above 0, got inf"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing: wanted 0 to 1, got 1.5"),
        (
            {"label_smoothing": 0.1, "negatives": torch.tensor([1])},
            ValueError,
            "label_smoothing: wanted 0 beside negatives, got 0.1",
        ),
        ({"weights": torch.zeros(4)}, ValueError, r"weights: wanted shape \[3\]"),
        ({"weights": torch.zeros(3).double()}, TypeError, "weights: wanted torch.float32"),
        (
            {"weights": torch.tensor([0.0, -1.0, 1.0])},
            ValueError,
            "weights: wanted finite numbers, at least 0",
        ),
        ({"weights": torch.full((3,), torch.nan)}, ValueError, "weights: wanted finite numbers, at least 0"),
        ({"weights": torch.zeros(3, requires_grad=True)}, ValueError, "weights: wanted a constant"),
        (
            {"negatives": torch.tensor([1]), "target_log_q": torch.zeros(3, requires_grad=True)},
            ValueError,
            "target_log_q: wanted a constant",
        ),
    ],
)
def test_errors(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    problem = Problem(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 4, 1]))
    with pytest.raises(error, match=message):
        call(item_cross_entropy, replace(problem, **change))


def test_rows_without_a_target_reach_nothing() -> None:
    """Whatever stands in them, NaN included: as if they were not there."""
    problem = draw([0, 2, 0, 1, 3, 0] * 60, 90, 20)
    assert problem.target_offsets is not None
    there = problem.target_offsets.diff() > 0
    hidden = problem.hidden.clone()
    hidden[~there] = torch.nan
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), problem.target_offsets[1:][there]])
    alone = replace(problem, hidden=problem.hidden[there], target_offsets=offsets)
    actual = loss_and_gradients(item_cross_entropy, replace(problem, hidden=hidden))
    wanted = loss_and_gradients(item_cross_entropy, alone)
    assert torch.equal(actual[1][there], wanted[1])
    assert not actual[1][~there].any()
    for i in (0, 2, 3):
        assert torch.equal(actual[i], wanted[i]), RESULTS[i]
