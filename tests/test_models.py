"""An exported model in the engine is the torch model, within its error budget."""

from __future__ import annotations

import copy
import importlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chronorec.artifact import Artifact
from chronorec.data import Histories
from chronorec.data.jagged import offsets_of, ranges
from chronorec.data.profile import Profile, ProfileColumn
from chronorec.engine import Engine
from chronorec.engine.history import HistoryBatch, Tokens, cut_tokens
from chronorec.models import (
    HSTU,
    BERT4Rec,
    DualEncoder,
    GRU4Rec,
    LogBilinear,
    SASRec,
    SequenceModel,
    Sequences,
)
from tests.support.budget import assert_within_budget
from tests.support.logs import DAY, basket_log, cycle_log, histories_of

Settings = dict[str, Any]

#: Of width 24 (GRU4Rec 20), with tokens that see 9 of a history; those that slide see 5.
MODELS: dict[str, tuple[type[SequenceModel], Settings]] = {
    "sasrec": (SASRec, {"heads": 3}),
    "sasrec with time": (SASRec, {"time_bias": True, "block": "swiglu"}),
    "sasrec sliding": (SASRec, {"position": "relative", "block": "ligr", "max_length": 5}),
    "sasrec sliding with time": (SASRec, {"position": "relative", "max_length": 5, "time_bias": True}),
    "hstu sliding with time": (HSTU, {"heads": 3, "max_length": 5}),
    "hstu sliding": (HSTU, {"time_bias": False, "max_length": 5}),
    "sasrec sliding with times": (
        SASRec,
        {"position": "relative", "max_length": 4, "time_features": True, "request_time": True},
    ),
    "bert4rec": (BERT4Rec, {"block": "ligr", "position": "absolute"}),
    "bert4rec with times": (
        BERT4Rec,
        {"time_bias": True, "time_features": True, "max_length": 6},
    ),
    "gru4rec": (GRU4Rec, {"width": 20, "hidden_size": 33, "layers": 2}),
    "lstm": (GRU4Rec, {"width": 20, "hidden_size": 33, "layers": 2, "cell": "lstm", "tied": False}),
    "rnn": (GRU4Rec, {"width": 20, "hidden_size": 31, "cell": "rnn"}),
    "gru with copies": (GRU4Rec, {"copy": True}),
    "gru with timed copies": (GRU4Rec, {"copy": True, "request_time": True, "tied": False}),
    "gru with times": (GRU4Rec, {"time_features": True, "timezone": "America/New_York"}),
    "gru with a time gate": (GRU4Rec, {"time_gate": True, "hidden_size": 33}),
    "lstm with a time gate": (GRU4Rec, {"time_gate": True, "cell": "lstm", "time_features": True}),
    "gru with types": (GRU4Rec, {"event_types": 3, "time_features": True}),
    "sasrec with types": (SASRec, {"event_types": 3}),
    "hstu sliding with types": (HSTU, {"event_types": 3, "max_length": 5}),
    "bert4rec with types": (BERT4Rec, {"event_types": 3, "time_features": True}),
    "gru with a profile": (GRU4Rec, {"profile": [2, 3]}),
    "sasrec with a profile": (SASRec, {"profile": [2, 3], "time_bias": True, "request_time": True}),
    "log-bilinear": (LogBilinear, {}),
    "log-bilinear sliding with times": (
        LogBilinear,
        {"tied": False, "time_features": True, "request_time": True},
    ),
    "log-bilinear with copies": (LogBilinear, {"copy": True, "max_length": 5}),
    "dual encoder": (DualEncoder, {"hidden_size": 17}),
    "dual encoder with times": (
        DualEncoder,
        {"tied": False, "candidates": 5, "time_features": True, "request_time": True, "max_length": 4},
    ),
    "gru with the request": (GRU4Rec, {"request_time": True, "timezone": "America/New_York"}),
}


