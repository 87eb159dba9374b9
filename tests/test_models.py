"""An exported model in the engine is the torch model, within its error budget."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from chronorec.data.jagged import ranges
from chronorec.engine import Engine
from chronorec.engine.history import HistoryBatch, Tokens, cut_tokens
from chronorec.models import GRU4Rec, SASRec, SequenceModel, Sequences
from tests.support.budget import assert_within_budget
from tests.support.logs import basket_log, cycle_log, histories_of

MODELS: dict[str, Callable[[int, bool], SequenceModel]] = {
    "sasrec": lambda items, bias: SASRec(items, width=24, blocks=2, heads=3, max_length=9, item_bias=bias),
    "gru4rec": lambda items, bias: GRU4Rec(
        items, width=20, hidden_size=33, layers=2, max_length=9, item_bias=bias
    ),
}


@pytest.fixture
def plain_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules call the references, in plain torch, instead of the kernels."""
    for module, name in (("gru", "gru"), ("attention", "jagged_attention")):
        reference = importlib.import_module(f"chronorec.ops.reference.{name}")
        monkeypatch.setattr(importlib.import_module(f"chronorec.nn.{module}"), name, getattr(reference, name))


def sequences_of(tokens: Tokens) -> Sequences:
    """What the engine's program reads, as the torch model reads it."""
    given = (tokens.bag_offsets, tokens.times, tokens.asked)
    return Sequences(
        torch.from_numpy(tokens.items).long(),
        torch.from_numpy(tokens.offsets),
        *(None if values is None else torch.from_numpy(values) for values in given),
    )


def _scores(model: SequenceModel, tokens: Tokens, dtype: torch.dtype) -> Tensor:
    """Scores [B, V] of the torch model computed in ``dtype``."""
    twin = copy.deepcopy(model).to(dtype)
    sequences = sequences_of(tokens)
    with torch.no_grad():
        states = twin(sequences)[sequences.offsets[1:] - 1]
        scores = states @ twin.item_embedding.T
        return scores if twin.item_bias is None else scores + twin.item_bias


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("basket", [False, True], ids=["event", "basket"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.usefixtures("plain_ops")
def test_engine_scores_equal_torch(name: str, basket: bool, bias: bool) -> None:
    torch.manual_seed(3)
    histories = histories_of(basket_log(users=6) if basket else cycle_log(users=6))
    model = MODELS[name](histories.num_items, bias).eval()
    with torch.no_grad():  # make every weight matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    lengths = np.array([1, 2, 5, 9, 10, 18])
    events = ranges(histories.offsets[:-1], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {"session": histories.columns["session"][events]} if basket else {}
    batch = HistoryBatch(histories.item[events], offsets, histories.num_items, None, columns)
    tokens = cut_tokens(batch, basket=basket, max_length=9)

    engine = Engine(model.export(histories.items, basket=basket))
    ids = np.array(histories.items.column("item").to_pylist())
    rows = [slice(a, b) for a, b in pairwise(offsets)]
    scores = [
        engine.score(
            ids[batch.item[row]].tolist(),
            ids.tolist(),
            sessions=columns["session"][row].tolist() if basket else None,
        )
        for row in rows
    ]
    assert_within_budget(
        torch.from_numpy(np.stack(scores)),
        _scores(model, tokens, torch.float32),
        _scores(model, tokens, torch.float64),
        name,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("basket", [False, True], ids=["event", "basket"])
def test_an_empty_history_has_finite_scores(name: str, basket: bool) -> None:
    histories = histories_of(basket_log(users=6) if basket else cycle_log(users=6))
    model = MODELS[name](histories.num_items, True).eval()
    engine = Engine(model.export(histories.items, basket=basket))
    assert np.isfinite(engine.score([], histories.items.column("item").to_pylist())).all()


def test_cut_keeps_the_last_tokens() -> None:
    histories = histories_of(cycle_log(users=2, events=5))
    batch = HistoryBatch(histories.item, histories.offsets, histories.num_items)
    tokens = cut_tokens(batch, basket=False, max_length=3)
    assert tokens.offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(tokens.items, np.concatenate([histories.item[2:5], histories.item[7:10]]))


def test_a_token_sees_nothing_after_it() -> None:
    for make in MODELS.values():
        torch.manual_seed(0)
        model = make(50, True).eval()
        items = torch.randint(0, 50, (9,))
        changed = items.clone()
        changed[5:] = (changed[5:] + 1) % 50
        offsets = torch.tensor([0, 9])
        with torch.no_grad():
            before, after = (model(Sequences(given, offsets)) for given in (items, changed))
        assert torch.equal(before[:5], after[:5])
        assert not torch.equal(before[5:], after[5:])


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="wanted a multiple of heads=3, got 64"):
        SASRec(10, width=64, heads=3)
