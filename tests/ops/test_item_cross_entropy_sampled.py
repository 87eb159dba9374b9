"""Losses over negatives: what they share with full softmax is in test_item_cross_entropy.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
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

SAMPLED = KINDS[1:]


def assert_equivalent(a: Problem, b: Problem) -> None:
    """Loss and gradients are the same up to rounding."""
    torch.testing.assert_close(
        loss_and_gradients(item_cross_entropy, a), loss_and_gradients(item_cross_entropy, b)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives", [0, 1, 15, 17, 64, 200])
@pytest.mark.parametrize("kind", SAMPLED)
def test_sizes(kind: str, negatives: int, dtype: torch.dtype) -> None:
    options = options_of(kind, negatives)
    for rows, items, depth in [(1, 1, 1), (17, 63, 31), (120, 300, 64), (19, 70, 130)]:
        assert_matches_reference(draw(rows, items, depth, **options), dtype)
    assert_matches_reference(draw(17, 63, 31, bias=False, log_q=False, **options), dtype)


@pytest.mark.parametrize("kind", ["rows", "gbce", "bpr"])
@pytest.mark.parametrize("items", [255, 257, 1000])
def test_buckets_of_items(items: int, kind: str) -> None:
    assert_matches_reference(draw([2, 0, 1] * 30, items, 6, **options_of(kind, 25)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_items(dtype: torch.dtype) -> None:
    """What a table of a million items gets is what its few sampled ones get alone."""
    few = draw(50, 300, 6, **options_of("gbce"))
    places = torch.arange(300) * 3333 + 7
    table, bias = torch.zeros(1_000_000, 6), torch.zeros(1_000_000)
    table[places], bias[places] = few.table, few.bias
    many = replace(few, table=table, bias=bias, targets=places[few.targets], negatives=places[few.negatives])
    few, many = (replace(problem, calibration=0.0).to(dtype) for problem in (few, many))
    loss, hidden, table, bias = loss_and_gradients(item_cross_entropy, many)
    expected = loss_and_gradients(item_cross_entropy, few)
    for a, b in zip((loss, hidden, table[places], bias[places]), expected, strict=True):
        assert torch.equal(a, b)
    assert table.count_nonzero() == expected[2].count_nonzero()


@pytest.mark.parametrize("calibration", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["gbce", "gbce shared"])
def test_calibration(kind: str, calibration: float) -> None:
    assert_matches_reference(replace(draw(60, 90, 12, **options_of(kind)), calibration=calibration))


def test_gbce_is_the_formula_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(7, 5, generator=generator), torch.randn(50, 5, generator=generator)
    targets, negatives = torch.arange(7), torch.randint(7, 50, (7, 10), generator=generator)
    sampled = 10 / 49
    beta = sampled * (0.75 * (1 - 1 / sampled) + 1 / sampled)
    right = (hidden * table[targets]).sum(1)
    wrong = (hidden[:, None] * table[negatives]).sum(2)
    losses = beta * F.logsigmoid(right) + torch.log(1 - torch.sigmoid(wrong)).sum(1)
    actual = item_cross_entropy(hidden, table, targets, loss="gbce", negatives=negatives)
    torch.testing.assert_close(actual, -losses.mean() / 11)
    plain = F.binary_cross_entropy_with_logits(
        torch.cat([right[:, None], wrong], 1), torch.eye(11)[:1].expand(7, -1)
    )
    uncalibrated = item_cross_entropy(
        hidden, table, targets, loss="gbce", negatives=negatives, calibration=0.0
    )
    torch.testing.assert_close(uncalibrated, plain)


def test_bpr_is_the_formula_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(7, 5, generator=generator), torch.randn(50, 5, generator=generator)
    targets, negatives = torch.arange(7), torch.randint(7, 50, (7, 1), generator=generator)
    difference = (hidden * (table[targets] - table[negatives[:, 0]])).sum(1)
    actual = item_cross_entropy(hidden, table, targets, loss="bpr", negatives=negatives)
    torch.testing.assert_close(actual, -F.logsigmoid(difference).mean())


@pytest.mark.parametrize("loss", ["softmax", "gbce", "bpr"])
def test_shared_negatives_equal_the_same_for_every_row(loss: str) -> None:
    problem = draw([1, 2, 0, 3] * 10, 70, 16, negatives=30, loss=loss)
    assert problem.negatives is not None
    own = replace(problem, negatives=problem.negatives.repeat(40, 1))
    if problem.negative_log_q is not None:
        own = replace(own, negative_log_q=problem.negative_log_q.repeat(40, 1))
    assert_equivalent(problem, own)


@pytest.mark.parametrize("kind", SAMPLED)
def test_order_of_negatives_does_not_matter(kind: str) -> None:
    problem = draw(40, 30, 16, **options_of(kind, 64))
    p = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    log_q = problem.negative_log_q
    shuffled = replace(
        problem,
        negatives=problem.negatives[..., p],
        negative_log_q=None if log_q is None else log_q[..., p],
    )
    assert_equivalent(shuffled, problem)


@pytest.mark.parametrize("kind", SAMPLED)
def test_accidental_hits_are_masked_and_duplicates_count(kind: str) -> None:
    options = options_of(kind, 0)
    problem = replace(draw([2], 10, 4, log_q=False, **options), targets=torch.tensor([3, 7]))

    def against(*negatives: int) -> list[Tensor]:
        ids = torch.tensor(negatives, dtype=torch.int64)
        # the exponent of gbce depends on how many were drawn, hits included
        drawn = replace(problem, negatives=ids[None] if options["own"] else ids, calibration=0.0)
        return loss_and_gradients(item_cross_entropy, drawn)

    for a, b in zip(against(7, 1, 3, 1, 3), against(1, 1), strict=True):
        torch.testing.assert_close(a, b)
    if problem.loss == "bpr":
        torch.testing.assert_close(against(1, 1, 2)[0] * 3, against(1)[0] * 2 + against(2)[0])
    elif problem.loss == "softmax":
        assert against(1, 1)[0] > against(1)[0]
    for result in against(7, 3, 3):
        if problem.loss == "gbce":  # the targets still count
            assert result.any()
        else:
            assert not result.any()


def test_duplicates_across_chunks() -> None:
    problem = draw([1, 2, 1, 1], 3, 5, negatives=300)
    assert_matches_reference(problem)
    assert_matches_reference(problem, torch.bfloat16)
