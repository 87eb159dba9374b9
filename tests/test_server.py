"""The server: what it answers, what it refuses, and that nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from starlette.testclient import TestClient

from chronorec.artifact import Artifact
from chronorec.data.profile import Profile, ProfileColumn
from chronorec.engine import Engine, Recommendations
from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.engine.live_model import LiveModel
from chronorec.models import GRU4Rec
from chronorec.server import Service, endpoint, make_app
from chronorec.server.journal import Journal
from chronorec.server.logs import JsonFormatter
from chronorec.server.schemas import Answer, Event, Request
from tests.support.logs import cycle_log, histories_of
from tests.support.servers import ask, client_of, make_models, tell


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(models: dict[str, Path], tmp_path: Path) -> Iterator[TestClient]:
    with client_of(models, tmp_path / "journal") as client:
        yield client


def test_answers_are_the_engines(client: TestClient, models: dict[str, Path]) -> None:
    told = tell(client, (7, "item 3", 1), ("7", "item 9", 1), (7, "item 4", 2), (7, "nothing", 3))
    assert told == {"accepted": 3, "unknown_items": 1, "repeated": 0, "unknown_types": 0}
    wanted = Engine.load(models["first"]).recommend(["item 3", "item 4"], k=5, exclude_seen=True)
    found = ask(client, user=7, k=5, exclude_seen=True)
    assert found["items"] == wanted.items
    np.testing.assert_allclose(found["scores"], wanted.scores, rtol=1e-5)
    assert (found["source"], found["model"], found["variant"]) == ("session", "gru4rec", "model")
    again = ask(client, history=["item 3", "item 4", "no"], k=5, exclude_seen=True)
    assert (again["items"], again["source"], again["unknown_items"]) == (wanted.items, "history", 1)
    similar = client.post("/v1/similar", json={"item": "item 3", "k": 3}).json()
    assert similar["items"] == Engine.load(models["first"]).similar_items("item 3", 3).items


def typed_model(folder: Path) -> Path:
    histories = histories_of(cycle_log(items=40, events=30))
    typed = GRU4Rec(histories.num_items, width=16, hidden_size=16, event_types=2, profile=[2]).eval()
    with torch.no_grad():
        for parameter in typed.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    inputs: dict[str, Any] = {
        "event_types": ["view", "buy"],
        "profile": Profile([ProfileColumn("team", values=["blue", "red"])]).to_plain(),
    }
    return typed.export(histories.items, **inputs).save(folder)


def test_types_of_events_and_profiles_reach_the_model(tmp_path: Path) -> None:
    """By session, from the journal after a restart, and with a history."""
    model = typed_model(tmp_path / "typed")
    items, types, times = ["item 3", "item 4", "item 5"], ["view", "buy", "wish"], [1, 2, 3]
    wanted = Engine.load(model).recommend(items, times=times, events=types, k=40)
    events = zip(items, times, types, strict=True)
    told = [{"user": 7, "item": item, "at": at, "event": event} for item, at, event in events]
    for start in ("first", "again"):
        service = Service({"model": model}, journal=Journal(tmp_path / "journal"))
        with TestClient(make_app(service)) as client:
            if start == "first":
                answer = client.post("/v1/events", json={"events": told}).json()
                assert answer == {"accepted": 3, "unknown_items": 0, "repeated": 0, "unknown_types": 1}
            found = ask(client, user=7, k=40)
            np.testing.assert_allclose(found["scores"], wanted.scores, rtol=1e-4)
            assert found["items"] == wanted.items
            given = ask(client, history=items, times=times, events=types, k=40)
            assert (given["items"], given["unknown_types"]) == (wanted.items, 1)
            assert ask(client, history=items, times=times, k=40)["items"] != wanted.items
            of_team = ask(client, user=7, k=40, profile={"team": "red", "hat": 1.5})
            given = ask(client, history=items, times=times, events=types, k=40, profile={"team": "red"})
            assert of_team["items"] == given["items"] != wanted.items
            bad = client.post("/v1/recommend", json={"user": 7, "profile": {"team": ["red"]}})
            assert bad.status_code == 400


def test_who_is_not_known_gets_what_is_popular(client: TestClient) -> None:
    for request in ({"user": "nobody"}, {"history": []}, {"history": ["nothing"]}):
        found = ask(client, **request)
        assert found["source"] == "popularity"
        assert found["model"].startswith("popularity")
        assert len(found["items"]) == 10


def test_forget(client: TestClient) -> None:
    tell(client, ("a/b", "item 3", 1), (7, "item 3", 1))
    assert client.delete("/v1/users/text/a/b").json() == {"forgotten": True}
    assert client.delete("/v1/users/text/a/b").json() == {"forgotten": False}
    assert ask(client, user="a/b")["source"] == "popularity"
    assert client.delete("/v1/users/number/7").json() == {"forgotten": True}
    assert client.delete("/v1/users/number/x").status_code == 422
    assert client.delete(f"/v1/users/number/{2**70}").status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/recommend", b"{", 400, "body: "),
        ("/v1/recommend", b'{"user": 1, "what": 2}', 400, "unknown field `what`"),
        ("/v1/recommend", b'{"user": 1, "k": 0}', 400, "`int` >= 1"),
        ("/v1/recommend", b'{"user": true}', 400, "got `bool`"),
        ("/v1/recommend", b"\xff\xfe", 400, "body: "),
        ("/v1/recommend", b"{}", 422, "user, history: wanted one of the two"),
        ("/v1/recommend", b'{"user": 1, "history": []}', 422, "wanted one of the two"),
        ("/v1/recommend", b'{"user": 1, "at": "soon"}', 422, "at: "),
        ("/v1/recommend", b'{"history": ["item 1"], "times": []}', 422, "times: wanted one per event"),
        ("/v1/events", b'{"events": []}', 400, "length >= 1"),
        ("/v1/events", b'{"events": [{"user": 1}]}', 400, "missing required field `item`"),
        ("/v1/similar", b'{"item": "nothing"}', 404, "does not know 'nothing'"),
        ("/v1/events", b" " * (1 << 21), 413, "at most 1048576 bytes"),
        ("/nowhere", b"", 404, "Not Found"),
    ],
)
def test_refusals_say_why(client: TestClient, path: str, body: bytes, status: int, reason: str) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_metrics_health_and_description(client: TestClient) -> None:
    tell(client, (7, "item 3", 1))
    ask(client, user=7)
    metrics = client.get("/metrics").text
    assert 'chronorec_sessions_sessions{variant="model"} 1.0' in metrics
    assert 'chronorec_sessions_state_misses{variant="model"} 1.0' in metrics
    assert 'chronorec_answers_total{source="session",variant="model"} 1.0' in metrics
    assert client.get("/health").json() == {"status": "ok"}
    [model] = client.get("/v1/models").json()["models"]
    assert (model["variant"], model["model"], model["items"], model["share"]) == ("model", "gru4rec", 40, 1.0)
    named = f'model="gru4rec",variant="model",version="{model["version"]}"'
    assert f"chronorec_model{{{named}}} 1.0" in metrics
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/events",
        "/v1/recommend",
        "/v1/explain",
        "/v1/similar",
        "/v1/users/{kind}/{user}",
        "/v1/models",
        "/v1/reload",
        "/health",
        "/ready",
    }


def test_experiment_shares_users_out() -> None:
    experiment = Experiment("button", {"new": 1, "old": 3})
    users: list[int | str] = [*range(4000), *map(str, range(4000))]
    chosen = [experiment.variant(user) for user in users]
    assert 0.23 < chosen.count("new") / len(chosen) < 0.27
    assert chosen == [experiment.variant(user) for user in users]
    other = Experiment("colour", {"new": 1, "old": 3})
    both = [experiment.variant(user) == other.variant(user) == "new" for user in users]
    assert 0.04 < np.mean(both) < 0.085
    for shares in ({}, {"a": 0.0}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="shares: wanted a positive number per variant"):
            Experiment("x", shares)


def test_models_side_by_side(models: dict[str, Path], tmp_path: Path) -> None:
    service = Service(
        {"new": models["first"], "old": models["second"]},
        experiment=Experiment("e", {"new": 1, "old": 1}),
        exposures=ExposureLog(tmp_path / "shown.arrows"),
        journal=Journal(tmp_path / "journal"),
    )
    engines = {"new": Engine.load(models["first"]), "old": Engine.load(models["second"])}
    with TestClient(make_app(service)) as client:
        for user in range(20):
            tell(client, (user, "item 3", 1))
            found = ask(client, user=user)
            assert found["variant"] == service.experiment.variant(user)
            assert found["items"] == engines[found["variant"]].recommend(["item 3"]).items
    shown = pa.ipc.open_stream((tmp_path / "shown.arrows").read_bytes()).read_all()
    assert shown.column("user").to_pylist() == [str(user) for user in range(20)]
    assert set(shown.column("variant").to_pylist()) == {"new", "old"}
    assert {path.name.split("-")[0] for path in (tmp_path / "journal").iterdir()} == {
        "event",
        "events",
        "sessions",
    }
    with pytest.raises(ValueError, match="wanted a share for each of new"):
        Service({"new": models["first"]}, experiment=Experiment("e", {"old": 1}))


def test_reload_drops_no_request(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("first", "second"):
        (tmp_path / name).symlink_to(models[name])
    os.symlink(models["first"], folder)
    service = Service({"model": folder})
    failures: list[Any] = []
    stop = threading.Event()
    with TestClient(make_app(service)) as client:
        tell(client, (7, "item 3", 1), (7, "item 4", 2))

        def load() -> None:
            while not stop.is_set():
                answer = service.recommend(Request(user=7))
                if answer.source != "session" or len(answer.items) != 10:
                    failures.append(answer)

        thread = threading.Thread(target=load)
        thread.start()
        for turn in range(6):
            os.unlink(folder)
            os.symlink(models[("second", "first")[turn % 2]], folder)
            assert client.post("/v1/reload").json() == {"reloaded": ["model"]}
            wanted = Engine.load(folder).recommend(["item 3", "item 4"])
            assert ask(client, user=7)["items"] == wanted.items
        stop.set()
        thread.join()
        os.unlink(folder)
        refused = client.post("/v1/reload")
        assert refused.status_code == 409
        assert ask(client, user=7)["source"] == "session"
    assert not failures


def test_an_answer_names_the_model_that_gave_it(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that ends between the answer and its name."""
    for name in ("first", "second"):
        dataclasses.replace(Artifact.load(models[name]), name=name).save(tmp_path / name)
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "first")
    service = Service({"model": link})
    service.append([Event(user, "item 3", 1) for user in (7, 8)])
    answered = LiveModel.recommend

    def recommend(self: LiveModel, *arguments: Any, **more: Any) -> Recommendations:
        found = answered(self, *arguments, **more)
        link.unlink()
        link.symlink_to(tmp_path / "second")
        service.reload()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(LiveModel, "recommend", recommend)
        found = service.recommend(Request(user=7))
    assert (found.model, found.items) == ("first", Engine.load(models["first"]).recommend(["item 3"]).items)
    for found in service.recommend_many([Request(user=7), Request(user=8)]):
        assert isinstance(found, Answer)
        assert found.model == "second"


