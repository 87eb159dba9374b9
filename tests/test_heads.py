"""What is predicted beside the next item: the engine against torch, and every answer by a behaviour."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data import Histories
from chronorec.engine import Engine, Predictor, Rules, Sessions
from chronorec.models import Popularity, SequenceModel, Sequences
from chronorec.models.heads import BehaviourHead, ClassHead, Examples, ValueHead
from chronorec.nn import PairHead
from chronorec.ops.reference.gru import gru as reference_gru
from chronorec.server import Service, make_app
from tests.support.budget import assert_within_budget
from tests.support.labels import TYPES, labelled, model_with_heads

HISTORIES = labelled()
IDS = HISTORIES.items.column("item").to_pylist()
LENGTHS = (1, 4, 9, 17)
DAY = 86_400_000_000


def asked(length: int) -> dict[str, Any]:
    """A history with times, and when the answer is asked for."""
    times = [place * DAY for place in range(length)]
    return {"history": [IDS[place % 7] for place in range(length)], "times": times, "at": length * DAY}


def state_of(model: SequenceModel, length: int, dtype: torch.dtype) -> tuple[SequenceModel, Tensor, Tensor]:
    """The model in a dtype, the state after that history and the scores of all items."""
    twin = copy.deepcopy(model).to(dtype)
    request = asked(length)
    times = torch.tensor(request["times"])
    sequences = Sequences(
        torch.tensor([IDS.index(item) for item in request["history"]]),
        torch.tensor([0, length]),
        times=times,
        asked=torch.cat([times[1:], torch.tensor([request["at"]])]),
    )
    with torch.no_grad():
        return twin, twin.last_states(sequences), twin.scores(sequences)


def beside_all(model: SequenceModel, name: str, length: int, dtype: torch.dtype) -> Tensor:
    """What a torch head says of every item after that history: [V] or [V, K] probabilities."""
    twin, states, _ = state_of(model, length, dtype)
    items = torch.arange(len(IDS))
    with torch.no_grad():
        found: Tensor = twin.heads[name](states.expand(len(items), -1), items, twin.output_table)
    return found.exp() if isinstance(twin.heads[name], ClassHead) else found


def overall(model: SequenceModel, length: int, dtype: torch.dtype) -> Tensor:
    _, _, scores = state_of(model, length, dtype)
    return scores.softmax(1)[0] @ beside_all(model, "behaviour", length, dtype)


@pytest.fixture
def plain_gru(monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain torch, which knows float64."""
    monkeypatch.setattr(importlib.import_module("chronorec.nn.gru"), "gru", reference_gru)


MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied with the request": {"tied": False, "request_time": True, "time_features": True},
    "with copies": {"copy": True},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("plain_gru")
def test_the_engine_answers_as_torch_does(name: str, length: int) -> None:
    model = model_with_heads(HISTORIES, **MODELS[name])
    predictor, request = Predictor(Engine(model.export(HISTORIES.items))), asked(length)
    assert predictor.behaviours == sorted(TYPES, key=HISTORIES.event_types.index)
    answers = {
        "behaviour": (predictor.behaviour(items=IDS, **request), beside_all),
        "value": (predictor.value(items=IDS, **request), beside_all),
    }
    for head, (found, function) in answers.items():
        wanted = [function(model, head, length, dtype) for dtype in (torch.float32, torch.float64)]
        assert_within_budget(torch.from_numpy(found), *wanted, head)
    found = torch.from_numpy(predictor.overall_behaviour(**request))
    wanted = [overall(model, length, dtype) for dtype in (torch.float32, torch.float64)]
    assert_within_budget(found, *wanted, "overall", torch.float32)


@pytest.mark.usefixtures("plain_gru")
def test_values_as_classes() -> None:
    model = model_with_heads(HISTORIES, value_as="class")
    predictor, request = Predictor(Engine(model.export(HISTORIES.items))), asked(6)
    assert predictor.value_classes == [1, 2, 3, 4]
    shares = predictor.value_shares(items=IDS, **request)
    wanted = [beside_all(model, "value", 6, dtype) for dtype in (torch.float32, torch.float64)]
    assert_within_budget(torch.from_numpy(shares), *wanted)
    np.testing.assert_allclose(predictor.value(items=IDS, **request), shares @ np.arange(1, 5), rtol=1e-6)


def test_unknown_items_have_no_answer_and_an_empty_history_has_one() -> None:
    predictor = Predictor(Engine(model_with_heads(HISTORIES).export(HISTORIES.items)))
    found = predictor.behaviour(IDS[:3], ["nothing", IDS[4]])
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1].sum(), 1, rtol=1e-6)
    assert np.isnan(predictor.value([], ["nothing"])).all()
    np.testing.assert_allclose(predictor.overall_behaviour([]).sum(), 1, rtol=1e-6)


