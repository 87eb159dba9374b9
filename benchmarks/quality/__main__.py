"""Runs a row of the table of quality, or prints the table: see ``python -m benchmarks.quality --help``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.quality.rows import HERE, Row, read_row
from benchmarks.quality.table import read_records, table, tested

EXAMPLES = """examples (ROW is a file such as benchmarks/quality/ml1m_sasrec.toml; FOLDER holds the folders
that data.toml names, each with interactions.parquet):
  python -m benchmarks.quality ROW --data FOLDER --part validation --set training.epochs=3
  python -m benchmarks.quality ROW --data FOLDER
  python -m benchmarks.quality ROW --data FOLDER --peer rectools=peer/bin/python
  python -m benchmarks.quality --table

A run trains every seed of the row in a process of its own, evaluates it and appends a record, one JSON object
a line. Settings are chosen with --part validation; the test events are read once for each configuration and
seed, and again only with --again."""
RECORDS = HERE / "records.jsonl"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.quality",
        description="Train a model on a public log and put it beside baselines and published figures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("row", nargs="?", type=Path, help="TOML file of the row")
    parser.add_argument("--table", action="store_true", help="print all records")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the public logs are")
    parser.add_argument("--seed", type=int, action="append", help="instead of the seeds of the row")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--again", action="store_true", help="read the test events once more")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep models and checkpoints here")
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help="default: records.jsonl beside the rows"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="only time an epoch of benchmarks/peers/NAME_MODEL.py with this interpreter, and record it",
    )
    options = parser.parse_args(arguments)
    if (options.row is None) != options.table:
        parser.error("wanted either the TOML file of a row or --table")
    return options


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    options = parse(arguments)
    if options.table:
        print(table(read_records(options.records)), end="")
        return 0
    row = read_row(options.row, options.set)
    if options.peer:
        for peer in options.peer:
            name, _, python = peer.partition("=")
            _append(options.records, time_peer(name, python, row, options.data))
        return 0
    seeds = options.seed or row.seeds
    if len(seeds) > 1:
        for seed in seeds:
            alone = [*_without_seeds(arguments), "--seed", str(seed)]
            command = [sys.executable, "-m", "benchmarks.quality", *alone]
            subprocess.run(command, check=True)
        return 0
    return _run(options, row, seeds[0])


def _without_seeds(arguments: list[str]) -> list[str]:
    rest = iter(arguments)
    kept = [argument for argument in rest if argument != "--seed" or not next(rest)]
    return [argument for argument in kept if not argument.startswith("--seed=")]


def _run(options: argparse.Namespace, row: Row, seed: int) -> int:
    from benchmarks.quality.measure import config_hash, run

    times = tested(read_records(options.records), row.name, config_hash(row.config), seed)
    if options.part == "test" and times and not options.again:
        print(
            f"{row.name}, seed {seed}: its test events were read {times} times already; choose with "
            "--part validation, or read them once more with --again",
            file=sys.stderr,
        )
        return 1
    record = run(row, seed, options.data, options.output, part=options.part, again=options.again)
    _append(options.records, record)
    return 0


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def time_peer(name: str, python: str, row: Row, data: Path | None) -> dict[str, Any]:
    """Seconds and memory of one epoch of another library's model of the same kind, in its own environment."""
    script = HERE.parent / "peers" / f"{name}_{row.config.model.kind}.py"
    if data is None or "folder" not in row.log or not script.exists():
        raise SystemExit(f"--peer {name}: needs --data and {script.name}")
    folder = data / row.log["folder"] if (data / row.log["folder"]).is_dir() else data
    command = [python, str(script), "--data", str(folder / "interactions.parquet"), "--epochs", "1"]
    command += ["--order", row.log.get("order", "timestamp")]
    command += ["--min-item-events", str(row.log.get("min_item_events", 1))]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(printed, end="")
    seconds = re.search(r"epoch 1: ([\d.]+) s", printed)
    peak = re.search(r"peak memory above imports: ([\d.]+) MiB", printed)
    if not seconds or not peak:
        raise SystemExit(f"--peer {name}: it printed no time or no memory")
    return {
        "row": row.name,
        "peer": name,
        "seconds_per_epoch": float(seconds[1]),
        "peak_mib": float(peak[1]),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
