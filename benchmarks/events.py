"""From an Arrow table of events to histories, beside polars: time and peak of memory.

    python -m benchmarks.events --events 20000000

Both sides start from int64 ids and microsecond timestamps in memory; ours also encodes the ids. The sides
take turns in one process and run twice a turn: the first call after a pause may have to fetch its memory from
the system again (dear on a virtual machine that hands free pages back to its host), the second finds it warm,
as the allocator of polars, which keeps memory, always does. Medians and their ratios are printed for both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.memory import peak_above, resident
from chronorec.data import EventLog


def make_log(events: int, users: int, items: int, ordered: bool) -> pa.Table:
    """Sparse ids, some users and items much busier than others, times over a year."""
    rng = np.random.default_rng(0)
    micros = rng.integers(0, 365 * 86_400 * 10**6, events)
    if ordered:
        micros.sort()
    return pa.table(
        {
            "user_id": (rng.random(events) ** 1.5 * users).astype(np.int64) * 1_000_003,
            "item_id": (rng.random(events) ** 3 * items).astype(np.int64) * 7919,
            "timestamp": pa.array(micros, pa.timestamp("us")),
        }
    )


def sort_then_group(frame: pl.DataFrame) -> object:
    return (
        frame.sort("user_id", "timestamp")
        .group_by("user_id", maintain_order=True)
        .agg("item_id", "timestamp")
    )


def group_then_sort(frame: pl.DataFrame) -> object:
    return frame.group_by("user_id").agg(pl.col("item_id", "timestamp").sort_by("timestamp"))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--shuffled", action="store_true", help="rows in no order of time")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    log = make_log(options.events, options.users, options.items, not options.shuffled)
    before = resident()
    histories = EventLog.read(log).histories()
    peak = peak_above(before)
    assert histories.time is not None
    result = histories.item.nbytes + histories.time.nbytes + histories.offsets.nbytes
    result += histories.users.nbytes + histories.items.nbytes
    print(f"{histories.num_events:,} events, {histories.num_users:,} users, {histories.num_items:,} items")
    print(f"peak above the input {peak / 1e6:,.0f} MB, {peak / result:.2f} x the result")
    del histories
    frame = pl.DataFrame(pl.from_arrow(log))
    works: dict[str, Callable[[], object]] = {
        "chronorec": lambda: EventLog.read(log).histories(),
        "polars sort + group_by": lambda: sort_then_group(frame),
        "polars group_by + sort_by": lambda: group_then_sort(frame),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            times[name].append((seconds(work), seconds(work)))
    print(f"{'':28}{'first':>10}{'again':>10}")
    medians = {name: np.median(found, axis=0) for name, found in times.items()}
    for name, (first, again) in medians.items():
        print(f"{name:28}{first:8.2f} s{again:8.2f} s")
    rivals = [found for name, found in medians.items() if name != "chronorec"]
    first, again = np.min(rivals, axis=0) / medians["chronorec"]
    print(f"chronorec is {first:.1f} and {again:.1f} times as fast as the faster polars")


if __name__ == "__main__":
    main()
