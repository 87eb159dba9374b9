"""Repeat consumption: which items of a history weigh how much, and the loss over both modes."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from chronorec.nn import Candidates, CopyHead, mixed_cross_entropy
from chronorec.nn.copy import SCALE
from chronorec.training import load_config, train
from tests.support.logs import basket_log, clock_log, histories_of

HOUR = 3_600_000_000
OFFSETS = torch.tensor([0, 4, 4, 9])
ITEMS = torch.tensor([3, 1, 3, 2, 7, 7, 1, 7, 1])
TIMES = torch.tensor([0, 5, 30, 31, 2, 50, 90, 91, 200]) * HOUR
ASKED = torch.tensor([5, 30, 31, 60, 50, 90, 91, 200, 224]) * HOUR


def head(timed: bool) -> CopyHead:
    torch.manual_seed(0)
    made = CopyHead(8, 4, timed=timed).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return made


def entry(table: Tensor, place: int) -> Tensor:
    return SCALE * table[place, 0]


def bucket(gap: int) -> int:
    return 0 if gap < 1_000_000 else math.floor(2 * math.log2(gap / 1_000_000) + 1e-9) + 1


def by_hand(made: CopyHead, states: Tensor, row: int, begin: int) -> dict[int, Tensor]:
    """The weights of the items up to ``row``, one occurrence after the other."""
    sums: dict[int, list[Tensor]] = {}
    waits: dict[int, int] = {}
    for j in range(begin, row + 1):
        gap = int(ASKED[row] - TIMES[j])
        value = entry(made.rank, row - j)
        follows = int(j > begin and ITEMS[j - 1] == ITEMS[row])
        follows += int(follows and j - 1 > begin and ITEMS[j - 2] == ITEMS[row - 1])
        value = value + entry(made.follow, follows)
        if made.timed:
            hours = gap // HOUR
            days = min(hours % 24, 24 - hours % 24)
            weeks = min(hours % 168, 168 - hours % 168)
            value = value + entry(made.gap, bucket(gap)) + entry(made.daily, min(2 * days, 23))
            value = value + entry(made.weekly, (weeks + 12) // 24)
        sums.setdefault(int(ITEMS[j]), []).append(value)
        waits[int(ITEMS[j])] = gap
    gate = made.gate(states[row])[0]
    return {
        item: torch.stack(values).logsumexp(0)
        + gate
        + entry(made.item, item)
        + entry(made.count, min(len(values) - 1, 15))
        + (entry(made.recency, bucket(waits[item])) if made.timed else 0)
        for item, values in sums.items()
    }


@pytest.mark.parametrize("timed", [False, True])
def test_candidates_are_those_counted_by_hand(timed: bool) -> None:
    made, states = head(timed), torch.randn(9, 4, dtype=torch.float64)
    found = made(states, ITEMS, OFFSETS, None, TIMES, ASKED)
    for row in range(9):
        own = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
        wanted = by_hand(made, states, row, 0 if row < 4 else 4)
        assert sorted(found.items[own].tolist()) == sorted(wanted)
        for item, weight in zip(found.items[own].tolist(), found.log_weights[own], strict=True):
            torch.testing.assert_close(weight, wanted[item])


def test_items_of_a_basket_are_candidates_of_its_token() -> None:
    bags = torch.tensor([0, 2, 3, 3, 5])
    made, states = head(False), torch.randn(4, 4, dtype=torch.float64)
    items, offsets = torch.tensor([3, 1, 3, 5, 1]), torch.tensor([0, 2, 4])
    found = made(states, items, offsets, bags, None, None)
    rows = [set(found.items[int(a) : int(b)].tolist()) for a, b in found.offsets.unfold(0, 2, 1)]
    assert rows == [{3, 1}, {3, 1}, set(), {5, 1}]


def naive(
    hidden: Tensor, table: Tensor, bias: Tensor, found: Candidates, targets: Tensor, target_offsets: Tensor
) -> Tensor:
    weights = (hidden @ table.T + bias).exp()
    losses = []
    for row in range(len(hidden)):
        own = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
        added = torch.zeros_like(table[:, 0]).index_add(0, found.items[own], found.log_weights[own].exp())
        mixed = (weights[row] + added).log()
        goals = targets[int(target_offsets[row]) : int(target_offsets[row + 1])]
        if len(goals):
            losses.append((mixed.logsumexp(0) - mixed[goals]).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_the_mixed_loss_and_its_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("chronorec.nn.mixed_cross_entropy"), "_CHUNK", chunk)
    torch.manual_seed(1)
    hidden, table, bias, weights = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 3), (11, 3), (11,), (6,))
    )
    offsets, items = torch.tensor([0, 2, 2, 3, 6, 6]), torch.tensor([4, 0, 10, 1, 2, 3])
    targets, target_offsets = torch.tensor([4, 7, 10, 3, 5, 2]), torch.tensor([0, 1, 2, 2, 5, 6])
    results = []
    for loss_of in (mixed_cross_entropy, naive):
        loss = loss_of(hidden, table, bias, Candidates(offsets, items, weights), targets, target_offsets)
        results.append((loss, *torch.autograd.grad(loss, (hidden, table, bias, weights))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


SMALL = ["model.kind=gru4rec", "model.width=8", "model.hidden_size=16", "model.dropout=0"]
SMALL += ["training.batch_tokens=512", "training.warmup_steps=5", "training.learning_rate=0.02"]


@pytest.mark.parametrize("copies", [True, False])
def test_people_take_again_what_they_took(copies: bool) -> None:
    """Every user has three staples among 300 items: nothing but the own history tells them."""
    histories = histories_of(basket_log(users=150, items=300, baskets=10))
    cuts = ["split.cut=1970-01-09", "split.validation_cut=1970-01-08", "split.protocol=temporal-basket"]
    settings = [*SMALL, *cuts, "training.epochs=12", f"model.copy={str(copies).lower()}"]
    run = train(load_config(overrides=settings), histories, quiet=True)
    assert (run.validation > 0.75) == copies


def test_the_hour_of_the_request_chooses_among_own_items() -> None:
    histories = histories_of(clock_log())
    settings = [*SMALL, "training.epochs=12", "model.copy=true", "model.request_time=true"]
    assert train(load_config(overrides=settings), histories, quiet=True).validation > 0.97
