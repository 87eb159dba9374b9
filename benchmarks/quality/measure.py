"""One run of a row: trains, evaluates, and writes down what came out and what it cost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import chronorec
from benchmarks.harness import cpu_name
from benchmarks.memory import peak_above, resident
from benchmarks.quality.rows import Row, read_histories
from chronorec import _core
from chronorec.data import Histories
from chronorec.evaluation import Report
from chronorec.training import Config, to_toml, train
from chronorec.training.comparison import compare
from chronorec.training.folds import compare_on_folds
from chronorec.training.splitting import make_split

KS = (1, 5, 10, 20)


def run(
    row: Row, seed: int, data: Path | None, output: Path | None, *, part: str, again: bool
) -> dict[str, Any]:
    """One seed of a row; the record that is to be kept.

    Args:
        output: folder for the models; without one they are dropped, and their record of test evaluations
            is the file of records alone.
        part: "test" or "validation".
        again: read the test events of a model that was tested before once more.
    """
    started, imports = time.monotonic(), resident()
    histories = read_histories(row.log, data)
    config = replace(row.config, training=replace(row.config.training, seed=seed))
    with tempfile.TemporaryDirectory() as work:
        folder = (output or Path(work)) / f"{row.name}-{seed}"
        if row.folds:
            report, cost = _on_folds(row, config, histories, folder, part, again)
        else:
            report, cost = _on_split(row, config, histories, folder, part, again, imports)
    print(report.text())
    facts = report.to_dict()
    own = next(model for model in facts["models"] if not model["baseline"])
    return {
        "row": row.name,
        "data": row.data,
        "data_hash": histories.content_hash,
        "protocol": facts["protocol"],
        "part": part,
        "split": facts["split"],
        "queries": facts["queries"],
        "model": own["name"],
        "seed": seed,
        "config": config_hash(config),
        **cost,
        "total_seconds": time.monotonic() - started,
        "metrics": own["metrics"],
        "baselines": {m["name"]: m["metrics"] for m in facts["models"] if m["baseline"]},
        "verdict": facts["verdict"],
        **_machine(config.training.device),
    }


def _on_split(
    row: Row, config: Config, histories: Histories, folder: Path, part: Any, again: bool, imports: int
) -> tuple[Report, dict[str, Any]]:
    split = make_split(config.split, histories)
    print(f"{histories}\n{split.describe()}")
    result = train(config, histories, split=split, output=folder)
    peak = peak_above(imports) / 2**20
    cost: dict[str, Any] = {
        "validation": result.validation,
        "epochs": result.best_epoch,
        "trained_on": result.artifact.provenance["trained_on"],
        "training_seconds": result.seconds,
        "peak_mib": peak,
    }
    if result.curve:
        cost["seconds_per_epoch"] = result.curve[-1]["seconds"] / len(result.curve)
        events = int((split.train_end - split.begin).sum())
        cost["events_per_second"] = events / cost["seconds_per_epoch"]
    models = {row.name: result.artifact}
    return compare(models, histories, part=part, ks=KS, again=again), cost


def _on_folds(
    row: Row, config: Config, histories: Histories, folder: Path, part: Any, again: bool
) -> tuple[Report, dict[str, Any]]:
    report, curves = compare_on_folds(
        {row.name: config}, histories, row.folds, folder, part=part, ks=KS, again=again, quiet=False
    )
    cost: dict[str, Any] = {"folds": row.folds}
    if curves:
        cost["training_seconds"] = sum(curve[-1]["seconds"] for curve in curves.values())
        cost["seconds_per_epoch"] = cost["training_seconds"] / sum(map(len, curves.values()))
    return report, cost


def config_hash(config: Config) -> str:
    """Twelve digits that tell two configurations of a row apart; seed and device left out."""
    plain = replace(config, training=replace(config.training, seed=0, device="cpu"))
    return hashlib.sha256(to_toml(plain).encode()).hexdigest()[:12]


def _machine(device: str) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": _core.num_threads(),
        "level": _core.level,
        "chronorec": chronorec.__version__,
        "commit": commit.stdout.strip(),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
