"""The server under load: a real process, real connections, and a rate that is held.

    python -m benchmarks.load                          a model made here: GRU, 50,000 items, width 64
    python -m benchmarks.load MODEL --rate 1000 --seconds 60
    python -m benchmarks.load --best                   also the highest rate that it sustains

Of five requests one tells an event and four ask for the ten best items of a user; users are drawn at random
from --users, each with 20 events to begin with. Events are written to a journal before they are acknowledged.
Generator and server share the machine's cores. A rate is sustained if there is no error, p99 is at most --p99
milliseconds, and the last answer comes as soon as the last request is due.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import open_loop
from chronorec.artifact import Artifact

ITEMS, WIDTH, EVENTS, BEST = 50_000, 64, 20, 10
HOST = "127.0.0.1"
_PATIENCE = 60.0
_STEP = 1.15  # from one rate to the next


def make_model(folder: Path) -> Path:
    """A GRU of random weights."""
    import torch

    from chronorec.models import GRU4Rec

    torch.manual_seed(0)
    model = GRU4Rec(ITEMS, width=WIDTH, hidden_size=WIDTH).eval()
    return model.export(pa.table({"item": np.arange(ITEMS)})).save(folder)


@contextlib.contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Port and process of a server that answers."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "chronorec", "serve", str(model), "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)}: does not answer")
            time.sleep(0.05)
        yield port, process
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def traffic(items: list[int | str], users: int, count: int, events: float) -> list[bytes]:
    """Requests of random users; a share of ``events`` tells one event each."""
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(count):
        user = int(rng.integers(users))
        if rng.random() < events:
            told = {"user": user, "item": items[rng.integers(len(items))]}
            requests.append(_request("/v1/events", {"events": [told]}))
        else:
            requests.append(_request("/v1/recommend", {"user": user, "k": BEST}))
    return requests


def beginnings(items: list[int | str], users: int) -> list[bytes]:
    """Requests that give every user a history and a state."""
    rng = np.random.default_rng(1)
    requests = []
    for user in range(users):
        history = rng.integers(0, len(items), EVENTS)
        told = [{"user": user, "item": items[item], "at": at} for at, item in enumerate(history)]
        requests += [
            _request("/v1/events", {"events": told}),
            _request("/v1/recommend", {"user": user, "k": BEST}),
        ]
    return requests


def _request(path: str, body: object) -> bytes:
    return open_loop.request_bytes(path, json.dumps(body).encode(), HOST)


def cpu_seconds(process: int) -> float:
    """Processor time of a process, all threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """A server with users, and a process that asks it.

    Args:
        server: process id.
    """

    def __init__(self, port: int, server: int, requests: list[bytes], connections: int) -> None:
        self._port, self._server, self._requests = port, server, requests
        self._connections = connections
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def run(self, rate: float, seconds: float, requests: list[bytes] | None = None) -> open_loop.Load:
        """Holds a rate for a while; prints what came of it."""
        before = cpu_seconds(self._server)
        asked = self._requests if requests is None else requests
        arguments = (HOST, self._port, asked, rate, seconds, self._connections)
        load = self._pool.submit(open_loop.run, *arguments).result()
        used, count = cpu_seconds(self._server) - before, len(load.seconds)
        print(
            f"{rate:6,.0f}/s for {seconds:.0f} s: p50 {load.milliseconds(0.5):7.2f} ms   "
            f"p99 {load.milliseconds(0.99):7.2f} ms   p99.9 {load.milliseconds(0.999):7.2f} ms   "
            f"{load.errors} errors of {count:,}   processor time per request: server "
            f"{used / count * 1e6:.0f} us, generator {load.cpu / count * 1e6:.0f} us",
            flush=True,
        )
        return load

    def best(self, begin: float, seconds: float, p99: float) -> float:
        """The highest rate that is sustained, in steps; 0 if not even the first one is."""
        rate, sustained = begin, 0.0
        while True:
            load = self.run(rate, seconds)
            late = load.elapsed > 1.02 * seconds
            if load.errors or late or load.milliseconds(0.99) > p99:
                return sustained
            rate, sustained = rate * _STEP, rate

    def close(self) -> None:
        self._pool.shutdown()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", type=Path, help="model folder; by default one is made")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--best", action="store_true", help="also look for the highest rate, from --rate up")
    parser.add_argument("--p99", type=float, default=15.0, help="milliseconds that a sustained rate keeps to")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--events", type=float, default=0.2, help="share of requests that tell an event")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        model = options.model or make_model(Path(work) / "model")
        items = Artifact.load(model).items.column("item").to_pylist()
        journal = ["--journal", f"{work}/journal", "--precision", options.precision]
        with serving(model, *journal) as (port, process):
            requests = traffic(items, options.users, 20_000, options.events)
            bench = Bench(port, process.pid, requests, options.connections)
            begin = beginnings(items, options.users)
            print("warming up; not part of the result:")
            bench.run(500, len(begin) / 500, begin)
            print("held:")
            load = bench.run(options.rate, options.seconds)
            if options.best:
                print("looking for the best rate:")
                seconds = max(5.0, options.seconds / 6)
                print(f"sustained at its best: {bench.best(options.rate, seconds, options.p99):,.0f}/s")
            bench.close()
    return int(load.errors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
