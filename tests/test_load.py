"""The load generator: it charges a server with what its stalls cost, and misses no lost answer."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import load, open_loop

RATE, STALL = 200.0, 0.3


@contextmanager
def server(answer: Callable[[int, socket.socket], None]) -> Iterator[int]:
    """A port where ``answer`` gets the number of each request, in the order they come."""
    lock, count = threading.Lock(), iter(range(1_000_000))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(1 << 16):
                with lock:  # one at a time: a stall stops all
                    answer(next(count), self.request)

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield int(running.server_address[1])
        running.shutdown()


def good(_: int, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    connection.sendall(b"{}")


def run(port: int, seconds: float, connections: int) -> open_loop.Load:
    request = open_loop.request_bytes("/", b"{}", "here")
    return open_loop.run("127.0.0.1", port, [request], RATE, seconds, connections)


@pytest.mark.parametrize("connections", [1, 100])
def test_a_stall_is_charged_to_all_that_came_due(connections: int) -> None:
    def stalling(number: int, connection: socket.socket) -> None:
        time.sleep(STALL if number == 20 else 0)
        good(number, connection)

    with server(stalling) as port:
        found = run(port, 1.0, connections)
    assert found.errors == 0
    assert found.seconds.max() >= STALL
    # one request in 5 ms came due in the stall, and waited for the rest of it
    assert (found.seconds > 0.5 * STALL).sum() >= 0.4 * STALL * RATE
    assert found.milliseconds(0.99) > 0.8 * STALL * 1e3


def test_what_is_refused_or_lost_is_an_error() -> None:
    def failing(number: int, connection: socket.socket) -> None:
        if number == 3:
            connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        elif number == 7:
            connection.close()
        else:
            good(number, connection)

    with server(failing) as port:
        found = run(port, 0.2, 8)
    assert found.errors == 2
    assert (found.seconds == float("inf")).sum() == 2


def test_the_server_under_a_small_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "ITEMS", 200)
    assert load.main(["--rate", "100", "--seconds", "1", "--users", "20"]) == 0
    held = capsys.readouterr().out.split("held:\n")[1]
    assert held.strip().startswith("100/s for 1 s: p50")
    assert "0 errors of 100" in held
