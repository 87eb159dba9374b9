"""``python -m benchmarks.quality``: train on a public log and compare with the baselines."""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from chronorec.data import EventLog, Histories
from chronorec.training import load_config, train
from chronorec.training.comparison import compare
from chronorec.training.splitting import make_split

_EXAMPLE = """\
example (MovieLens-1M as Parquet with columns user_id, item_id, position):
  python -m benchmarks.quality benchmarks/quality/ml1m_sasrec.toml --data ml-1m/interactions.parquet \\
      --order position --min-item-events 5 --peer peer/bin/python
"""


def read_histories(path: Path, order: str | None, min_item_events: int) -> Histories:
    """The log without items of fewer than ``min_item_events`` events, as published protocols cut it."""
    table = ds.dataset(path).to_table()
    counts = table.group_by("item_id").aggregate([("item_id", "count")])
    kept = counts.filter(pc.greater_equal(counts["item_id_count"], min_item_events))["item_id"]
    table = table.filter(pc.is_in(table["item_id"], value_set=kept.combine_chunks()))
    time_unit = "s" if "timestamp" in table.column_names else None
    return EventLog.read(table, user="user_id", item="item_id", order=order, time_unit=time_unit).histories()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="TOML configuration of the run")
    parser.add_argument("--data", type=Path, required=True, help="Parquet event log")
    parser.add_argument("--order", help="order column, where times are not known for all events")
    parser.add_argument("--min-item-events", type=int, default=1, help="drop rarer items")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, help="keep the model, and its checkpoints, here")
    parser.add_argument(
        "--peer", metavar="PYTHON", help="also time an epoch of RecTools with this interpreter"
    )
    parser.add_argument("--validation-only", action="store_true", help="leave the test split unread")
    arguments = parser.parse_args()

    started = time.monotonic()
    histories = read_histories(arguments.data, arguments.order, arguments.min_item_events)
    config = load_config(arguments.config, arguments.set)
    split = make_split(config.split, histories)
    print(f"{histories.num_users} users, {histories.num_items} items, {histories.num_events} events")
    print(split.describe())
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, histories, split=split, output=arguments.output or Path(folder) / "model")
    epoch = run.curve[-1]["seconds"] / len(run.curve)
    print(f"best epoch {run.best_epoch}, validation ndcg@10 {run.validation:.4f}, {epoch:.1f} s an epoch")
    if not arguments.validation_only:
        print(compare({config.model.kind: run.artifact}, histories).text())
    print(f"{time.monotonic() - started:.0f} s in all, trained on {run.artifact.provenance['trained_on']}")
    if arguments.peer:
        peer = peer_epoch(arguments.peer, arguments)
        print(f"an epoch of RecTools takes {peer:.1f} s: {peer / epoch:.1f} times as long")


def peer_epoch(python: str, arguments: argparse.Namespace) -> float:
    """Seconds of one epoch of RecTools' SASRec on the same log, in its own environment."""
    script = Path(__file__).parents[1] / "peers" / "rectools_sasrec.py"
    command = [python, str(script), "--data", str(arguments.data), "--epochs", "1"]
    command += [
        "--order",
        arguments.order or "timestamp",
        "--min-item-events",
        str(arguments.min_item_events),
    ]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"epoch 1: ([\d.]+) s", printed)
    assert found, f"no epoch in what the peer printed: {printed}"
    return float(found[1])


if __name__ == "__main__":
    main()
