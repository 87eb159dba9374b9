"""SIGKILL at random moments while events are told, users are forgotten, and snapshots are written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.faults.models import Truth, event, make_models, note
from chronorec.server import Service
from chronorec.server.journal import Journal
from chronorec.server.schemas import Event

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

USERS = 5


def kills(count: int, seed: int) -> dict[str, int]:
    """Rounds of a process that is killed; afterwards a fresh one knows exactly what was acknowledged.

    One operation may be under way when the process dies: it may have been done or not.
    """
    rng = np.random.default_rng(seed)
    done = snapshots = 0
    truth: Truth = {}
    with tempfile.TemporaryDirectory() as work:
        models, journal = make_models(Path(work)), Path(work) / "journal"
        for turn in range(count):
            operations = list(_operations(seed, turn, 20_000))
            acknowledged = _killed(models, journal, seed, turn, rng.uniform(0, 0.08))
            for operation in operations[:acknowledged]:
                _do(truth, operation)
            last = {user: list(events) for user, events in truth.items()}
            _do(last, operations[acknowledged])
            found = _restored(models, journal)
            assert found in (truth, last), f"turn {turn}: wanted {truth} or {last}, got {found}"
            truth = found
            done += acknowledged
            snapshots += (journal / "sessions-a.arrow").exists()
    return {"kills": count, "operations acknowledged": done, "restored from a snapshot": snapshots, "lost": 0}


def _operations(seed: int, turn: int, count: int) -> Iterator[dict[str, int]]:
    """Events, and now and then a user to forget (an operation without an item)."""
    rng = np.random.default_rng([seed, turn])
    for number in range(count):
        told = event(rng, turn * count + number)
        yield told if rng.random() < 0.97 else {"user": told["user"]}


def _do(truth: Truth, operation: dict[str, int]) -> None:
    if "item" in operation:
        note(truth, operation)
    else:
        truth.pop(operation["user"], None)


def _killed(models: dict[str, Path], journal: Path, seed: int, turn: int, seconds: float) -> int:
    """How many operations a process acknowledged before it was killed, ``seconds`` after the first."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_work, args=(models, journal, seed, turn, sender))
    process.start()
    sender.close()
    receiver.poll(60)
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    acknowledged = 0
    try:
        while True:
            acknowledged = receiver.recv()
    except EOFError:
        return acknowledged


def _work(models: dict[str, Path], journal: Path, seed: int, turn: int, acknowledge: Connection) -> None:
    service = Service(models, journal=Journal(journal))
    threading.Thread(target=_snapshots, args=(service,), daemon=True).start()
    for number, operation in enumerate(_operations(seed, turn, 20_000)):
        if "item" in operation:
            service.append([Event(**operation)])
        else:
            service.forget(operation["user"])
        acknowledge.send(number + 1)
        time.sleep(1e-4)  # the snapshots want their turn


def _snapshots(service: Service) -> None:
    while True:
        service.snapshot()


def _restored(models: dict[str, Path], journal: Path) -> Truth:
    service = Service(models, journal=Journal(journal))
    found: list[Truth] = []
    for variant in service.variants.values():
        known = {}
        for user in range(USERS):
            items, times = variant.sessions.history(user)
            if items:
                known[user] = list(zip(times.tolist(), items, strict=True))
        found.append(known)
    service.close()
    assert found[0] == found[1], "the variants know different things"
    return found[0]
