"""The table of ratios, from rows that ``python -m benchmarks --out rows.jsonl`` wrote.

python -m benchmarks.table rows.jsonl                      print it
python -m benchmarks.table rows.jsonl --into README.md     replace what stands between the marks there
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, RIVALS

Row = dict[str, Any]


def marks(row: Row) -> tuple[str, str]:
    """Between which the table of rows like this one stands in a text."""
    name = "gpu ratios" if "gpu" in row else "ratios"
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def cases(lines: list[str]) -> list[list[Row]]:
    """The rows of each case; where a case was run more than once, the last run counts."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for line in lines:
        row = json.loads(line)
        key = row["op"], row["mode"], row["dtype"], row["name"]
        if row["provider"] == OURS:
            found[key] = []
        found[key].append(row)
    return list(found.values())


def duration(micros: float) -> str:
    """Three digits with a unit."""
    return (
        f"{micros:.3g} us"
        if micros < 1000
        else f"{micros / 1e3:.3g} ms"
        if micros < 1e6
        else f"{micros / 1e6:.3g} s"
    )


def table_row(rows: list[Row]) -> str:
    """One case: ours, then the rivals' times over ours, nearest first."""
    ours, *others = rows
    rivals = ", ".join(
        f"{row['provider']} {row['ratio']:.2f}" for row in sorted(others, key=lambda row: row["ratio"])
    )
    rate = f"{ours['rate']:.3g} {ours['unit']}, {ours['share']:.0%}"
    case, memory = f"{ours['mode']} {ours['dtype']}, {ours['name']}", f"{ours['extra_mb']:.0f} MB"
    return f"| {ours['op']} | {case} | {duration(ours['p50_us'])} | {rate} | {memory} | {rivals} |"


def geometric_mean(found: list[list[Row]]) -> float:
    """Of the nearest rival's ratio of every case."""
    nearest = [min(row["ratio"] for row in rows[1:]) for rows in found if len(rows) > 1]
    return math.exp(sum(map(math.log, nearest)) / len(nearest))


def table(found: list[list[Row]]) -> str:
    """The whole table in Markdown, with where and with what it was measured."""
    first = found[0][0]
    if "gpu" in first:
        how = "replays of CUDA graphs" if first["replay"] else "calls"
        facts = [f"{first['gpu']}, CUDA {first['cuda']}, {how}, commit {first['commit']}"]
    else:
        level = f"level {first['level']}, {first['threads']} threads"
        facts = [f"{first['machine']}, {level}, commit {first['commit']}"]
    facts += [f"{name} {first[name]}" for name in RIVALS if name in first]
    titles = "| op | case | median | work, share of peak | memory | rivals: their time over ours |"
    head = f"{titles}\n|---|---|---:|---:|---:|---|"
    body = "\n".join(table_row(rows) for rows in found)
    mean = f"Geometric mean over the nearest rival of each case: {geometric_mean(found):.2f}."
    return f"{'; '.join(facts)}.\n\n{head}\n{body}\n\n{mean}"


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="a text with marks such as <!-- ratios --> <!-- /ratios -->"
    )
    options = parser.parse_args(arguments)
    found = cases([line for path in options.rows for line in path.read_text().splitlines()])
    text, around = table(found), marks(found[0][0])
    if options.into is None:
        print(text)
        return 0
    whole = options.into.read_text()
    if any(whole.count(mark) != 1 for mark in around):
        parser.error(f"{options.into}: wanted the marks {' and '.join(around)} once each")
    before, rest = whole.split(around[0])
    options.into.write_text(f"{before}{around[0]}\n{text}\n{around[1]}{rest.split(around[1])[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
