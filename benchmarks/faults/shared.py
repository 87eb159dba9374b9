"""A shared store that dies and comes back, under a real server."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.faults.models import Truth, event, known_to, make_models, note, server

STORE = shutil.which("redis-server") or shutil.which("valkey-server")


def store_gone(count: int, seed: int) -> dict[str, int]:
    """Rounds in which the store is killed and started again.

    Without it every request is refused (503) with the reason, and ``/ready`` says no; with it the server
    goes on by itself, and knows what was acknowledged. An event that was refused may have been kept: it is
    told again.
    """
    rng = np.random.default_rng(seed)
    truth: Truth = {}
    told = refused = 0
    with tempfile.TemporaryDirectory(dir="/tmp") as work:  # a socket's path must be short
        model, store = make_models(Path(work), "a")["a"], _start(Path(work))
        try:
            with server(model, "--redis", f"unix://{work}/socket") as (client, _):
                for turn in range(count):
                    for number in range(10):
                        one = event(rng, 1000 * turn + number)
                        client.post("/v1/events", json={"events": [one]}).raise_for_status()
                        note(truth, one)
                        told += 1
                    store.kill()
                    store.wait()
                    lost = event(rng, 1000 * turn + 10)
                    for path, body in (("/v1/events", {"events": [lost]}), ("/v1/recommend", {"user": 1})):
                        answer = client.post(path, json=body)
                        assert answer.status_code == 503, answer.text
                        assert "the store of sessions does not answer" in answer.text
                        refused += 1
                    assert client.get("/ready").status_code == 503
                    assert client.get("/health").status_code == 200
                    store = _start(Path(work))
                    client.post("/v1/events", json={"events": [lost]}).raise_for_status()
                    note(truth, lost)
                    assert client.get("/ready").status_code == 200
                    client.post("/v1/recommend", json={"user": 1}).raise_for_status()
                    assert known_to(client) == truth
        finally:
            store.kill()
            store.wait()
    return {
        "times gone": count,
        "requests refused with the reason": refused,
        "events acknowledged": told,
        "lost": 0,
    }


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """A store that writes to disk before it acknowledges."""
    assert STORE is not None, "needs redis-server or valkey-server"
    socket = folder / "socket"
    keep = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    command = [STORE, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), *keep]
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not _answers(socket):
        assert time.monotonic() < deadline, "the store does not start"
        time.sleep(0.02)
    return process


def _answers(socket: Path) -> bool:
    import redis

    try:
        return bool(redis.Redis(unix_socket_path=str(socket)).ping())
    except redis.RedisError:
        return False
