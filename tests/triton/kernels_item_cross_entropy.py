"""item_cross_entropy in Triton's interpreter: the properties of its CPU kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec.ops import item_cross_entropy
from tests.support.item_loss import (
    DTYPES,
    KINDS,
    assert_matches_reference,
    draw,
    loss_and_gradients,
    options_of,
)

BASKETS = [1, 0, 3, 2, 0, 5, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_budget(kind: str, dtype: torch.dtype) -> None:
    count, items, negatives = (67, 130, 70) if kind in ("full", "shared") else (9, 40, 33)
    assert_matches_reference(draw(count, items, 70, **options_of(kind, negatives)), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_baskets(kind: str) -> None:
    assert_matches_reference(draw(BASKETS, 90, 12, **options_of(kind, 9)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_temperature_and_ignored_targets(kind: str) -> None:
    problem = draw(22, 40, 8, **options_of(kind, 5))
    problem.targets[[3, 20]] = -100
    weights = torch.rand(22, generator=torch.Generator().manual_seed(1))
    weights[[5, 6]] = 0
    assert_matches_reference(replace(problem, weights=weights, temperature=0.3))


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothing(smoothing: float) -> None:
    assert_matches_reference(replace(draw(BASKETS, 90, 12), label_smoothing=smoothing))


@pytest.mark.parametrize("kind", KINDS)
def test_wide_rows_and_no_bias(kind: str) -> None:
    assert_matches_reference(draw(8, 30, 200, bias=False, log_q=False, **options_of(kind, 5)))


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_counts(kind: str) -> None:
    problem = draw(9, 20, 4, **options_of(kind, 9))
    problem.targets.fill_(-100)
    for result in loss_and_gradients(item_cross_entropy, problem):
        assert not result.any()


@pytest.mark.parametrize("kind", ["shared", "rows", "bpr"])
def test_every_negative_is_a_hit(kind: str) -> None:
    problem = draw(5, 20, 4, **options_of(kind, 3))
    problem.targets.fill_(7)
    assert problem.negatives is not None
    problem.negatives.fill_(7)
    for result in loss_and_gradients(item_cross_entropy, problem):
        assert not result.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["hidden", "table", "bias"])
def test_only_the_gradients_that_are_wanted(kind: str, wanted: str) -> None:
    problem = draw(6, 30, 8, **options_of(kind, 5))
    whole = dict(
        zip(["loss", "hidden", "table", "bias"], loss_and_gradients(item_cross_entropy, problem), strict=True)
    )
    some = loss_and_gradients(item_cross_entropy, problem, wanted)
    for name, result in zip(["loss", *wanted.split()], some, strict=True):
        assert torch.equal(result, whole[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_runs_agree_bitwise(kind: str) -> None:
    problem = draw(9, 80, 8, **options_of(kind, 5))
    first: list[Tensor] = loss_and_gradients(item_cross_entropy, problem)
    for a, b in zip(first, loss_and_gradients(item_cross_entropy, problem), strict=True):
        assert torch.equal(a, b)


@settings(max_examples=5)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(4, 70), st.sampled_from(KINDS))
def test_draws(lengths: list[int], items: int, kind: str) -> None:
    assert_matches_reference(draw(lengths, items, 5, **options_of(kind, 5)))
