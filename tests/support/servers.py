"""The real server, in a process of its own."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch
from starlette.testclient import TestClient

from chronorec.models import GRU4Rec, Popularity
from chronorec.server import Service, make_app
from chronorec.server.journal import Journal
from tests.support.logs import cycle_log, histories_of


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(model: Path, port: int, *options: str | Path, **how: Any) -> subprocess.Popen[bytes]:
    """A server that answers."""
    command = [
        sys.executable,
        "-m",
        "chronorec",
        "serve",
        str(model),
        "--port",
        str(port),
        *map(str, options),
    ]
    process = subprocess.Popen(command, **how)
    atexit.register(process.kill)  # where a test fails before it ends it
    deadline = time.monotonic() + 60
    while not answers(port):
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.05)
    return process


@contextmanager
def running(model: Path, *options: str | Path, **how: Any) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server and its process, which is killed at the end if it still runs."""
    port = free_port()
    process = start(model, port, *options, **how)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def make_models(folder: Path) -> dict[str, Path]:
    """Two recurrent models and popularity, over "item 0" to "item 39"."""
    histories = histories_of(cycle_log(items=40, events=30))
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        model = GRU4Rec(histories.num_items, width=16, hidden_size=16).eval()
        model.export(histories.items).save(folder / name)
    end = histories.offsets[1:]
    Popularity(None).fit(histories, end, basket=False, exclude_seen=False).save(folder / "popular")
    return {name: folder / name for name in ("first", "second", "popular")}


@contextmanager
def client_of(models: dict[str, Path], journal: Path) -> Iterator[TestClient]:
    """A server in this process with one model, a fallback and a journal."""
    service = Service({"model": models["first"]}, fallback=models["popular"], journal=Journal(journal))
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
