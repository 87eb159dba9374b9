"""What every request passes first: the limit of how many may wait, its time, its line in the log."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chronorec.server.endpoint import encode, send_json
from chronorec.server.logs import logger
from chronorec.server.metrics import Metrics
from chronorec.server.schemas import Problem

_OTHER = "other"


class Front:
    """ASGI middleware; hands the paths that are asked for most to their endpoints at once.

    Args:
        app: answers the others.
        endpoints: path to who answers a POST there.
        routes: paths that have a name of their own in the metrics, beside those of ``endpoints``.
        most_waiting: a request that comes while as many are not answered yet is refused (503).
        log_requests: write a line for each.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Mapping[str, ASGIApp],
        routes: tuple[str, ...],
        metrics: Metrics,
        *,
        most_waiting: int,
        log_requests: bool,
    ) -> None:
        self._app, self._endpoints, self._routes = app, endpoints, routes
        self._metrics, self._most, self._log_requests = metrics, most_waiting, log_requests
        self._seconds = {route: metrics.seconds.labels(route) for route in (*endpoints, *routes, _OTHER)}
        self._waiting = 0
        metrics.waiting.set_function(lambda: self._waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 499  # as long as nothing was answered: the caller went away

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._waiting += 1
        try:
            if self._waiting > self._most:
                await _refuse_for_now(noted)
            elif scope["method"] == "POST" and path in self._endpoints:
                await self._endpoints[path](scope, receive, noted)
            else:
                await self._app(scope, receive, noted)
        finally:
            self._waiting -= 1
            self._note(scope["method"], path, status, time.perf_counter() - begin)

    def _note(self, method: str, path: str, status: int, seconds: float) -> None:
        route = path if path in self._seconds else next(filter(path.startswith, self._routes), _OTHER)
        self._seconds[route].observe(seconds)
        if status != 200:
            self._metrics.refused.labels(route, str(status)).inc()
        if self._log_requests:
            facts = {"method": method, "path": path, "status": status, "seconds": round(seconds, 6)}
            logger.info("request", extra=facts)


async def _refuse_for_now(send: Send) -> None:
    body = encode(Problem("too many requests wait; ask again in a second"))
    await send_json(send, 503, body, ((b"retry-after", b"1"),))
