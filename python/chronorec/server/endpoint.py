"""A route that takes JSON and answers with JSON, as plain ASGI: every request of a user comes this way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from chronorec.artifact import ArtifactError
from chronorec.engine.shared_sessions import StoreError
from chronorec.server.journal import JournalError
from chronorec.server.logs import logger
from chronorec.server.schemas import Problem
from chronorec.server.service import EndingError

MOST_BYTES = 1 << 20
_BODY_SECONDS = 10.0

encode = msgspec.json.Encoder().encode
Headers = tuple[tuple[bytes, bytes], ...]


class RefusalError(Exception):
    """A request that is not done: the status and the reason that are its answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


#: What errors of the service mean to who asked; the first that fits.
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (ArtifactError, 409, "the models stay as they are: "),
    (msgspec.DecodeError, 400, "body: "),
    (UnicodeDecodeError, 400, "body: "),
    (ValueError, 422, ""),
    (TypeError, 422, ""),
    (OverflowError, 422, ""),
    (JournalError, 503, ""),
    (StoreError, 503, ""),
    (EndingError, 503, ""),
)
FORESEEN = (RefusalError, KeyError, *(kind for kind, *_ in _STATUS))


def refusal_of(error: Exception) -> RefusalError:
    """The answer to an error; one that nobody foresaw is written to the log."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, KeyError):
        return RefusalError(404, str(error.args[0]))
    for kind, status, prefix in _STATUS:
        if isinstance(error, kind):
            return RefusalError(status, f"{prefix}{error}")
    logger.error("a request failed", exc_info=error)
    return RefusalError(500, "the server failed; its log says why")


async def read_body(receive: Receive) -> bytes | None:
    """The body, refused as soon as it is too long, whatever its header says; None if the caller is gone."""
    try:
        return await asyncio.wait_for(_whole_body(receive), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise RefusalError(408, f"body: wanted all of it within {_BODY_SECONDS:.0f} s") from None


async def _whole_body(receive: Receive) -> bytes | None:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        size, more = size + len(chunks[-1]), message.get("more_body", False)
        if size > MOST_BYTES:
            raise _too_long()
    return b"".join(chunks)


def _too_long() -> RefusalError:
    return RefusalError(413, f"body: wanted at most {MOST_BYTES} bytes")


async def send_json(send: Send, status: int, body: bytes, more: Headers = ()) -> None:
    """An answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Endpoint:
    """ASGI application of one route.

    Args:
        kind: schema of the body; one that does not fit is refused.
        work: makes the answer, a struct.
    """

    def __init__(self, kind: Any, work: Callable[[Any], Awaitable[Any]]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._work = work

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
            if body is None:
                return
            status, answer = 200, encode(await self._work(self._decode(body)))
        except Exception as error:
            refusal = refusal_of(error)
            status, answer = refusal.status, encode(Problem(refusal.reason))
        await send_json(send, status, answer)
