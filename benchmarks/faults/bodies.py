"""Malformed and oversized requests, as bytes on a socket, to a real server."""

from __future__ import annotations

import json
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.faults.models import make_models, server

GOOD: dict[str, object] = {
    "/v1/events": {"events": [{"user": "x", "item": 3, "at": 7}]},
    "/v1/recommend": {"user": 1, "k": 5, "rules": {"boost": [[1, 0.5]], "allow": {"item": [1, 2]}}},
    "/v1/explain": {"history": [1, 2], "items": [3]},
    "/v1/similar": {"item": 3},
}
_MANY = 2 << 20
_BROKEN = "connection closed"


def _flipped(body: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(body)
    for place in rng.integers(0, len(content), 1 + int(rng.integers(4))):
        content[place] = int(rng.integers(256))
    return bytes(content)


def _cut(body: bytes, rng: np.random.Generator) -> bytes:
    return body[: rng.integers(len(body))]


def _deep(body: bytes, rng: np.random.Generator) -> bytes:
    """Nested lists in the place of some value."""
    depth = int(rng.integers(1, 100_000))
    places = [place for place, letter in enumerate(body) if letter in b":[,"]
    place = int(rng.choice(places)) + 1
    return body[:place] + b"[" * depth + b"]" * depth + body[place:]


def _extreme(body: bytes, rng: np.random.Generator) -> bytes:
    """Some number in the place of the numbers."""
    number = rng.choice(
        ["1e400", "-1", "NaN", "9" * 5000, "1e-400", '"\\ud800"', "null", "-9223372036854775809"]
    )
    return body.replace(b"3", str(number).encode()).replace(b"5", str(number).encode())


def _oversized(body: bytes, _: np.random.Generator) -> bytes:
    return body + b" " * _MANY


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flipped,
    _cut,
    _deep,
    _extreme,
    _oversized,
)


def bad_bodies(count: int, seed: int) -> dict[str, int]:
    """Each is answered with a reason (4xx) or, where HTTP itself is broken, with a closed connection.

    Some are still good requests, and are answered as such (200). None is an error of the server (5xx), and
    the next request is answered.
    """
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work:
        model = make_models(Path(work), "a")["a"]
        with server(model) as (client, _):
            address = urlsplit(str(client.base_url))
            assert address.hostname is not None
            place = (address.hostname, address.port or 80)
            for _ in range(count):
                for mutate in MUTATIONS:
                    path = str(rng.choice(list(GOOD)))
                    body = mutate(json.dumps(GOOD[path]).encode(), rng)
                    status = _sent(place, _head(path, body, rng) + body)
                    assert status == _BROKEN or status[0] in "24", f"{status}: {path} {body[:200]!r}"
                    outcomes[status] += 1
                    client.post("/v1/recommend", json={"user": 1}).raise_for_status()
    return {f"times {status}": number for status, number in sorted(outcomes.items())} | {"times 5xx": 0}


def _head(path: str, body: bytes, rng: np.random.Generator) -> bytes:
    """Sometimes with a length that is wrong, or with bytes that are no header."""
    kind, length = rng.random(), len(body)
    if kind < 0.1:
        length = int(rng.integers(0, 2 * length + 1))
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {length}", "Connection: close"]
    head = "\r\n".join([*lines, "", ""]).encode()
    return _flipped(head, rng) if kind > 0.9 else head


def _sent(place: tuple[str, int], request: bytes) -> str:
    """The status of the answer."""
    with socket.create_connection(place, timeout=30) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all of it was sent: the answer is there to read
        try:
            answer = connection.recv(64)
        except OSError:
            answer = b""
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else _BROKEN
