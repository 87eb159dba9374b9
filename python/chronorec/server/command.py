"""``chronorec serve``: reads the command line, makes the service and runs it until it is told to stop."""

from __future__ import annotations

import argparse
import datetime
import gc
import ipaddress
import threading
from pathlib import Path
from types import FrameType

import uvicorn

from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.engine.precision import Precisions
from chronorec.serve_options import parse_shares
from chronorec.server.access import read_keys
from chronorec.server.app import make_app
from chronorec.server.journal import Journal
from chronorec.server.logs import log_as_json, logger
from chronorec.server.service import Service

_END_SECONDS = 30  # that requests which began before the end may take


def serve(arguments: argparse.Namespace) -> None:
    """Runs until SIGINT or SIGTERM, then writes the sessions down."""
    models = _named(arguments.models)
    shares = dict.fromkeys(models, 1.0) if arguments.shares is None else parse_shares(arguments.shares)
    days = arguments.forget_after_days
    service = Service(
        models,
        experiment=Experiment(arguments.experiment, shares),
        fallback=None if arguments.fallback is None else Path(arguments.fallback),
        journal=None if arguments.journal is None else Journal(arguments.journal, arguments.durability),
        shared=arguments.redis,
        exposures=None if arguments.exposures is None else ExposureLog(arguments.exposures),
        memory=arguments.memory,
        forget_after=None if days is None else datetime.timedelta(days=days),
        precision=Precisions.parse(arguments.precision),
    )
    app = make_app(
        service,
        snapshot_seconds=arguments.snapshot_seconds,
        keys=frozenset() if arguments.api_keys is None else read_keys(arguments.api_keys),
        most_waiting=arguments.most_waiting,
        log_requests=arguments.log_requests,
    )
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    log_as_json()
    if arguments.api_keys is None and not _is_local(arguments.host):
        logger.warning("whoever reaches this port may tell, ask, forget and reload: see --api-keys")
    gc.collect()
    gc.freeze()  # what lives as long as the server is not gone through again, which would hold requests up
    _Server(config, service, arguments.drain_seconds).run()


class _Server(uvicorn.Server):
    """On a signal it says that it wants no more requests (``/ready``), serves a little longer, and ends.

    What is not answered then is answered first. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining or self._drain_seconds == 0:
            self._service.draining = True
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        logger.info("draining", extra={"seconds": self._drain_seconds})
        timer = threading.Timer(self._drain_seconds, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(models: list[str]) -> dict[str, Path]:
    if len(models) == 1 and "=" not in models[0]:
        return {"model": Path(models[0])}
    named = dict(text.split("=", 1) for text in models if "=" in text)
    if len(named) != len(models) or not all(name.isidentifier() for name in named):
        raise ValueError(f"models: wanted NAME=MODEL, each name once, got {' '.join(models)}")
    return {name: Path(folder) for name, folder in named.items()}
