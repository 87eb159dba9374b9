"""The real server, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
