"""The server's memory: nothing acknowledged is lost, whatever ends it."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from chronorec.server import Service, event_ids, make_app
from chronorec.server.journal import Journal, JournalError
from chronorec.server.schemas import Event
from tests.support.servers import answers, ask, client_of, free_port, make_models, start, tell


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(models: dict[str, Path], tmp_path: Path) -> Iterator[TestClient]:
    with client_of(models, tmp_path / "journal") as client:
        yield client


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


def test_an_event_counts_once_by_its_id(models: dict[str, Path], tmp_path: Path) -> None:
    """Without a time the server gives it another each time it comes; also over a snapshot and a restart."""
    told = [
        Event(7, "item 3", id="a"),
        Event(7, "item 4", id=5),
        Event(7, "item 5", id="5"),
        Event(7, "item 9", id="a"),
        Event(7, "item 6"),
        Event(7, "nothing", id="n"),
    ]
    for turn in range(4):
        service = Service({"m": models["first"]}, journal=Journal(tmp_path))
        found = service.append(told)
        wanted = (4, 1, 1) if turn == 0 else (1, 0, 5)
        assert (found.accepted, found.unknown_items, found.repeated) == wanted
        assert len(service.variants["m"].sessions.history(7)[0]) == 4 + turn
        if turn % 2:
            service.snapshot()
        service.close()


def test_the_oldest_ids_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_ids, "REMEMBERED", 3)
    ids = event_ids.EventIds()
    ids.add(["a", "b", None, "c", "d"])
    assert [one in ids for one in "abcd"] == [False, True, True, True]


def test_a_snapshot_that_fails_loses_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    """The folder is away for a while: events go on into the open segment."""
    journal = Journal(tmp_path / "journal")
    service = Service({"m": models["first"]}, journal=journal)
    service.append([Event(7, "item 3", 1)])
    (tmp_path / "journal").rename(tmp_path / "away")
    with pytest.raises(JournalError, match="no new segment"):
        service.snapshot()
    service.append([Event(7, "item 4", 2)])
    (tmp_path / "away").rename(tmp_path / "journal")
    assert service.snapshot() == 1
    service.append([Event(7, "item 5", 3)])
    service.close()
    again = Service({"m": models["first"]}, journal=Journal(tmp_path / "journal"))
    assert again.variants["m"].sessions.history(7)[0] == ["item 3", "item 4", "item 5"]


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


def test_nothing_acknowledged_is_lost_by_kills(models: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    acknowledged: dict[str, list[str]] = {}
    at = 0
    for turn in range(4):
        port = free_port()
        process = start(models["first"], port, "--journal", tmp_path)
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


def test_ending(models: dict[str, Path], tmp_path: Path) -> None:
    """It says that it wants no more, serves a while, answers what it began, and writes a snapshot."""
    port = free_port()
    options = ("--journal", tmp_path, "--drain-seconds", "1", "--log-requests")
    process = start(models["first"], port, *options, stderr=subprocess.PIPE)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        tell(client, (7, "item 3", 1))
        assert client.get("/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        while client.get("/ready").status_code == 200:
            time.sleep(0.01)
        assert "the server ends" in client.get("/ready").json()["error"]
        tell(client, (7, "item 4", 2))
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert (tmp_path / "sessions-model.arrow").exists()
    lines = [line for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert not lines
    again = Service({"model": models["first"]}, journal=Journal(tmp_path))
    assert again.variants["model"].sessions.history(7)[0] == ["item 3", "item 4"]
    assert process.stderr is not None
    log = [json.loads(line) for line in process.stderr]
    assert [entry["message"] for entry in log] == [
        "ready",
        "request",
        "draining",
        "request",
        "snapshot",
        "ended",
    ]
    assert log[1] | {"time": 0, "seconds": 0} == {
        "time": 0,
        "level": "info",
        "logger": "chronorec.server",
        "message": "request",
        "method": "POST",
        "path": "/v1/events",
        "status": 200,
        "seconds": 0,
    }


def test_what_began_before_the_end_is_answered(models: dict[str, Path], tmp_path: Path) -> None:
    port = free_port()
    process = start(models["first"], port, "--journal", tmp_path)
    body = b'{"user": 7, "k": 3}'
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        while answers(port):
            time.sleep(0.01)
        connection.sendall(body[5:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
