"""API keys: who may ask. Pages that hold nothing of users' (the console itself, health) need none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from chronorec.server.schemas import Problem

#: What anybody may ask for.
OPEN_PATHS = frozenset({"/", "/health", "/ready"})
_FEWEST_CHARACTERS = 16
_REFUSAL = msgspec.json.encode(
    Problem("wanted a key: the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
)


def read_keys(path: str | os.PathLike[str]) -> frozenset[bytes]:
    """Digests of the keys in a file: one a line; empty lines and those that begin with # are not keys.

    Raises:
        ValueError: there is none, or one that is easily guessed or cannot stand in a header.
    """
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    for number, key in enumerate(keys, 1):
        if len(key) < _FEWEST_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"{path}: key {number}: wanted at least {_FEWEST_CHARACTERS} printable ASCII characters"
            )
    if not keys:
        raise ValueError(f"{path}: wanted a key per line, found none")
    return frozenset(_digest(key.encode()) for key in keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyCheck:
    """ASGI middleware that refuses (401) requests without one of the keys.

    Digests are looked up, not keys: how long that takes tells nothing of them.
    """

    def __init__(self, app: ASGIApp, keys: frozenset[bytes], on_refusal: Callable[[], None]) -> None:
        self._app, self._keys, self._on_refusal = app, keys, on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        self._on_refusal()
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    def _is_known(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            key = value if name == b"x-api-key" else b""
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:].strip()
            if key and _digest(key) in self._keys:
                return True
        return False
