"""The server: what it answers, what it refuses, and that nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from starlette.testclient import TestClient

from chronorec.data.profile import Profile, ProfileColumn
from chronorec.engine import Engine
from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.models import GRU4Rec, Popularity
from chronorec.server import Service, make_app
from chronorec.server.journal import Journal, JournalError
from chronorec.server.schemas import Request
from tests.support.logs import cycle_log, histories_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    histories = histories_of(cycle_log(items=40, events=30))
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        model = GRU4Rec(histories.num_items, width=16, hidden_size=16).eval()
        model.export(histories.items).save(folder / name)
    typed = GRU4Rec(histories.num_items, width=16, hidden_size=16, event_types=2, profile=[2]).eval()
    with torch.no_grad():
        for parameter in typed.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    inputs: dict[str, Any] = {
        "event_types": ["view", "buy"],
        "profile": Profile([ProfileColumn("team", values=["blue", "red"])]).to_plain(),
    }
    typed.export(histories.items, **inputs).save(folder / "typed")
    end = histories.offsets[1:]
    Popularity(None).fit(histories, end, basket=False, exclude_seen=False).save(folder / "popular")
    return {name: folder / name for name in ("first", "second", "typed", "popular")}


@pytest.fixture
def client(models: dict[str, Path], tmp_path: Path) -> Iterator[TestClient]:
    service = Service(
        {"model": models["first"]}, fallback=models["popular"], journal=Journal(tmp_path / "journal")
    )
    with TestClient(make_app(service)) as client:
        yield client


def tell(client: TestClient | httpx.Client, *events: tuple[Any, Any, int]) -> Any:
    told = [{"user": user, "item": item, "at": at} for user, item, at in events]
    answer = client.post("/v1/events", json={"events": told})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(client: TestClient | httpx.Client, **request: Any) -> Any:
    answer = client.post("/v1/recommend", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_answers_are_the_engines(client: TestClient, models: dict[str, Path]) -> None:
    told = tell(client, (7, "item 3", 1), ("7", "item 9", 1), (7, "item 4", 2), (7, "nothing", 3))
    assert told == {"accepted": 3, "unknown_items": 1, "unknown_types": 0}
    wanted = Engine.load(models["first"]).recommend(["item 3", "item 4"], k=5, exclude_seen=True)
    found = ask(client, user=7, k=5, exclude_seen=True)
    assert found["items"] == wanted.items
    np.testing.assert_allclose(found["scores"], wanted.scores, rtol=1e-5)
    assert (found["source"], found["model"], found["variant"]) == ("session", "gru4rec", "model")
    again = ask(client, history=["item 3", "item 4", "no"], k=5, exclude_seen=True)
    assert (again["items"], again["source"], again["unknown_items"]) == (wanted.items, "history", 1)
    similar = client.post("/v1/similar", json={"item": "item 3", "k": 3}).json()
    assert similar["items"] == Engine.load(models["first"]).similar_items("item 3", 3).items


def test_types_of_events_and_profiles_reach_the_model(models: dict[str, Path], tmp_path: Path) -> None:
    """By session, from the journal after a restart, and with a history."""
    items, types, times = ["item 3", "item 4", "item 5"], ["view", "buy", "wish"], [1, 2, 3]
    wanted = Engine.load(models["typed"]).recommend(items, times=times, events=types, k=40)
    events = zip(items, times, types, strict=True)
    told = [{"user": 7, "item": item, "at": at, "event": event} for item, at, event in events]
    for start in ("first", "again"):
        service = Service({"model": models["typed"]}, journal=Journal(tmp_path / "journal"))
        with TestClient(make_app(service)) as client:
            if start == "first":
                answer = client.post("/v1/events", json={"events": told}).json()
                assert answer == {"accepted": 3, "unknown_items": 0, "unknown_types": 1}
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
    assert 'chronorec_answers_total{source="session",variant="model"} 1.0' in metrics
    assert client.get("/health").json()["models"] == {"model": "gru4rec"}
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/events",
        "/v1/recommend",
        "/v1/explain",
        "/v1/similar",
        "/v1/users/{kind}/{user}",
    }


def test_a_full_disk_refuses_events(client: TestClient, tmp_path: Path) -> None:
    """Files may not grow beyond a few bytes more: the system itself cuts the write short."""
    tell(client, (8, "item 3", 1))
    [segment] = (tmp_path / "journal").glob("events-*.jsonl")
    before = segment.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        answers = [client.post("/v1/events", json={"events": [{"user": 7, "item": "item 3"}]}) for _ in "ab"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for answer in answers:
        assert answer.status_code == 503
        assert "the event log cannot be written: 5 of" in answer.json()["error"]
    assert segment.read_bytes() == before
    assert ask(client, user=7)["source"] == "popularity"
    tell(client, (7, "item 3", 1))
    assert ask(client, user=7)["source"] == "session"


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
    assert {path.name.split("-")[0] for path in (tmp_path / "journal").iterdir()} == {"events", "sessions"}
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


def test_a_torn_line_was_never_acknowledged(models: dict[str, Path], tmp_path: Path) -> None:
    with TestClient(make_app(Service({"m": models["first"]}, journal=Journal(tmp_path)))) as client:
        tell(client, (7, "item 3", 1))
    journal = Journal(tmp_path)
    segment = sorted(tmp_path.glob("events-*.jsonl"))[-1]
    with segment.open("ab") as file:
        file.write(b'[7,"item 4",2]\n[7,"item 5"')
    service = Service({"m": models["first"]}, journal=journal)
    assert service.variants["m"].sessions.history(7)[0] == ["item 3", "item 4"]
    segment.write_bytes(b"nonsense\n[7]\n")
    with pytest.raises(JournalError, match="line 1 is damaged"):
        Service({"m": models["first"]}, journal=Journal(tmp_path))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(model: Path, journal: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "chronorec", "serve", str(model), "--journal", str(journal)]
    process = subprocess.Popen([*command, "--port", str(port)])
    deadline = time.monotonic() + 60
    while not answers(port):
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.05)
    return process


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_nothing_acknowledged_is_lost_by_kills(models: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    acknowledged: dict[str, list[str]] = {}
    at = 0
    for turn in range(4):
        port = free_port()
        process = start(models["first"], tmp_path, port)
        killer = threading.Timer(0.2 + 0.4 * rng.random(), process.send_signal, [signal.SIGKILL])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            killer.start()
            try:
                while True:
                    at += 1
                    user, item = f"u{rng.integers(5)}", f"item {rng.integers(40)}"
                    tell(client, (user, item, at))
                    acknowledged.setdefault(user, []).append(item)
            except httpx.TransportError:
                pass
        process.wait()
        service = Service({"model": models["first"]}, journal=Journal(tmp_path))
        for user, items in acknowledged.items():
            kept = service.variants["model"].sessions.history(user)[0]
            assert kept[: len(items)] == items, f"turn {turn}"
            assert len(kept) <= len(items) + 1  # one may be written and not yet acknowledged
            acknowledged[user] = kept
        if turn % 2:
            service.snapshot()
        service.close()
    assert sum(map(len, acknowledged.values())) > 20


def test_ending_writes_a_snapshot(models: dict[str, Path], tmp_path: Path) -> None:
    port = free_port()
    process = start(models["first"], tmp_path, port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        tell(client, (7, "item 3", 1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert (tmp_path / "sessions-model.arrow").exists()
    lines = [line for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert json.dumps([7, "item 3", 1]) not in lines
