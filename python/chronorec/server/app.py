"""The service over HTTP: bodies are checked by their schemas, errors are JSON with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from chronorec.server import schemas
from chronorec.server.access import KeyCheck
from chronorec.server.batcher import Batcher
from chronorec.server.console import console
from chronorec.server.endpoint import FORESEEN, Endpoint, RefusalError, encode, refusal_of
from chronorec.server.front import Front
from chronorec.server.journal import JournalError
from chronorec.server.logs import logger
from chronorec.server.metrics import Metrics
from chronorec.server.openapi import MOST_SHOWN, openapi
from chronorec.server.service import Service

_MOST_TOGETHER = 64  # recommendations; more would keep the first of them waiting


def make_app(
    service: Service,
    *,
    snapshot_seconds: float = 300.0,
    keys: frozenset[bytes] = frozenset(),
    most_waiting: int = 1000,
    log_requests: bool = False,
) -> Starlette:
    """The ASGI application.

    Args:
        snapshot_seconds: how often sessions are written down and the journal is shortened; 0: at the end.
        keys: from :func:`chronorec.server.access.read_keys`; without any everybody may ask.
        most_waiting: more requests that are not answered yet are refused.
        log_requests: write a line for each to the log.
    """
    metrics = Metrics(service)
    handlers = _Handlers(service, metrics)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_snapshots(service, metrics, snapshot_seconds))
        logger.info(
            "ready", extra={"models": [msgspec.structs.asdict(one) for one in service.models().models]}
        )
        yield
        task.cancel()
        await run_in_threadpool(_snapshot, service, metrics)
        await run_in_threadpool(service.close)
        logger.info("ended")

    endpoints: dict[str, ASGIApp] = {
        "/v1/events": Endpoint(schemas.Events, handlers.events),
        "/v1/recommend": Endpoint(schemas.Request, handlers.recommend),
        "/v1/explain": Endpoint(schemas.Explain, handlers.explain),
        "/v1/similar": Endpoint(schemas.Similar, handlers.similar),
    }
    user = "/v1/users/{kind}/{user:path}"
    routes = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()),
        Route(user, handlers.history),
        Route(user, handlers.forget, methods=["DELETE"]),
        Route("/v1/models", handlers.models),
        Route("/v1/reload", handlers.reload, methods=["POST"]),
        Route("/", handlers.console),
        Route("/health", handlers.health),
        Route("/ready", handlers.ready),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
    ]
    front = Middleware(
        Front,
        endpoints=endpoints,
        routes=("/v1/users", "/v1/models", "/v1/reload"),
        metrics=metrics,
        most_waiting=most_waiting,
        log_requests=log_requests,
    )
    check = Middleware(KeyCheck, keys=keys, on_refusal=metrics.refused.labels("any", "401").inc)
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[check, front] if keys else [front],
        exception_handlers={
            HTTPException: _refuse,
            **dict.fromkeys(FORESEEN, _answer_error),
            Exception: _answer_error,
        },
    )


async def _snapshots(service: Service, metrics: Metrics, seconds: float) -> None:
    while seconds > 0:
        await asyncio.sleep(seconds)
        await run_in_threadpool(_snapshot, service, metrics)


def _snapshot(service: Service, metrics: Metrics) -> None:
    """Sessions that cannot be written down now stay in the journal, and are written the next time."""
    try:
        sessions = service.snapshot()
    except (OSError, JournalError) as error:
        metrics.snapshots.labels("failed").inc()
        logger.error("the sessions could not be written down", exc_info=error)
    else:
        metrics.snapshots.labels("done").inc()
        logger.info("snapshot", extra={"sessions": sessions})


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _json(schemas.Problem(str(error.detail)), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _answer_error(_: HttpRequest, error: Exception) -> Response:
    refusal = refusal_of(error)
    return _json(schemas.Problem(refusal.reason), refusal.status)


class _Handlers:
    """One function per route; those of :class:`Endpoint` take and give structs."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self.service, self._metrics = service, metrics
        self._page = console()
        self._batcher = Batcher(self._recommend_many, _MOST_TOGETHER)

    async def events(self, asked: schemas.Events) -> schemas.Accepted:
        if self.service.append_waits:
            return await run_in_threadpool(self.service.append, asked.events)
        return self.service.append(asked.events)

    async def recommend(self, asked: schemas.Request) -> schemas.Answer:
        # what waits for others, or looks at the whole catalogue in Python
        if self.service.shared or asked.rules is not None:
            answer = await run_in_threadpool(self.service.recommend, asked)
        else:
            answer = await self._batcher.ask(asked)
        self._metrics.count_answer(answer.source, answer.variant)
        return answer

    def _recommend_many(self, asked: Sequence[schemas.Request]) -> list[schemas.Answer | Exception]:
        self._metrics.batch_sizes.observe(len(asked))
        return self.service.recommend_many(asked)

    async def explain(self, asked: schemas.Explain) -> schemas.Reasons:
        return await run_in_threadpool(self.service.explain, asked)

    async def similar(self, asked: schemas.Similar) -> schemas.Answer:
        return await run_in_threadpool(self.service.similar, asked.item, asked.k)

    async def history(self, request: HttpRequest) -> Response:
        text = request.query_params.get("last", "200")
        last = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
        if not 1 <= last <= MOST_SHOWN:
            raise RefusalError(422, f"last: wanted a whole number from 1 to {MOST_SHOWN}, got {text!r}")
        return _json(await run_in_threadpool(self.service.history, _user_of(request), last))

    async def forget(self, request: HttpRequest) -> Response:
        found = await run_in_threadpool(self.service.forget, _user_of(request))
        return _json(schemas.Forgotten(found))

    async def models(self, _: HttpRequest) -> Response:
        return _json(await run_in_threadpool(self.service.models))

    async def reload(self, _: HttpRequest) -> Response:
        return _json(schemas.Reloaded(await run_in_threadpool(self.service.reload)))

    async def console(self, _: HttpRequest) -> Response:
        return self._page

    async def health(self, _: HttpRequest) -> Response:
        return _json(schemas.Status("ok"))

    async def ready(self, _: HttpRequest) -> Response:
        await run_in_threadpool(self.service.check_ready)
        return _json(schemas.Status("ready"))

    async def metrics(self, _: HttpRequest) -> Response:
        return Response(await run_in_threadpool(self._metrics.text), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, _: HttpRequest) -> Response:
        return _json(openapi())


def _user_of(request: HttpRequest) -> str | int:
    kind, user = request.path_params["kind"], request.path_params["user"]
    if kind not in ("text", "number"):
        raise RefusalError(404, f"kind: wanted text or number, got {kind!r}")
    if kind == "text":
        return str(user)
    try:
        number = int(user)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise RefusalError(422, f"user: wanted a whole number of 64 bits, got {user!r}")
    return number
