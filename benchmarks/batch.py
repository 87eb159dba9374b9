"""Users scored per second: the ten best of 50,000 items for many users at once.

    python -m benchmarks.batch [--users 4096]

"states" is the search alone, the users' states being there; "histories" begins with a table of raw histories
of 100 events, runs the GRU of 64 units over them and gives a table of ids and scores back. Medians of the
rounds; the precisions take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch

from chronorec.engine import Engine, Precisions
from chronorec.engine.item_table import topk
from chronorec.models import GRU4Rec

ITEMS, WIDTH, EVENTS, BEST, ROUNDS = 50_000, 64, 100, 10, 7
PRECISIONS = {
    "float32": Precisions(),
    "int8 items": Precisions("int8"),
    "int8 items and weights": Precisions("int8", "int8"),
}


def raw_histories(users: int) -> pa.Table:
    """A list of item ids for each user."""
    items = np.random.default_rng(0).integers(0, ITEMS, users * EVENTS)
    offsets = pa.array(np.arange(users + 1) * EVENTS, pa.int32())
    return pa.table({"items": pa.ListArray.from_arrays(offsets, pa.array(items))})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=4096)
    users = parser.parse_args().users
    torch.manual_seed(0)
    artifact = (
        GRU4Rec(ITEMS, width=WIDTH, hidden_size=WIDTH).eval().export(pa.table({"item": np.arange(ITEMS)}))
    )
    requests = raw_histories(users)
    states = np.random.default_rng(1).standard_normal((users, WIDTH)).astype(np.float32)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, precision in PRECISIONS.items():
        engine = Engine(artifact, precision)
        calls["histories", name] = lambda engine=engine: engine.recommend_batch(requests, k=BEST)
        if precision.weights == "float32":
            calls["states", name] = lambda engine=engine: topk(
                states, engine.table, engine.bias, None, BEST, None
            )
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - start)
    for (begin, name), times in sorted(seconds.items(), reverse=True):
        print(f"from {begin:10}{name:24}{users / np.median(times):9,.0f} users/s")


if __name__ == "__main__":
    main()