def test_items_that_cannot_come_have_no_say_overall() -> None:
    """With one item left, overall is what holds for that item."""
    predictor = Predictor(Engine(model_with_heads(HISTORIES).export(HISTORIES.items)))
    history = IDS[:-1]
    found = predictor.overall_behaviour(history, exclude_seen=True)
    np.testing.assert_allclose(found, predictor.behaviour(history, IDS[-1:])[0], rtol=1e-5)
    assert np.abs(predictor.overall_behaviour(history) - found).max() > 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_an_answer_by_a_behaviour(name: str, precision: Any) -> None:
    """Best first by P(item) P(behaviour | item), by every door and under other rules."""
    artifact = model_with_heads(HISTORIES, **MODELS[name]).export(HISTORIES.items)
    engine, request = Engine(artifact, precision), asked(5)
    given = Predictor(engine).behaviour(items=IDS, **request)
    for number, behaviour in enumerate(HISTORIES.event_types):
        scores = engine.score(request["history"], IDS, times=request["times"], at=request["at"])
        joint = scores + np.log(given[:, number])
        order = [IDS[code] for code in np.argsort(-joint, kind="stable")]
        rules = Rules(behaviour=behaviour)
        answer = engine.recommend(**request, k=5, rules=rules)
        assert answer.items == order[:5]
        np.testing.assert_allclose(answer.scores, np.sort(joint)[::-1][:5], rtol=1e-4, atol=1e-5)
        seen = set(request["history"])
        unseen = engine.recommend(**request, k=3, rules=rules, exclude_seen=True).items
        assert unseen == [item for item in order if item not in seen][:3]
        some = engine.recommend(**request, k=3, rules=rules, candidates=order[::2], exclude=order[2:3]).items
        assert some == [order[0], order[4], order[6]]
        pinned = dataclasses.replace(rules, pin=[(1, order[-1])])
        assert engine.recommend(**request, k=2, rules=pinned).items == [order[-1], order[0]]


def test_sessions_and_batches_answer_by_a_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rules = Engine(model_with_heads(HISTORIES).export(HISTORIES.items)), Rules(behaviour="buy")
    sessions = Sessions(engine, memory="1M")
    rows = [asked(length)["history"] for length in LENGTHS]
    for user, row in enumerate(rows):
        for item in row:
            sessions.append(user, item)
    one = [engine.recommend(row, k=4, rules=rules) for row in rows]
    monkeypatch.setattr("chronorec.engine.choice._MOST_SCORES", 2 * len(IDS))
    together = engine.recommend_batch({"items": rows}, k=4, rules=rules)
    assert together["items"].to_pylist() == [answer.items for answer in one]
    np.testing.assert_array_equal(
        np.concatenate(together["scores"].to_pylist()), np.concatenate([answer.scores for answer in one])
    )
    for user, answer in enumerate(one):
        kept = sessions.recommend(user, k=4, rules=rules)
        assert kept.items == answer.items
        np.testing.assert_allclose(kept.scores, answer.scores, rtol=1e-5)


def test_a_server_answers_by_a_behaviour_and_its_fallback_by_none(tmp_path: Path) -> None:
    artifact = model_with_heads(HISTORIES).export(HISTORIES.items)
    popular = Popularity(None).fit(HISTORIES, HISTORIES.offsets[1:], basket=False, exclude_seen=False)
    folders = [one.save(tmp_path / name) for name, one in (("model", artifact), ("popular", popular))]
    asked = {"k": 3, "rules": {"behaviour": "buy"}}
    with TestClient(make_app(Service({"model": folders[0]}, fallback=folders[1]))) as client:
        answer = client.post("/v1/recommend", json={"history": IDS[:4], **asked}).json()
        wanted = Engine(artifact).recommend(IDS[:4], k=3, rules=Rules(behaviour="buy"))
        assert answer["items"] == wanted.items
        stranger = client.post("/v1/recommend", json={"user": "nobody", **asked})
        assert stranger.json()["items"] == Engine(popular).recommend([], k=3).items
        refused = client.post("/v1/recommend", json={"history": IDS[:4], "rules": {"behaviour": "steal"}})
        assert refused.status_code == 422
        assert "wanted one of" in refused.json()["error"]


