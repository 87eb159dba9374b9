"""Explanations against scores of histories from which an event was taken by hand, by every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chronorec import cli
from chronorec.engine import Engine, Explanation, Sessions
from chronorec.models import BERT4Rec, Markov, Popularity, SASRec
from tests.support.logs import basket_log, cycle_log, histories_of
from tests.test_sessions import ENGINES, ITEMS

DAY = 86_400_000_000
ALL = [f"item {code}" for code in range(ITEMS)]
HISTORIES = histories_of(cycle_log(items=ITEMS, events=30))


def with_bias() -> Engine:
    """Every kind of part at once: a state, a bias, a sparse addition and one that the state weighs."""
    torch.manual_seed(0)
    model = SASRec(ITEMS, width=16, max_length=6, copy=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    artifact = model.export(HISTORIES.items)
    markov = Markov().fit(HISTORIES, HISTORIES.offsets[1:], basket=False, exclude_seen=False)
    artifact.weights.update(markov.weights)
    artifact.adjustments.extend(markov.adjustments)
    return Engine(artifact)


def plain(kind: str) -> Engine:
    end = HISTORIES.offsets[1:]
    if kind == "popularity":
        return Engine(Popularity(None).fit(HISTORIES, end, basket=False, exclude_seen=False))
    torch.manual_seed(0)
    return Engine(BERT4Rec(ITEMS, width=16, max_length=6).eval().export(HISTORIES.items))


EVERY = ENGINES | {"popularity": plain("popularity"), "bert4rec": plain("bert4rec"), "mixed": with_bias()}


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("events", [0, 1, 9])
def test_events_are_left_out_one_by_one(kind: str, events: int) -> None:
    engine = EVERY[kind]
    generator = np.random.default_rng(events)
    history = [ALL[code] for code in generator.integers(0, ITEMS, events)]
    times = np.sort(generator.choice(20 * DAY, events, replace=False)).tolist()
    items, at = ["item 3", "item 17", *history[:2]], 21 * DAY
    scores = engine.score(history, items, times=times, at=at)
    found = engine.explain(history, items, times=times, at=at, last=5)
    assert [one.item for one in found] == items
    for place, one in enumerate(found):
        np.testing.assert_allclose(one.score, scores[place], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(sum(one.parts.values()), one.score, rtol=1e-5, atol=1e-5)
        differences = [event.difference for event in one.events]
        assert differences == sorted(differences, reverse=True)
        assert sorted(event.time or 0 for event in one.events) == times[-5:]
        for event in one.events:
            out = times.index(event.time)
            assert event.item == history[out]
            rest, left = history[:out] + history[out + 1 :], times[:out] + times[out + 1 :]
            without = engine.score(rest, [one.item], times=left, at=at)[0]
            np.testing.assert_allclose(event.difference, scores[place] - without, rtol=1e-4, atol=2e-5)
        if engine.artifact.needs_time and events:
            at_once = engine.score(history, [one.item], times=times, at=times[-1] + 1)[0]
            np.testing.assert_allclose(one.waiting, scores[place] - at_once, rtol=1e-4, atol=2e-5)
        else:
            assert one.waiting is None


def test_parts_are_named() -> None:
    parts = EVERY["mixed"].explain(["item 1", "item 2"], ["item 3", "item 2"])
    assert [set(one.parts) for one in parts] == [{"state", "bias", "copy", "transition"}] * 2
    assert parts[0].parts["transition"] > 0 == parts[0].parts["copy"]
    assert parts[1].parts["copy"] > 0
    popular = EVERY["popularity"].explain(["item 1"], ["item 3"])[0]
    assert popular.parts["bias"] == popular.score
    assert popular.events[0].difference == 0
    frequent = ENGINES["frequency"].explain(["item 1"], ["item 1"], times=[0], at=DAY)[0]
    assert frequent.parts["frequency"] == pytest.approx(np.exp(-1)) == frequent.events[0].difference


def test_baskets() -> None:
    histories = histories_of(basket_log())
    engine = Engine(Markov().fit(histories, histories.offsets[1:], basket=True, exclude_seen=False))
    history, sessions = [3, 4, 7, 8], [1, 1, 2, 2]
    one = engine.explain(history, [5], sessions=sessions)[0]
    for event in one.events:
        out = history.index(event.item)
        rest, left = history[:out] + history[out + 1 :], sessions[:out] + sessions[out + 1 :]
        without = engine.score(rest, [5], sessions=left)[0]
        assert event.difference == pytest.approx(float(one.score - without), abs=1e-6)
    assert [event.difference for event in one.events if event.item in (3, 4)] == [0, 0]


@pytest.mark.parametrize("kind", ["gru", "absolute", "frequency"])
def test_long_histories_in_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ENGINES[kind]
    history, times = [ALL[code % ITEMS] for code in range(30)], list(range(30))
    wanted = engine.explain(history, ["item 5"], times=times, at=99)[0]
    monkeypatch.setattr("chronorec.engine.explain._CHUNK", 64)
    found = engine.explain(history, ["item 5"], times=times, at=99)[0]
    assert sorted(e.time or 0 for e in found.events) == times
    by_time = {event.time: event.difference for event in wanted.events}
    for event in found.events:
        np.testing.assert_allclose(event.difference, by_time[event.time], atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "absolute", "frequency"])
def test_sessions_explain_what_they_answer(kind: str) -> None:
    engine = ENGINES[kind]
    sessions = Sessions(engine)
    assert sessions.extend("u", ALL[3:8], range(5)) == 5
    answer = sessions.recommend("u", at=4, k=3)
    reasons = sessions.explain("u", answer.items, at=4)
    np.testing.assert_allclose([one.score for one in reasons], answer.scores, rtol=1e-4, atol=1e-5)
    assert reasons == engine.explain(ALL[3:7], answer.items, times=range(4), at=4)
    assert sessions.explain("nobody", ["item 1"])[0].events == []


def test_refusals() -> None:
    with pytest.raises(KeyError, match="items: the model does not know 'nothing'"):
        ENGINES["gru"].explain([], ["nothing"])
    with pytest.raises(ValueError, match="last: wanted a whole number from 1, got 0"):
        ENGINES["gru"].explain([], ["item 1"], last=0)
    with pytest.raises(TypeError, match="items: wanted a sequence of item ids"):
        ENGINES["gru"].explain([], "item 1")


# --- over HTTP and on the command line ------------------------------------------------------------------


def as_json(reasons: list[Explanation]) -> Any:
    return [{**vars(one), "events": [vars(event) for event in one.events]} for one in reasons]


def test_over_http(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from chronorec.server import Service, make_app

    engine = ENGINES["gru"]
    engine.artifact.save(tmp_path / "model")
    with TestClient(make_app(Service({"model": tmp_path / "model"}))) as client:
        told = [{"user": 1, "item": item, "at": at} for at, item in enumerate(ALL[3:6])]
        assert client.post("/v1/events", json={"events": told}).status_code == 200
        wanted = as_json(engine.explain(ALL[3:6], ALL[7:9], times=range(3), last=20))
        for who in ({"user": 1}, {"history": ALL[3:6], "times": [0, 1, 2]}):
            answer = client.post("/v1/explain", json={"items": ALL[7:9], **who})
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"reasons": wanted, "model": "gru4rec", "variant": "model"}
        for body, status, reason in (
            ({"items": []}, 400, "length >= 1"),
            ({"items": ["item 1"] * 101}, 400, "length <= 100"),
            ({"items": ["item 1"], "user": 1, "last": 101}, 400, "<= 100"),
            ({"items": ["item 1"], "history": ["item 1"] * 1001}, 400, "length <= 1000"),
            ({"items": ["item 1"]}, 422, "user, history: wanted one of the two"),
            ({"items": ["nothing"], "user": 1}, 404, "does not know 'nothing'"),
        ):
            refused = client.post("/v1/explain", json=body)
            assert (refused.status_code, reason in refused.json()["error"]) == (status, True), refused.text


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ENGINES["gru"]
    folder = str(engine.artifact.save(tmp_path / "model"))
    command = ["recommend", folder, "--history", "item 3", "item 4", "-k", "2", "--explain"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    reason = engine.explain(["item 3", "item 4"], engine.recommend(["item 3", "item 4"], k=1).items)[0]
    assert f"{reason.item}: {reason.score:.3f} = state {reason.parts['state']:+.3f}" in text
    assert f"  {reason.events[0].difference:+.3f}  {reason.events[0].item}\n" in text
    assert cli.main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["explanations"][0]["events"] == [vars(event) for event in reason.events]
