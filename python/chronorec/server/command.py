"""``chronorec serve``: reads the command line, makes the service and runs it until it is told to stop."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import uvicorn

from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.engine.precision import Precisions
from chronorec.serve_options import parse_shares
from chronorec.server.app import make_app
from chronorec.server.journal import Journal
from chronorec.server.service import Service


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
    uvicorn.run(
        make_app(service), host=arguments.host, port=arguments.port, log_level="warning", access_log=False
    )


def _named(models: list[str]) -> dict[str, Path]:
    if len(models) == 1 and "=" not in models[0]:
        return {"model": Path(models[0])}
    named = dict(text.split("=", 1) for text in models if "=" in text)
    if len(named) != len(models) or not all(name.isidentifier() for name in named):
        raise ValueError(f"models: wanted NAME=MODEL, each name once, got {' '.join(models)}")
    return {name: Path(folder) for name, folder in named.items()}