def test_a_model_without_the_head_says_so() -> None:
    model = model_with_heads(HISTORIES)
    with pytest.raises(ValueError, match=r"behaviour: wanted one of .*buy.*, got 'steal'"):
        Engine(model.export(HISTORIES.items)).recommend(IDS[:2], rules=Rules(behaviour="steal"))
    model.heads.clear()
    engine = Engine(model.export(HISTORIES.items))
    with pytest.raises(ValueError, match=r"behaviour: gru4rec predicts none; train with heads\.behaviour"):
        engine.recommend(IDS[:2], rules=Rules(behaviour="buy"))
    predictor = Predictor(engine)
    for ask in (predictor.behaviour, predictor.value, predictor.value_shares):
        with pytest.raises(ValueError, match=r"gru4rec .*train with heads\."):
            ask(IDS[:2], IDS)


def test_a_saved_model_keeps_its_heads_and_others_keep_their_identity(tmp_path: Path) -> None:
    model = model_with_heads(HISTORIES)
    artifact = model.export(HISTORIES.items)
    loaded = Artifact.load(artifact.save(tmp_path / "with"))
    assert loaded.heads == artifact.heads
    assert loaded.identity == artifact.identity
    assert dataclasses.replace(artifact, heads=[]).identity != artifact.identity
    plain = dataclasses.replace(artifact, heads=[])
    plain.save(tmp_path / "without")
    assert Artifact.load(tmp_path / "without").identity == plain.identity


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "mood"},
        {"classes": []},
        {"classes": [1.0, 2.0, 3.0]},
        {"classes": ["view", "buy"]},
        {"weights": "elsewhere"},
    ],
)
def test_a_damaged_head_is_refused(change: dict[str, Any]) -> None:
    artifact = model_with_heads(HISTORIES).export(HISTORIES.items)
    behaviour, value = artifact.heads
    with pytest.raises(ArtifactError):
        Engine(dataclasses.replace(artifact, heads=[behaviour | change, value]))
    with pytest.raises(ArtifactError, match="once at most"):
        Engine(dataclasses.replace(artifact, heads=[behaviour, behaviour]))


# --- losses ---------------------------------------------------------------------------------------------


def examples(histories: Histories, labels: dict[str, Tensor]) -> Examples:
    torch.manual_seed(1)
    states, table = torch.randn(5, 24), torch.randn(histories.num_items, 24)
    targets = torch.tensor([0, 3, 3, 7, 11])
    return Examples(
        states, torch.tensor([0, 2, 5]), targets, labels, table, torch.nn.functional.cross_entropy
    )


def test_a_pair_head_is_its_formula() -> None:
    torch.manual_seed(0)
    head = PairHead(7, 4, 3).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    states, table = torch.randn(2, 4).double(), torch.randn(7, 4).double()
    found = head(states, torch.tensor([6, 1]), table)
    for row, item in enumerate([6, 1]):
        for k in range(3):
            query = head.query.weight[4 * k : 4 * k + 4] @ states[row] + head.query.bias[4 * k : 4 * k + 4]
            constant = head.constant.weight[k] @ states[row] + head.constant.bias[k]
            torch.testing.assert_close(found[row, k], query @ table[item] + constant + head.item[item, k])


def test_losses_pass_over_what_is_unknown() -> None:
    behaviour, value = model_with_heads(HISTORIES).heads.values()
    assert isinstance(behaviour, BehaviourHead)
    assert isinstance(value, ValueHead)
    nan = float("nan")
    some = examples(
        HISTORIES,
        {
            "event_type": torch.tensor([2, -1, 0, -1, 1], dtype=torch.int32),
            "value": torch.tensor([nan, 3, nan, 5, 1]),
        },
    )
    said = behaviour(some.states, some.targets, some.table)
    wanted = -(said[0, 2] + said[2, 0] + said[4, 1]) / 3
    torch.testing.assert_close(behaviour.loss(some), wanted)
    errors = value(some.states, some.targets, some.table)[[1, 3, 4]] - torch.tensor([3.0, 5.0, 1.0])
    torch.testing.assert_close(value.loss(some), (errors / value.deviation).square().mean())
    value.loss(some).backward()
    assert all(parameter.grad.isfinite().all() for parameter in value.parameters())  # type: ignore[union-attr]
    none = {"event_type": torch.full((5,), -1, dtype=torch.int32), "value": torch.full((5,), nan)}
    for head in (behaviour, value):
        assert head.loss(examples(HISTORIES, none)).item() == 0


def test_values_that_no_training_event_had_are_no_class() -> None:
    head = model_with_heads(HISTORIES, value_as="class").heads["value"]
    found = head.classes_of(torch.tensor([0.5, 1, 2.5, 4, 9, float("nan")]))
    assert found.tolist() == [-1, 0, -1, 3, -1, -1]
