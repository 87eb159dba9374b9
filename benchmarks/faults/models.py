"""Small models and what a server over them should know."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import torch

from benchmarks.load import HOST, serving
from chronorec.models import GRU4Rec

ITEMS = 40
Truth = dict[int, list[tuple[int, int]]]  # user -> (time, item), oldest first


def make_models(folder: Path, names: str = "ab") -> dict[str, Path]:
    """Model folders; each answers in its own way and says its name."""
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        artifact = (
            GRU4Rec(ITEMS, width=16, hidden_size=16).eval().export(pa.table({"item": np.arange(ITEMS)}))
        )
        dataclasses.replace(artifact, name=name).save(folder / name)
    return {name: folder / name for name in names}


@contextlib.contextmanager
def server(model: Path, *options: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A client of a server process."""
    with (
        serving(model, *options) as (port, process),
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client,
    ):
        yield client, process


def event(rng: np.random.Generator, at: int) -> dict[str, int]:
    """What a few users do."""
    return {"user": int(rng.integers(5)), "item": int(rng.integers(ITEMS)), "at": at}


def note(truth: Truth, told: dict[str, int]) -> None:
    """The truth after an event."""
    truth.setdefault(told["user"], []).append((told["at"], told["item"]))


def known_to(client: httpx.Client, users: int = 5) -> Truth:
    """What a server knows."""
    found = {}
    for user in range(users):
        answer: dict[str, Any] = client.get(f"/v1/users/number/{user}").raise_for_status().json()
        if answer["events"]:
            found[user] = [(one["time"], one["item"]) for one in answer["events"]]
    return found
