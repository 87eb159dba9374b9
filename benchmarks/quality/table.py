"""The table of all records, beside published figures: Markdown, a section for each log and protocol."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.rows import HERE, tomllib

Record = dict[str, Any]
_COSTS = {
    "seconds_per_epoch": "s/epoch",
    "total_seconds": "total s",
    "peak_mib": "peak MiB",
    "events_per_second": "events/s",
}


def read_records(path: Path) -> list[Record]:
    """One JSON object a line, oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tested(records: Sequence[Record], row: str, config: str, seed: int) -> int:
    """How often the test events were read for this row, configuration and seed."""
    wanted = {"row": row, "config": config, "seed": seed, "part": "test"}
    return sum(all(record.get(key) == value for key, value in wanted.items()) for record in records)


def table(records: Sequence[Record]) -> str:
    """All records: models by their mean over seeds, with the deviation where there are several; of several
    records of one seed the last counts. Then the baselines of the latest, and what others published.
    """
    figures = tomllib.loads((HERE / "published.toml").read_text(encoding="utf-8"))["figure"]
    runs = [record for record in records if "metrics" in record]
    peers = {(r["row"], r["peer"]): r for r in records if "peer" in r}
    sections: dict[tuple[str, ...], list[Record]] = {}
    for run in runs:
        key = run["data"], run["protocol"], run["part"], run["split"]
        sections.setdefault(key, []).append(run)
    return "\n\n".join(_section(key, own, figures, peers) for key, own in sections.items()) + "\n"


def _section(
    key: tuple[str, ...],
    runs: Sequence[Record],
    figures: Sequence[Record],
    peers: dict[tuple[str, str], Record],
) -> str:
    data, protocol, part, split = key
    published = [f for f in figures if f["data"] == data and protocol.startswith(f["protocol"])]
    metrics = list(
        dict.fromkeys(["recall@10", "ndcg@10", *(name for f in published for name in f["metrics"])])
    )
    names = sorted({name for row, name in peers if row in {run["row"] for run in runs}})
    header = ["model", *metrics, *_COSTS.values(), *(f"{name} s/epoch" for name in names)]
    lines = [_line(header), "|---|" + "---:|" * (len(header) - 1)]
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    for run in runs:
        groups.setdefault((run["row"], run["config"]), {})[run["seed"]] = run
    several = {row for row, _ in groups if sum(row == other for other, _ in groups) > 1}
    order = sorted(groups.items(), key=lambda group: -_mean(list(group[1].values()), "ndcg@10"))
    for (row, config), by_seed in order:
        own = list(by_seed.values())
        label = f"{row} ({config})" if row in several else row
        label += f", {len(own)} seeds" if len(own) > 1 else f", seed {own[0]['seed']}"
        label += ", on a GPU" if "gpu" in own[0] else ""
        cells = [_over_seeds([run["metrics"].get(name) for run in own], ".4f") for name in metrics]
        cells += [_over_seeds([run.get(name) for run in own], ",.4g") for name in _COSTS]
        cells += [_peer(peers.get((row, name)), own) for name in names]
        lines.append(_line([f"**{label}**", *cells]))
    blank = [""] * (len(header) - 1 - len(metrics))
    for name, values in runs[-1]["baselines"].items():
        cells = [f"{values[m]:.4f}" if m in values else "" for m in metrics]
        lines.append(_line([f"{name} (baseline)", *cells, *blank]))
    for figure in published:
        cells = [f"{figure['metrics'][m]:.4f}" if m in figure["metrics"] else "" for m in metrics]
        lines.append(_line([f"{figure['who']} (published)", *cells, *blank]))
    machines = sorted({", ".join(_machine(run)) for run in runs})
    title = f"### {data}: {protocol}, {part}, {runs[-1]['queries']:,} queries, split {split[:12]}"
    return "\n".join([title, "", *lines, "", f"Measured on {'; '.join(machines)}."])


def _machine(run: Record) -> list[str]:
    return [*([run["gpu"]] if "gpu" in run else []), run["cpu"], f"{run['cores']} cores"]


def _mean(runs: Sequence[Record], metric: str) -> float:
    return statistics.fmean(run["metrics"][metric] for run in runs)


def _over_seeds(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = format(statistics.fmean(known), form)
    return f"{text} ± {format(statistics.stdev(known), form)}" if len(known) > 1 else text


def _peer(peer: Record | None, runs: Sequence[Record]) -> str:
    """Seconds of an epoch, how many times ours that is, and the same for memory."""
    if peer is None:
        return ""
    text = f"{peer['seconds_per_epoch']:,.4g}"
    for name, unit in (("seconds_per_epoch", ""), ("peak_mib", " the memory")):
        own = [run[name] for run in runs if run.get(name)]
        if own and peer.get(name):
            text += f", {peer[name] / statistics.fmean(own):.1f} x{unit}"
    return text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
