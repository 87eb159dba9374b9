"""``python -m benchmarks.quality``: train on a public log and compare with the baselines."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from chronorec.data import EventLog, Histories
from chronorec.training import load_config, train
from chronorec.training.comparison import compare
from chronorec.training.run import make_split

_EXAMPLE = """\
example (MovieLens-1M as Parquet with columns user_id, item_id, position):
  python -m benchmarks.quality benchmarks/quality/ml1m_sasrec.toml --data ml-1m/interactions.parquet \\
      --order position --min-item-events 5
"""


def read_histories(path: Path, order: str | None, min_item_events: int) -> Histories:
    """The log without items of fewer than ``min_item_events`` events, as published protocols cut it."""
    table = ds.dataset(path).to_table()
    counts = table.group_by("item_id").aggregate([("item_id", "count")])
    kept = counts.filter(pc.greater_equal(counts["item_id_count"], min_item_events))["item_id"]
    table = table.filter(pc.is_in(table["item_id"], value_set=kept.combine_chunks()))
    return EventLog.read(table, user="user_id", item="item_id", order=order, time_unit="s").histories()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="TOML configuration of the run")
    parser.add_argument("--data", type=Path, required=True, help="Parquet event log")
    parser.add_argument("--order", help="order column, where times are not known for all events")
    parser.add_argument("--min-item-events", type=int, default=1, help="drop rarer items")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--validation-only", action="store_true", help="leave the test split unread")
    arguments = parser.parse_args()

    started = time.monotonic()
    histories = read_histories(arguments.data, arguments.order, arguments.min_item_events)
    config = load_config(arguments.config, arguments.set)
    split = make_split(config.split, histories)
    print(f"{histories.num_users} users, {histories.num_items} items, {histories.num_events} events")
    print(split.describe())
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, histories, split=split, checkpoint=Path(folder) / "checkpoint")
    first = run.curve[0]["seconds"]
    print(f"best epoch {run.best_epoch}, validation ndcg@10 {run.validation:.4f}, first epoch {first:.1f} s")
    if not arguments.validation_only:
        print(compare([run.artifact], histories).text())
    print(f"{time.monotonic() - started:.0f} s in all, trained on {run.artifact.provenance['trained_on']}")


if __name__ == "__main__":
    main()