def _model(name: str, items: int, bias: bool) -> SequenceModel:
    """The model, with every weight away from its start so that it matters."""
    kind, settings = MODELS[name]
    if kind is DualEncoder:
        settings = settings | {"features": np.random.default_rng(0).normal(size=(items, 5)).astype("f")}
    model = kind(items, **{"width": 24, "max_length": 9, "item_bias": bias, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


TYPED = {name: settings.get("event_types", 0) for name, (_, settings) in MODELS.items()}
TYPES = ["view", "cart", "buy"]
PROFILED = {name: settings.get("profile", []) for name, (_, settings) in MODELS.items()}
PROFILE = Profile([ProfileColumn("sex", values=["f", "m"]), ProfileColumn("age", boundaries=[20.0, 50.0])])
PROFILES: list[dict[str, Any]] = [
    {"sex": "m", "age": 19.5},
    {"sex": "f", "age": 20},
    {},
    {"age": 50.0, "sex": "other"},
    {"sex": None, "age": 30, "hat": "red"},
    {"sex": "m"},
]
#: Models, with events and with baskets; event types are those of events.
MODES = [(name, basket) for name in MODELS for basket in (False, True) if not (basket and TYPED[name])]
CAUSAL = [name for name, (kind, _) in MODELS.items() if kind is not BERT4Rec]
#: Models whose states depend on a bounded number of tokens.
SLIDING = [name for name in MODELS if "sliding" in name]


@pytest.fixture
def plain_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules call the references, in plain torch, instead of the kernels."""
    for module, name in (
        *((cell, cell) for cell in ("gru", "lstm", "rnn")),
        ("attention", "jagged_attention"),
        ("hstu", "jagged_attention"),
        ("fusion", "jagged_attention"),
    ):
        reference = importlib.import_module(f"chronorec.ops.reference.{name}")
        monkeypatch.setattr(importlib.import_module(f"chronorec.nn.{module}"), name, getattr(reference, name))


def sequences_of(tokens: Tokens) -> Sequences:
    """What the engine's program reads, as the torch model reads it."""
    asked = np.append(tokens.times[1:], 0)
    asked[tokens.offsets[1:] - 1] = tokens.at
    return Sequences(
        torch.from_numpy(tokens.items).long(),
        torch.from_numpy(tokens.offsets),
        None if tokens.bag_offsets is None else torch.from_numpy(tokens.bag_offsets),
        torch.from_numpy(tokens.times),
        torch.from_numpy(asked),
        None if tokens.types is None else torch.from_numpy(tokens.types).long(),
        None if tokens.profile is None else torch.from_numpy(tokens.profile).long(),
    )


def _scores(model: SequenceModel, tokens: Tokens, dtype: torch.dtype) -> Tensor:
    """Scores [B, V] of the torch model computed in ``dtype``."""
    twin = copy.deepcopy(model).to(dtype)
    sequences = sequences_of(tokens)
    with torch.no_grad():
        return twin.scores(sequences)


def _requests(name: str, basket: bool, bias: bool) -> tuple[Histories, SequenceModel, HistoryBatch]:
    """A model in which every weight matters, and requests of several lengths at irregular times."""
    torch.manual_seed(3)
    histories = histories_of(basket_log(users=6) if basket else cycle_log(users=6))
    model = _model(name, histories.num_items, bias)
    lengths = np.array([1, 2, 5, 9, 10, 18])
    events = ranges(histories.offsets[:-1], lengths)
    offsets = offsets_of(lengths)
    columns = {"session": histories.columns["session"][events]} if basket else {}
    if TYPED.get(name):
        columns["event_type"] = np.arange(len(events), dtype=np.int32) * 7 % 5 % 4 - 1
    time = irregular(histories.time[events])
    at = time[offsets[1:] - 1] + 5 * 3600 * 10**6
    profile = np.array([PROFILE.codes_of(own)[0] for own in PROFILES]) if PROFILED[name] else None
    batch = HistoryBatch(histories.item[events], offsets, histories.num_items, time, columns, at, profile)
    return histories, model, batch


def irregular(days: np.ndarray) -> np.ndarray:
    """Times that ascend as ``days`` do, by gaps that grow."""
    return days + (days // DAY) ** 2 * 7000 * 10**6


def exported(name: str, model: SequenceModel, histories: Histories, basket: bool) -> Artifact:
    profile = PROFILE.to_plain() if PROFILED[name] else []
    fields = {"basket": basket, "event_types": TYPES[: TYPED[name]], "profile": profile}
    return model.export(histories.items, **fields)


@pytest.mark.parametrize(("name", "basket"), MODES)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.usefixtures("plain_ops")
def test_engine_scores_equal_torch(name: str, basket: bool, bias: bool) -> None:
    histories, model, batch = _requests(name, basket, bias)
    tokens = cut_tokens(batch, basket=basket, max_length=model.history_length)
    engine = Engine(exported(name, model, histories, basket))
    ids = np.array(histories.items.column("item").to_pylist())
    scores = [
        engine.score(
            ids[batch.item[a:b]].tolist(),
            ids.tolist(),
            times=batch.time[a:b].tolist(),
            sessions=batch.columns["session"][a:b].tolist() if basket else None,
            events=engine.event_types.names_of(batch.columns["event_type"][a:b]) if TYPED[name] else None,
            at=int(at),
            profile=profile if PROFILED[name] else None,
        )
        for (a, b), at, profile in zip(pairwise(batch.offsets), batch.at, PROFILES, strict=True)
    ]
    assert_within_budget(
        torch.from_numpy(np.stack(scores)),
        _scores(model, tokens, torch.float32),
        _scores(model, tokens, torch.float64),
        name,
    )


@pytest.mark.parametrize(("name", "basket"), MODES)
def test_an_empty_history_has_finite_scores(name: str, basket: bool) -> None:
    histories = histories_of(basket_log(users=6) if basket else cycle_log(users=6))
    model = _model(name, histories.num_items, True)
    engine = Engine(exported(name, model, histories, basket))
    assert np.isfinite(engine.score([], histories.items.column("item").to_pylist(), times=[])).all()


@pytest.mark.parametrize("name", SLIDING)
def test_the_cut_loses_nothing_that_the_state_depends_on(name: str) -> None:
    """So that a state kept while events come equals one computed again from the cut history."""
    _, model, batch = _requests(name, False, True)
    whole = cut_tokens(batch, basket=False, max_length=1000)
    cut = cut_tokens(batch, basket=False, max_length=model.max_length)
    assert len(cut.items) < len(whole.items)
    with torch.no_grad():
        kept, again = (
            model(sequences)[sequences.offsets[1:] - 1] for sequences in map(sequences_of, (whole, cut))
        )
    torch.testing.assert_close(kept, again)


def test_cut_keeps_the_last_tokens() -> None:
    histories = histories_of(cycle_log(users=2, events=5))
    batch = HistoryBatch(histories.item, histories.offsets, histories.num_items)
    tokens = cut_tokens(batch, basket=False, max_length=3)
    assert tokens.offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(tokens.items, np.concatenate([histories.item[2:5], histories.item[7:10]]))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_token_sees_nothing_after_it(name: str) -> None:
    """Neither a later item nor a later time; of the token after it only when it comes."""
    torch.manual_seed(0)
    model = _model(name, 50, True)
    items, times = torch.randint(0, 50, (9,)), torch.arange(10) ** 2 * 3600 * 10**6
    others, later, types = items.clone(), times.clone(), torch.arange(9) % 4 - 1
    other_types = types.clone()
    profile = torch.tensor([[1, -1]])
    other_types[5:] = (types[5:] + 2) % 4 - 1
    others[5:] = (others[5:] + 1) % 50
    later[6:] += 40 * 3600 * 10**6

    def states(items: Tensor, times: Tensor, types: Tensor = types) -> Tensor:
        with torch.no_grad():
            return model(Sequences(items, torch.tensor([0, 9]), None, times[:-1], times[1:], types, profile))

    before, after, delayed = states(items, times), states(others, times), states(items, later)
    typed = states(items, times, other_types)
    assert torch.equal(before[:5], typed[:5])
    assert torch.equal(before, typed) == (not TYPED[name])
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5:], after[5:])
    assert torch.equal(before[:5], delayed[:5])
    assert torch.equal(before, delayed) == (not model.needs_time)


@pytest.mark.parametrize("basket", [False, True], ids=["event", "basket"])
def test_what_is_hidden_is_not_seen(basket: bool) -> None:
    """Hiding everything, no state depends on the items and their types; the targets are the items in the
    order of tokens."""
    torch.manual_seed(0)
    typed = not basket
    model = BERT4Rec(50, width=8, heads=2, max_length=9, mask_share=1.0, event_types=2 * typed).eval()
    if model.event_type is not None:
        torch.nn.init.normal_(model.event_type.table)
    sizes = torch.tensor([2, 1, 3, 1, 2, 1] if basket else [1] * 6)
    bags = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    items, others = torch.arange(10)[: int(bags[-1])], torch.arange(30, 40)[: int(bags[-1])]
    given = torch.tensor([0, 2, 6]), bags if basket else None, None, None
    types = [torch.tensor(x) for x in ([0, 1, -1, 1, 0, 1], [1, 0, 1, -1, 1, 0])] if typed else [None, None]
    targets, target_offsets = torch.arange(20, 20 + int(bags[-1])), bags if basket else None
    with torch.no_grad():
        one, other = (
            model.predictions(Sequences(x, *given, kind), targets, target_offsets)
            for x, kind in zip((items, others), types, strict=True)
        )
    assert torch.equal(one.states, other.states)
    found = one.targets.tolist()
    if basket:
        assert found == [0, 1, 2, 22, 3, 4, 5, 6, 7, 8, 9, 29]
        assert one.target_offsets.diff().tolist() == [2, 1, 1, 3, 1, 2, 1, 1]
    else:
        assert found == [0, 1, 21, 2, 3, 4, 5, 25]


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="wanted a multiple of heads=3, got 64"):
        SASRec(10, width=64, heads=3)
