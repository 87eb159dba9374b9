from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import item_cross_entropy, reference
from tests.support.item_loss import (
    DTYPES,
    RESULTS,
    Problem,
    assert_matches_reference,
    call,
    draw,
    loss_and_gradients,
    without_amx,
)
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of
from tests.support.scratch import aligned_scratch

SHAPES = [(1, 1, 1), (2, 5, 3), (15, 16, 16), (17, 63, 31), (33, 64, 64), (65, 129, 17), (600, 300, 33)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "items", "depth"), SHAPES)
def test_full(rows: int, items: int, depth: int, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(rows, items, depth), dtype)
    assert_matches_reference(draw(rows, items, depth, bias=False), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives", [0, 1, 15, 17, 64, 200])
@pytest.mark.parametrize(("rows", "items", "depth"), [(1, 1, 1), (17, 63, 31), (300, 500, 64)])
def test_sampled(rows: int, items: int, depth: int, negatives: int, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(rows, items, depth, negatives=negatives), dtype)
    assert_matches_reference(draw(rows, items, depth, negatives=negatives, bias=False, log_q=False), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives", [None, 100])
@pytest.mark.parametrize("lengths", [EDGE_LENGTHS, LONG_LENGTHS], ids=["edge", "long"])
def test_sets_of_targets(lengths: list[int], negatives: int | None, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(lengths, 1100, 24, negatives=negatives), dtype)


@pytest.mark.parametrize("negatives", [None, 700])
def test_many_blocks_and_chunks(negatives: int | None) -> None:
    assert_matches_reference(draw([0, 1, 2, 3] * 70, 20_011, 20, negatives=negatives))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "items", "depth"), [(256, 3000, 512), (16, 140_000, 4)])
def test_several_chunks_per_task(rows: int, items: int, depth: int, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(rows, items, depth), dtype)


@pytest.mark.skipif(not _core.amx, reason="this machine has no tiles, or the level does not use them")
@pytest.mark.parametrize(("rows", "items", "depth"), [*SHAPES, (70, 1000, 128), (40, 30, 2)])
def test_vector_instructions_where_there_are_tiles(rows: int, items: int, depth: int) -> None:
    with without_amx():
        assert_matches_reference(draw(rows, items, depth), torch.bfloat16)


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
@pytest.mark.parametrize("negatives", [None, 40])
def test_weighting(negatives: int | None, weighting: dict[str, Any], dtype: torch.dtype) -> None:
    if negatives is not None and "label_smoothing" in weighting:
        weighting = weighting | {"label_smoothing": 0.0}
    assert_matches_reference(weighted(draw(300, 290, 17, negatives=negatives), weighting), dtype)
    sets = draw([2, 0, 1, 3, 1], 30, 12, negatives=negatives, bias=False)
    assert_matches_reference(weighted(sets, weighting), dtype)


def test_weighting_equals_torch() -> None:
    problem = draw(50, 333, 24)
    targets = problem.targets.clone()
    targets[::3] = -100
    logits = F.linear(problem.hidden, problem.table, problem.bias) / 0.7
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2)
    options = {"targets": targets, "temperature": 0.7, "label_smoothing": 0.2}
    torch.testing.assert_close(call(item_cross_entropy, replace(problem, **options)), expected)
    weights = torch.rand(50)
    each = F.cross_entropy(logits, targets, label_smoothing=0.2, reduction="none")
    counted = weights * (targets != -100)
    weighted_loss = call(item_cross_entropy, replace(problem, weights=weights, **options))
    torch.testing.assert_close(weighted_loss, (each * weights).sum() / counted.sum())


@pytest.mark.parametrize("negatives", [None, 30])
def test_ignored_targets_are_as_if_not_there(negatives: int | None) -> None:
    problem = draw([2, 1, 0, 3, 1], 20, 6, negatives=negatives)
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


