"""An exported model in the engine is the torch model, within its error budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from chronorec.engine.history import HistoryBatch, cut_tokens
from chronorec.engine.program import Program
from chronorec.models import GRU4Rec, SASRec, SequenceModel
from tests.support.budget import assert_within_budget
from tests.support.logs import basket_log, cycle_log, histories_of

MODELS: dict[str, Callable[[int], SequenceModel]] = {
    "sasrec": lambda items: SASRec(items, width=24, blocks=2, heads=3, max_length=9, item_bias=True),
    "gru4rec": lambda items: GRU4Rec(items, width=20, hidden_size=33, layers=2, max_length=9),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("basket", [False, True])
def test_engine_states_equal_torch(name: str, basket: bool) -> None:
    torch.manual_seed(3)
    histories = histories_of(basket_log(users=7) if basket else cycle_log(users=7))
    model = MODELS[name](histories.num_items).eval()
    with torch.no_grad():  # make every weight matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    lengths = np.array([0, 1, 2, 5, 9, 10, 18])
    begin = histories.offsets[:-1]
    events = np.concatenate([np.arange(b, b + n) for b, n in zip(begin, lengths, strict=True)])
    batch = HistoryBatch(
        histories.item[events],
        np.concatenate([[0], np.cumsum(lengths)]),
        histories.num_items,
        histories.time[events],
        {"session": histories.columns["session"][events]} if basket else {},
    )
    tokens = cut_tokens(batch, basket=basket, max_length=9)
    states = Program(model.export(histories.items, basket=basket)).run(tokens)
    offsets = torch.from_numpy(tokens.offsets)
    bags = None if tokens.bag_offsets is None else torch.from_numpy(tokens.bag_offsets)
    filled = np.diff(tokens.offsets) > 0
    with torch.no_grad():
        outputs = model(torch.from_numpy(tokens.items).long(), offsets, bags)
    expected = outputs[offsets[1:][torch.from_numpy(filled)] - 1]
    # no float64 twin runs through the kernels: the bound is a few roundings of a 64-term sum per layer
    assert_within_budget(
        torch.from_numpy(states[filled]), expected + 32 * torch.finfo(torch.float32).eps, expected.double()
    )
    assert np.isfinite(states).all()


def test_cut_keeps_the_last_tokens() -> None:
    histories = histories_of(cycle_log(users=2, events=5))
    batch = HistoryBatch(histories.item, histories.offsets, histories.num_items)
    tokens = cut_tokens(batch, basket=False, max_length=3)
    assert tokens.offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(tokens.items, np.concatenate([histories.item[2:5], histories.item[7:10]]))


def test_a_token_sees_nothing_after_it() -> None:
    for make in MODELS.values():
        torch.manual_seed(0)
        model = make(50).eval()
        items = torch.randint(0, 50, (9,))
        changed = items.clone()
        changed[5:] = (changed[5:] + 1) % 50
        offsets = torch.tensor([0, 9])
        with torch.no_grad():
            before, after = model(items, offsets), model(changed, offsets)
        assert torch.equal(before[:5], after[:5])
        assert not torch.equal(before[5:], after[5:])


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="wanted a multiple of heads=3, got 64"):
        SASRec(10, width=64, heads=3)
