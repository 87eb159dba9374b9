"""The service over HTTP: bodies are checked by their schemas, errors are JSON with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from chronorec import __version__
from chronorec.artifact import ArtifactError
from chronorec.engine.shared_sessions import StoreError
from chronorec.server import schemas
from chronorec.server.journal import JournalError
from chronorec.server.openapi import openapi
from chronorec.server.service import Service

MOST_BYTES = 1 << 20
_encode = msgspec.json.Encoder().encode


def make_app(service: Service, *, snapshot_seconds: float = 300.0) -> Starlette:
    """The ASGI application.

    Args:
        snapshot_seconds: how often sessions are written down and the journal is shortened; 0: at the end.
    """
    handlers = _Handlers(service)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        task = asyncio.create_task(_snapshots(service, snapshot_seconds))
        yield
        task.cancel()
        await run_in_threadpool(service.snapshot)
        service.close()

    routes = [
        Route("/v1/events", handlers.events, methods=["POST"]),
        Route("/v1/recommend", handlers.recommend, methods=["POST"]),
        Route("/v1/explain", handlers.explain, methods=["POST"]),
        Route("/v1/similar", handlers.similar, methods=["POST"]),
        Route("/v1/users/{kind}/{user:path}", handlers.forget, methods=["DELETE"]),
        Route("/v1/reload", handlers.reload, methods=["POST"]),
        Route("/health", handlers.health),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )


async def _snapshots(service: Service, seconds: float) -> None:
    while seconds > 0:
        await asyncio.sleep(seconds)
        await run_in_threadpool(service.snapshot)


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status, media_type="application/json")


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(
        _encode(schemas.Problem(str(error.detail))),
        error.status_code,
        headers=error.headers,
        media_type="application/json",
    )


async def _fail(_: HttpRequest, __: Exception) -> Response:
    return _json(schemas.Problem("the server failed; its log says why"), 500)


async def _body(request: HttpRequest) -> bytes:
    """The body, refused as soon as it is too long, whatever its header says."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MOST_BYTES:
            raise HTTPException(413, f"body: wanted at most {MOST_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


class _Handlers:
    """One function per route."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        self.registry.register(_SessionMetrics(service))
        self.seconds = Histogram(
            "chronorec_request_seconds",
            "Time inside the service.",
            ["route"],
            buckets=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.2, 1),
            registry=self.registry,
        )
        self.answers = Counter(
            "chronorec_answers_total", "Answers.", ["source", "variant"], registry=self.registry
        )
        self.decoders = {
            kind: msgspec.json.Decoder(kind)
            for kind in (schemas.Events, schemas.Request, schemas.Explain, schemas.Similar)
        }

    async def _answer(
        self, request: HttpRequest, kind: Any, work: Callable[[Any], Any], slow: bool = False
    ) -> Response:
        body = await _body(request)
        try:
            asked = self.decoders[kind].decode(body)
            with self.seconds.labels(request.url.path).time():
                # what waits for others, or looks at the whole catalogue in Python
                if slow or self.service.shared or getattr(asked, "rules", None) is not None:
                    return _json(await run_in_threadpool(work, asked))
                return _json(work(asked))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HTTPException(400, f"body: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise HTTPException(422, str(error)) from error
        except KeyError as error:
            raise HTTPException(404, str(error.args[0])) from error
        except (JournalError, StoreError) as error:
            raise HTTPException(503, str(error)) from error

    async def events(self, request: HttpRequest) -> Response:
        return await self._answer(request, schemas.Events, lambda asked: self.service.append(asked.events))

    async def recommend(self, request: HttpRequest) -> Response:
        def work(asked: schemas.Request) -> schemas.Answer:
            answer = self.service.recommend(asked)
            self.answers.labels(answer.source, answer.variant).inc()
            return answer

        return await self._answer(request, schemas.Request, work)

    async def explain(self, request: HttpRequest) -> Response:
        return await self._answer(request, schemas.Explain, self.service.explain, slow=True)

    async def similar(self, request: HttpRequest) -> Response:
        def work(asked: schemas.Similar) -> schemas.Answer:
            return self.service.similar(asked.item, asked.k)

        return await self._answer(request, schemas.Similar, work)

    async def forget(self, request: HttpRequest) -> Response:
        kind, user = request.path_params["kind"], request.path_params["user"]
        if kind not in ("text", "number"):
            raise HTTPException(404, f"kind: wanted text or number, got {kind!r}")
        try:
            found = await run_in_threadpool(self.service.forget, user if kind == "text" else int(user))
        except (ValueError, OverflowError) as error:
            raise HTTPException(422, f"user: wanted a whole number of 64 bits, got {user!r}") from error
        except (JournalError, StoreError) as error:
            raise HTTPException(503, str(error)) from error
        return _json(schemas.Forgotten(found))

    async def reload(self, _: HttpRequest) -> Response:
        try:
            return _json({"reloaded": await run_in_threadpool(self.service.reload)})
        except ArtifactError as error:
            raise HTTPException(409, f"the models stay as they are: {error}") from error

    async def health(self, _: HttpRequest) -> Response:
        models = {name: variant.engine.artifact.name for name, variant in self.service.variants.items()}
        return _json({"status": "ok", "version": __version__, "models": models})

    async def metrics(self, _: HttpRequest) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, _: HttpRequest) -> Response:
        return _json(openapi())


class _SessionMetrics:
    """The sessions' own counts, read when somebody asks."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Any:
        for name, variant in self.service.variants.items():
            for key, value in variant.sessions.counts().items():
                metric = GaugeMetricFamily(f"chronorec_sessions_{key}", key, labels=["variant"])
                metric.add_metric([name], value)
                yield metric
