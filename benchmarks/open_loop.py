"""A load generator that holds its rate whatever the server does: HTTP/1.1 over kept connections.

Request n is due at ``n / rate``, and its time runs from then, also while it waits for a connection: a server
that stalls for a second is charged with every request that came due in that second, not with one
(G. Tene, "How NOT to Measure Latency": coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import uvloop

_TICK = 1e-3  # the loop wakes up no finer; what came due meanwhile is sent together, its time runs already
_PATIENCE = 10.0  # seconds after the last request was due that its answer may take


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        rate: requests that came due per second.
        seconds: float64 [N], from when a request was due until its answer; inf where there was none.
        errors: answers other than 200, lost connections, and answers that never came.
        elapsed: seconds from the first request until the last answer.
        cpu: seconds of processor time that the generator took.
    """

    rate: float
    seconds: npt.NDArray[np.float64]
    errors: int
    elapsed: float
    cpu: float

    def milliseconds(self, share: float) -> float:
        """A quantile of the times, by nearest rank: of a lost answer (inf) there is no mean."""
        return float(np.quantile(self.seconds, share, method="nearest") * 1e3)


def request_bytes(path: str, body: bytes, host: str) -> bytes:
    """A POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run(
    host: str, port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int
) -> Load:
    """Sends the requests in turn, from the first again after the last, for a while at a rate."""
    begin = time.process_time()
    generator = _Generator(requests, rate, round(rate * seconds))
    elapsed = uvloop.run(generator.run(host, port, connections))
    return Load(rate, generator.seconds, generator.errors, elapsed, time.process_time() - begin)


class _Generator:
    def __init__(self, requests: Sequence[bytes], rate: float, count: int) -> None:
        self.seconds = np.full(count, np.inf)
        self.errors = 0
        self._requests, self._rate, self._count = requests, rate, count
        self._next = self._answered = 0
        self._idle: deque[_Connection] = deque()  # the longest first: a server hangs up on who is silent
        self._late: deque[int] = deque()  # due, but no connection is idle

    async def run(self, host: str, port: int, connections: int) -> float:
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        for _ in range(connections):
            await self._loop.create_connection(lambda: _Connection(self), host, port)
        self._begin = time.perf_counter()  # the loop's own clock counts milliseconds
        self._send_due()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._done, self._count / self._rate + _PATIENCE)
        self.errors += self._count - self._answered
        return time.perf_counter() - self._begin

    def _send_due(self) -> None:
        now = time.perf_counter() - self._begin
        while self._next < self._count and self._next / self._rate <= now:
            if self._idle:
                self._idle.popleft().send(self._next, self._requests[self._next % len(self._requests)])
            else:
                self._late.append(self._next)
            self._next += 1
        if self._next < self._count:
            self._loop.call_later(max(_TICK, self._next / self._rate - now), self._send_due)

    def idle(self, connection: _Connection) -> None:
        if self._late:
            number = self._late.popleft()
            connection.send(number, self._requests[number % len(self._requests)])
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """The server hung up; the others go on."""
        if connection in self._idle:
            self._idle.remove(connection)

    def answered(self, number: int, good: bool) -> None:
        if good:
            self.seconds[number] = time.perf_counter() - self._begin - number / self._rate
        self.errors += not good
        self._answered += 1
        if self._answered == self._count:
            self._done.set_result(None)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._number = -1
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._generator.idle(self)

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._received = b""
        number, self._number = self._number, -1
        self._generator.answered(number, head[9:12] == b"200")
        self._generator.idle(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._generator.lost(self)
        if self._number >= 0:
            self._generator.answered(self._number, False)
            self._number = -1


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r", 1)[0])
