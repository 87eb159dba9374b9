"""A disk that is full for a while, under a real server."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.faults.models import Truth, event, known_to, make_models, note, server


def disk_full(count: int, seed: int) -> dict[str, int]:
    """Rounds in which the system lets the server write nothing more to files, and then again.

    Meanwhile events are refused (503) with the reason, and answers go on; snapshots that fail end nothing.
    At last the server is killed: a fresh one knows exactly what was acknowledged.
    """
    rng = np.random.default_rng(seed)
    truth: Truth = {}
    told = refused = answered = 0
    with tempfile.TemporaryDirectory() as work:
        model = make_models(Path(work), "a")["a"]
        options = ("--journal", f"{work}/journal", "--snapshot-seconds", "0.05")
        with server(model, *options) as (client, process):
            limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            for turn in range(count):
                for number in range(20):
                    one = event(rng, 1000 * turn + number)
                    full = number >= 10
                    if number == 10:
                        resource.prlimit(
                            process.pid, resource.RLIMIT_FSIZE, (int(rng.integers(0, 6)), limits[1])
                        )
                    answer = client.post("/v1/events", json={"events": [one]})
                    if full:
                        assert answer.status_code == 503, answer.text
                        assert "the event log cannot be written" in answer.text
                        refused += 1
                    else:
                        answer.raise_for_status()
                        note(truth, one)
                        told += 1
                    client.post("/v1/recommend", json={"user": one["user"]}).raise_for_status()
                    answered += 1
                time.sleep(0.15)  # snapshots fail meanwhile
                assert known_to(client) == truth
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
            failed = _count(client.get("/metrics").text, 'chronorec_snapshots_total{result="failed"}')
            assert failed > 0
            process.kill()
        with server(model, *options) as (client, _):
            assert known_to(client) == truth
    return {
        "times full": count,
        "events refused with the reason": refused,
        "snapshots failed": failed,
        "answers meanwhile and between": answered,
        "events acknowledged": told,
        "lost": 0,
    }


def _count(metrics: str, name: str) -> int:
    [line] = [line for line in metrics.splitlines() if line.startswith(name)]
    return int(float(line.split()[-1]))
