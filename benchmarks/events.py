"""From an Arrow table of events to histories, beside polars: time and peak of memory.

    python -m benchmarks.events --events 20000000

Both sides start from int64 ids and microsecond timestamps in memory; ours also encodes the ids. The sides
take turns: each in a process of its own, whose first call has to fetch all its memory from the system (dear
on a virtual machine that hands free pages back to its host), then in one process, twice a turn, of which the
second call counts: it finds its memory warm on both sides. Medians and their ratios are printed for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

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


def works_on(log: pa.Table) -> dict[str, Callable[[], object]]:
    """The work by provider."""
    frame = pl.DataFrame(pl.from_arrow(log))
    return {
        "chronorec": lambda: EventLog.read(log).histories(),
        "polars sort + group_by": lambda: sort_then_group(frame),
        "polars group_by + sort_by": lambda: group_then_sort(frame),
    }


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_of_first_call(provider: str, path: Path) -> float:
    """How long the first call of a process takes on the events of an Arrow file, which are in memory."""
    with pa.memory_map(str(path)) as source:
        log = pa.ipc.open_file(source).read_all()
        for column in log.columns:
            np.frombuffer(column.chunk(0).buffers()[1], np.int64).max()
        return seconds(works_on(log)[provider])


def fresh_times(log: pa.Table, repeats: int) -> dict[str, list[float]]:
    """Seconds of first calls, each in a process of its own, the providers in turns."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.arrow"
        with pa.ipc.new_file(path, log.schema) as sink:
            sink.write_table(log)
        for _ in range(repeats):
            for provider in works_on(log):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    found = process.submit(seconds_of_first_call, provider, path).result()
                times.setdefault(provider, []).append(found)
    return times


def warm_times(log: pa.Table, repeats: int) -> dict[str, list[float]]:
    """Seconds of calls that find the memory of a call just before, the providers in turns."""
    works = works_on(log)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds(work)
            times[name].append(seconds(work))
    return times


def peak_of(log: pa.Table) -> None:
    """Prints the peak of memory above the input."""
    before = resident()
    histories = EventLog.read(log).histories()
    peak = peak_above(before)
    assert histories.time is not None
    result = histories.item.nbytes + histories.time.nbytes + histories.offsets.nbytes
    result += histories.users.nbytes + histories.items.nbytes
    print(f"{histories.num_events:,} events, {histories.num_users:,} users, {histories.num_items:,} items")
    print(f"peak above the input {peak / 1e6:,.0f} MB, {peak / result:.2f} x the result")


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
    peak_of(log)
    kinds = {
        "first call of a process": fresh_times(log, options.repeats),
        "later calls": warm_times(log, options.repeats),
    }
    for kind, times in kinds.items():
        medians = {name: float(np.median(found)) for name, found in times.items()}
        ours = medians.pop("chronorec")
        ratio = min(medians.values()) / ours
        print(f"{kind}: chronorec {ours:.2f} s, {ratio:.1f} times as fast as the faster of")
        for name, median in medians.items():
            print(f"  {name:26}{median:8.2f} s")


if __name__ == "__main__":
    main()
