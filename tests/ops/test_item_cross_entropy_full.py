"""Full softmax: what it shares with the other losses is in test_item_cross_entropy.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chronorec import _core
from chronorec.ops import item_cross_entropy
from tests.support.item_loss import (
    DTYPES,
    assert_matches_reference,
    call,
    draw,
    loss_and_gradients,
)
from tests.support.levels import without_amx
from tests.support.scratch import aligned_scratch

SHAPES = [(1, 1, 1), (2, 5, 3), (15, 16, 16), (17, 63, 31), (33, 64, 64), (65, 129, 17), (600, 300, 33)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "items", "depth"), SHAPES)
def test_full(rows: int, items: int, depth: int, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(rows, items, depth), dtype)
    assert_matches_reference(draw(rows, items, depth, bias=False), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "items", "depth"), [(256, 3000, 512), (16, 140_000, 4)])
def test_several_chunks_per_task(rows: int, items: int, depth: int, dtype: torch.dtype) -> None:
    assert_matches_reference(draw(rows, items, depth), dtype)


@pytest.mark.skipif(not _core.amx, reason="this machine has no tiles, or the level does not use them")
@pytest.mark.parametrize(("rows", "items", "depth"), [*SHAPES, (70, 1000, 128), (40, 30, 2)])
def test_vector_instructions_where_there_are_tiles(rows: int, items: int, depth: int) -> None:
    with without_amx():
        assert_matches_reference(draw(rows, items, depth), torch.bfloat16)


def test_options_equal_torch() -> None:
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


def test_an_item_can_be_the_ignored_one() -> None:
    problem = replace(draw(30, 9, 6), ignore_index=0)
    assert (problem.targets == 0).any()
    assert_matches_reference(problem)


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
