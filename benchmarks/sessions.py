"""Sessions of the engine in process: an event and the ten best of 50,000 items, against the model recomputed.

    python -m benchmarks.sessions [--sessions 1000] [--requests 3000]

Sessions of 200 events are drawn at random; an append and a recommend are timed together. The item table is
read by a probe in the same run, in turns: no exact answer can be faster in float32. torch runs the same
model eagerly over the session's 200 events, with its own product and top-k.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import torch

from benchmarks.memory import peak_above, resident
from chronorec import _core
from chronorec.engine import Engine, Precisions, Sessions
from chronorec.engine.precision import StatePrecision
from chronorec.models import HSTU, GRU4Rec, SequenceModel, Sequences

ITEMS, WIDTH, EVENTS, BEST = 50_000, 64, 200, 10
MODELS: dict[str, Callable[[], SequenceModel]] = {
    "gru4rec": lambda: GRU4Rec(ITEMS, width=WIDTH, hidden_size=WIDTH),
    "hstu, 2 blocks": lambda: HSTU(ITEMS, width=WIDTH, blocks=2, max_length=EVENTS, time_bias=False),
}


def microseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def filled(engine: Engine, count: int) -> Sessions:
    """Sessions of random events with their states made."""
    rng = np.random.default_rng(0)
    sessions = Sessions(engine, memory="4G")
    for user in range(count):
        sessions.extend(user, rng.integers(0, ITEMS, EVENTS).tolist(), list(range(EVENTS)))
        sessions.recommend(user)
    return sessions


def torch_answer(model: SequenceModel, items: np.ndarray) -> object:
    """The model over a whole session."""
    offsets = torch.tensor([0, len(items)])
    with torch.no_grad():
        states = model(Sequences(torch.from_numpy(items), offsets))
        return (states[-1:] @ model.output_table.T).topk(BEST)


def time_model(name: str, count: int, requests: int) -> None:
    """One line per precision."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    artifact = model.export(pa.table({"item": np.arange(ITEMS)}))
    rng = np.random.default_rng(1)
    table = torch.from_numpy(artifact.weights["item_embedding"])
    held: dict[str, Precisions] = {"float32": Precisions(), "bfloat16": Precisions("bfloat16")}
    held["int8"] = Precisions("int8")
    if name == "gru4rec":
        held["int8 all"] = Precisions("int8", "int8", "bfloat16")
    for precision, parts in held.items():
        sessions = filled(Engine(artifact, parts), count)
        times: dict[str, list[float]] = {"session": [], "read": [], "torch": []}
        for request in range(requests):
            user, item = int(rng.integers(count)), int(rng.integers(ITEMS))
            work = lambda: (sessions.append(user, item), sessions.recommend(user, k=BEST))  # noqa: B023, E731
            times["session"].append(microseconds(work))
            if request % 10 == 0:
                time.sleep(2e-3)
                table.sum()
                times["read"].append(microseconds(table.sum))
                history = rng.integers(0, ITEMS, EVENTS)
                times["torch"].append(microseconds(lambda: torch_answer(model, history)))  # noqa: B023
                time.sleep(2e-3)
                work()
        middle = {key: float(np.median(found)) for key, found in times.items()}
        print(
            f"{name:16}{precision:10}p50 {middle['session']:7.0f} us   p99 "
            f"{np.quantile(times['session'], 0.99):7.0f} us   {middle['session'] / middle['read']:5.2f} x "
            f"reading the table   torch {middle['torch'] / middle['session']:5.1f} x as long"
        )


def memory_of(count: int, states: StatePrecision) -> None:
    """Bytes of idle sessions of one event each."""
    model = GRU4Rec(100, width=16, hidden_size=WIDTH).eval()
    artifact = model.export(pa.table({"item": np.arange(100)}))
    sessions = Sessions(Engine(artifact, Precisions(states=states)), memory="8G")
    before = resident()
    for user in range(count):
        sessions.append(user, user % 100, at=1)
        sessions.recommend(user, k=1)
    used, counts = peak_above(before), sessions.counts()
    print(
        f"{count:,} idle GRU sessions of H={WIDTH}, states in {states}: {used / 1e6:,.0f} MB resident; "
        f"counted: states {counts['state_bytes'] / 1e6:,.0f} MB, "
        f"index {counts['index_bytes'] / 1e6:,.0f} MB, events {counts['event_bytes'] / 1e6:,.0f} MB"
    )


def first_answer() -> None:
    """A process that loads a model and answers."""
    model = MODELS["gru4rec"]().eval()
    with tempfile.TemporaryDirectory() as work:
        folder = model.export(pa.table({"item": np.arange(ITEMS)})).save(f"{work}/model")
        code = f"from chronorec import Engine; Engine.load({str(folder)!r}).recommend([1, 2, 3])"
        start = lambda: subprocess.run([sys.executable, "-c", code], check=True)  # noqa: E731
        seconds = [microseconds(start) / 1e6 for _ in range(5)]
    print(f"start of a process to its first answer, {ITEMS:,} items: {np.median(seconds):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--idle", type=int, default=1_000_000, help="sessions whose memory is counted")
    options = parser.parse_args()
    torch.set_num_threads(_core.num_threads())
    first_answer()
    for name in MODELS:
        time_model(name, options.sessions, options.requests)
    for states in ("bfloat16", "float32"):
        # a process of its own, since memory that this one gave up would be taken again
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(memory_of, options.idle, states).result()


if __name__ == "__main__":
    main()