def test_what_nobody_foresaw(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns nothing of the inside, the log all of it."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(Service, "recommend_many", fail)
    monkeypatch.setattr(Service, "history", fail)
    quiet = TestClient(client.app, raise_server_exceptions=False)
    for answer in (quiet.post("/v1/recommend", json={"user": 1}), quiet.get("/v1/users/text/a")):
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server failed; its log says why"}
    assert len(caplog.records) == 2
    for record in caplog.records:
        entry = json.loads(JsonFormatter().format(record))
        assert (entry["level"], entry["message"]) == ("error", "a request failed")
        assert "RuntimeError: secret" in entry["traceback"]


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_BODY_SECONDS", 0.05)
    parts = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        if (part := next(parts, None)) is None:
            await asyncio.sleep(60)
        return part

    for _ in range(2):  # the second body does not even begin
        with pytest.raises(endpoint.RefusalError, match="body: wanted all of it within"):
            asyncio.run(endpoint.read_body(receive))


def test_more_than_may_wait_are_refused(models: dict[str, Path]) -> None:
    service = Service({"m": models["first"]})
    with TestClient(make_app(service, most_waiting=0)) as client:
        answer = client.post("/v1/recommend", json={"user": 1})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "too many requests wait" in answer.json()["error"]
        assert client.get("/health").status_code == 200
        refused = 'chronorec_refusals_total{route="/v1/recommend",status="503"} 1.0'
        assert refused in client.get("/metrics").text