def test_an_item_can_be_the_ignored_one() -> None:
    problem = replace(draw(30, 9, 6), ignore_index=0)
    assert (problem.targets == 0).any()
    assert_matches_reference(problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_weight_zero_reach_nothing(dtype: torch.dtype) -> None:
    problem = draw(40, 30, 8).to(dtype)
    weights = torch.ones(40)
    weights[3:9] = 0
    problem.hidden[3:9] = torch.nan
    kept = weights > 0
    alone = replace(problem, hidden=problem.hidden[kept], targets=problem.targets[kept])
    actual = loss_and_gradients(item_cross_entropy, replace(problem, weights=weights))
    expected = loss_and_gradients(item_cross_entropy, alone)
    assert not actual[1][~kept].any()
    actual[1] = actual[1][kept]
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    for result in loss_and_gradients(item_cross_entropy, replace(problem, weights=torch.zeros(40))):
        assert (result == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    jagged_lengths,
    st.integers(1, 80),
    st.integers(1, 70),
    st.none() | st.integers(0, 90),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 1000),
)
def test_drawn_problems(
    lengths: list[int],
    items: int,
    depth: int,
    negatives: int | None,
    bias: bool,
    log_q: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    problem = draw(lengths, items, depth, negatives=negatives, bias=bias, log_q=log_q, seed=seed)
    assert_matches_reference(problem, dtype)


def test_equals_torch_cross_entropy() -> None:
    problem = draw(50, 333, 24)

    def torch_loss(hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor, **_: object) -> Tensor:
        return F.cross_entropy(F.linear(hidden, table, bias), targets)

    for a, b in zip(
        loss_and_gradients(item_cross_entropy, problem), loss_and_gradients(torch_loss, problem), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_set_of_targets_equals_soft_labels() -> None:
    lengths = [1, 3, 2, 5]
    problem = draw(lengths, 40, 8)
    labels = torch.zeros(4, 40)
    for n, length in enumerate(lengths):
        for t in problem.targets[sum(lengths[:n]) : sum(lengths[: n + 1])]:
            labels[n, t] += 1 / length
    expected = F.cross_entropy(F.linear(problem.hidden, problem.table, problem.bias), labels)
    torch.testing.assert_close(call(item_cross_entropy, problem), expected)


def test_mean_of_many_rows_is_exact_in_bfloat16() -> None:
    problem = draw(4096, 50, 16).to(torch.bfloat16)
    wide = problem.to(torch.float64)
    expected = F.cross_entropy(F.linear(wide.hidden, wide.table, wide.bias), wide.targets)
    torch.testing.assert_close(call(item_cross_entropy, problem).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("negatives", [None, 40])
def test_strided_and_offset_inputs(negatives: int | None) -> None:
    problem = draw([2, 0, 1, 3, 1], 30, 12, negatives=negatives)
    expected = loss_and_gradients(item_cross_entropy, problem)

    def inside(x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        if x.dim() == 1:
            return torch.stack([x, x], 1)[:, 1]
        return torch.full((x.shape[0] + 3, x.shape[1] + 5), torch.nan)[2:-1, 3:-2].copy_(x)

    strided = Problem(**{name: inside(x) for name, x in vars(problem).items()})  # type: ignore[arg-type]
    by_column = {"hidden": problem.hidden.T.contiguous().T, "table": problem.table.T.contiguous().T}
    transposed = replace(problem, **by_column)
    for other in (strided, transposed):
        for a, b in zip(loss_and_gradients(item_cross_entropy, other), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("negatives", [None, 30])
def test_rows_without_target_do_not_count(negatives: int | None) -> None:
    problem = draw([2, 0, 1, 0], 20, 6, negatives=negatives)
    kept = replace(problem, hidden=problem.hidden[[0, 2]], target_offsets=offsets_of([2, 1]))
    actual = loss_and_gradients(item_cross_entropy, problem)
    expected = loss_and_gradients(item_cross_entropy, kept)
    expected[1] = torch.zeros_like(problem.hidden).index_copy_(0, torch.tensor([0, 2]), expected[1])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (actual[1][[1, 3]] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives", [None, 5])
@pytest.mark.parametrize("lengths", [[], [0, 0, 0]])
def test_nothing_to_learn_from(lengths: list[int], negatives: int | None, dtype: torch.dtype) -> None:
    for result in loss_and_gradients(item_cross_entropy, draw(lengths, 9, 5, negatives=negatives).to(dtype)):
        assert (result == 0).all()


@pytest.mark.parametrize("negatives", [None, 50])
def test_order_of_rows_does_not_matter(negatives: int | None) -> None:
    problem = draw(40, 70, 16, negatives=negatives)
    p = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    log_q = None if problem.target_log_q is None else problem.target_log_q[p]
    shuffled = replace(problem, hidden=problem.hidden[p], targets=problem.targets[p], target_log_q=log_q)
    actual = loss_and_gradients(item_cross_entropy, shuffled)
    expected = loss_and_gradients(item_cross_entropy, problem)
    expected[1] = expected[1][p]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_order_of_negatives_does_not_matter() -> None:
    problem = draw(40, 30, 16, negatives=64)
    assert problem.negatives is not None
    assert problem.negative_log_q is not None
    p = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = replace(problem, negatives=problem.negatives[p], negative_log_q=problem.negative_log_q[p])
    for a, b in zip(
        loss_and_gradients(item_cross_entropy, shuffled),
        loss_and_gradients(item_cross_entropy, problem),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_accidental_hits_are_masked_and_duplicates_count() -> None:
    problem = draw([2], 10, 4, negatives=0, log_q=False)
    problem = replace(problem, targets=torch.tensor([3, 7]))
    some = replace(problem, negatives=torch.tensor([7, 1, 3, 1, 3]))
    clean = replace(problem, negatives=torch.tensor([1, 1]))
    assert torch.equal(call(item_cross_entropy, some), call(item_cross_entropy, clean))
    once = replace(problem, negatives=torch.tensor([1]))
    assert call(item_cross_entropy, clean) > call(item_cross_entropy, once)
    only_hits = replace(problem, negatives=torch.tensor([7, 3, 3]))
    for result in loss_and_gradients(item_cross_entropy, only_hits):
        assert (result == 0).all()


def test_duplicates_across_chunks() -> None:
    problem = draw([1, 2, 1, 1], 3, 5, negatives=300)
    assert_matches_reference(problem)
    assert_matches_reference(problem, torch.bfloat16)


@pytest.mark.parametrize("negatives", [None, 40])
@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e4])
def test_small_and_large_logits(scale: float, negatives: int | None) -> None:
    problem = draw(20, 60, 16, negatives=negatives)
    assert_matches_reference(replace(problem, hidden=problem.hidden * scale))


def test_bias_of_minus_infinity_removes_an_item() -> None:
    problem = draw(20, 200, 8)
    assert problem.bias is not None
    problem = replace(problem, targets=problem.targets % 50, bias=problem.bias.clone())
    problem.bias[50:] = -torch.inf
    kept = replace(problem, table=problem.table[:50], bias=problem.bias[:50])
    loss, hidden, table, bias = loss_and_gradients(item_cross_entropy, problem)
    expected = loss_and_gradients(item_cross_entropy, kept)
    for a, b in zip((loss, hidden, table[:50], bias[:50]), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (table[50:] == 0).all()
    assert (bias[50:] == 0).all()


def test_not_a_number_is_not_hidden() -> None:
    problem = draw(20, 40, 8)
    problem.hidden[3, 2] = torch.nan
    assert call(item_cross_entropy, problem).isnan()
    assert call(item_cross_entropy, replace(problem, negatives=torch.arange(5))).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives", [None, 300])
def test_bitwise_equal_between_runs_and_thread_counts(negatives: int | None, dtype: torch.dtype) -> None:
    problem = draw([1, 0, 3] * 100, 700, 40, negatives=negatives).to(dtype)
    first = loss_and_gradients(item_cross_entropy, problem)
    before = _core.num_threads()
    try:
        for threads in (1, 2, 3, 5, 2):
            _core.set_num_threads(threads)
            for a, b in zip(first, loss_and_gradients(item_cross_entropy, problem), strict=True):
                assert torch.equal(a, b)
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("negatives", [None, 100])
@pytest.mark.parametrize("wanted", ["hidden", "table", "bias", "hidden table", "table bias", "hidden bias"])
def test_only_the_wanted_gradients(wanted: str, negatives: int | None) -> None:
    problem = draw(70, 150, 20, negatives=negatives)
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


def test_memory_of_a_frozen_table_does_not_grow_with_it() -> None:
    for rounded in (False, True):
        options = (4096, 64, False, rounded, True, False, False, False)
        assert _core.item_cross_entropy_scratch(4096, 10_000_000, *options) < 16e6


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="scratch: wanted sizes that a machine can hold"):
        _core.item_cross_entropy_scratch(2**40, 2**40, 2**40, 2**40, *[True] * 6)


@pytest.mark.parametrize("rounded", [False, True])
def test_memory_stays_small(rounded: bool) -> None:
    size = _core.item_cross_entropy_scratch(4096, 100_000, 4096, 64, False, rounded, True, True, True, True)
    assert size < 64e6


@pytest.mark.parametrize("negatives", [None, 6])
def test_gradcheck_of_the_reference(negatives: int | None) -> None:
    problem = draw([2, 0, 1], 7, 3, negatives=negatives).to(torch.float64)

    def loss(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return call(reference.item_cross_entropy, replace(problem, hidden=hidden, table=table, bias=bias))

    inputs = [x.requires_grad_() for x in (problem.hidden, problem.table, problem.bias) if x is not None]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("negatives", [None, 6])
def test_opcheck(negatives: int | None) -> None:
    problem = draw([2, 0, 1], 7, 3, negatives=negatives)
    floats = {n: getattr(problem, n).requires_grad_() for n in ("hidden", "table", "bias")}
    torch.library.opcheck(
        torch.ops.chronorec.item_cross_entropy.default,
        (*vars(replace(problem, **floats)).values(), True, True, True),
    )


@pytest.mark.parametrize("negatives", [None, 6])
def test_compile(negatives: int | None) -> None:
    problem = draw([2, 0, 1], 7, 3, negatives=negatives)

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


def test_the_order_of_targets_must_be_a_permutation() -> None:
    hidden, table, targets = torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([2, 1, 2])
    size = _core.item_cross_entropy_scratch(3, 5, 3, 4, False, False, False, True, False, False)
    for order, words in [
        ([1, 0, 0], "ascending positions among equal items, got 0 after 0"),
        ([1, 2, 0], "ascending positions among equal items, got 0 after 2"),
        ([0, 1, 2], "ascending items, got 1 after 2"),
    ]:
        order_and_rest = (
            torch.tensor(order),
            *[None] * 5,
            1.0,
            0.0,
            torch.zeros(1),
            None,
            torch.zeros(5, 4),
            None,
        )
        with pytest.raises(ValueError, match=f"target_order: wanted {words}"):
            _core.item_cross_entropy(hidden, table, targets, None, *order_and_rest, aligned_scratch(size))
