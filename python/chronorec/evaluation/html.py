"""A comparison as one HTML file: tables and pictures, nothing loaded from elsewhere. Needs matplotlib."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chronorec.evaluation.report import Report

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
td.best { font-weight: bold }
svg { max-width: 100%; height: auto }
"""
Curve = Sequence[Mapping[str, float]]


def html_report(report: Report, curves: Mapping[str, Curve] | None = None) -> str:
    """The report as a page.

    Args:
        curves: label of a training run to its epochs ("epoch", "loss" and, where validated, "ndcg@10"), as
            in ``TrainingRun.curve`` and in the provenance of a model.
    """
    facts = report.to_dict()
    parts = [
        f"<h1>{html.escape(report.title())}</h1>",
        *(f"<p>{html.escape(text)}</p>" for text in [facts["verdict"], *report.test_counts()]),
        _table(report.cells()),
        _svg(_intervals(facts)),
    ]
    for name in facts["slices"]:
        parts += [
            f"<h2>{html.escape(facts['primary'])} by {html.escape(name)}</h2>",
            _svg(_slices(facts, name)),
        ]
    for title, cells in report.head_tables():
        parts += [f"<h2>{html.escape(title)}</h2>", _table(cells, marked=False)]
    if report.calibrations:
        parts += ["<h2>Calibration</h2>", _svg(_calibrations(facts["calibrations"]))]
    if curves:
        parts += ["<h2>Learning curves</h2>", _svg(_curves(curves))]
    head = f'<meta charset="utf-8"><title>chronorec: {html.escape(facts["protocol"])}</title>'
    lines = ["<!doctype html>", '<html lang="en">', f"<head>{head}<style>{_STYLE}</style></head>", "<body>"]
    return "\n".join([*lines, *parts, "</body>", "</html>"]) + "\n"


def _table(cells: Sequence[Sequence[str]], *, marked: bool = True) -> str:
    """A table of plain cells; ``marked``: the largest number of each column is."""
    header, *rows = cells
    lines = ["<table>", "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>"]
    best = [max(column, key=float) if index else "" for index, column in enumerate(zip(*rows, strict=True))]
    for row in rows:
        marks = [
            ' class="best"' if marked and index and cell == top and header[index] != "seconds" else ""
            for index, (cell, top) in enumerate(zip(row, best, strict=True))
        ]
        lines.append(
            "<tr>"
            + "".join(f"<td{mark}>{html.escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True))
            + "</tr>"
        )
    return "\n".join([*lines, "</table>"])


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The picture as an element of the page; text stays text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chronorec"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _intervals(facts: Mapping[str, Any]) -> Figure:
    """The main metric of every model with its 95 % interval over users."""
    models = facts["models"][::-1]
    figure = _figure(0.9 + 0.35 * len(models))
    axes = figure.subplots()
    for row, model in enumerate(models):
        value = model["metrics"][facts["primary"]]
        axes.barh(row, value, color="#bbb" if model["baseline"] else "#4477aa")
        if model["interval"] is not None:
            axes.plot(model["interval"], [row, row], color="#222")
    axes.set_yticks(range(len(models)), [model["name"] for model in models])
    axes.set_xlabel(f"{facts['primary']}; line: 95 % of resampled users")
    return figure


def _slices(facts: Mapping[str, Any], name: str) -> Figure:
    """The main metric of every model over the parts of one slicing."""
    sizes = facts["slices"][name]
    figure = _figure(3.5)
    axes = figure.subplots()
    for model in facts["models"]:
        means = model["slices"].get(name)
        if means is not None:
            style = "--" if model["baseline"] else "-"
            axes.plot(range(len(sizes)), list(means.values()), style, marker="o", label=model["name"])
    axes.set_xticks(range(len(sizes)), [f"{label}\n{size:,} queries" for label, size in sizes.items()])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def _curves(curves: Mapping[str, Curve]) -> Figure:
    """Loss and validation over the epochs of every training run."""
    figure = _figure(3.5)
    losses, scores = figure.subplots(1, 2)
    for label, curve in curves.items():
        losses.plot([entry["epoch"] for entry in curve], [entry["loss"] for entry in curve], label=label)
        validated = [entry for entry in curve if "ndcg@10" in entry]
        scores.plot(
            [entry["epoch"] for entry in validated], [entry["ndcg@10"] for entry in validated], marker="."
        )
    for axes, title in ((losses, "training loss"), (scores, "validation ndcg@10")):
        axes.set_xlabel("epoch")
        axes.set_title(title)
    losses.legend(fontsize="small")
    return figure


def _calibrations(found: Mapping[str, Any]) -> Figure:
    """Said and observed probability of each model's best item; a perfect model lies on the diagonal."""
    figure = _figure(4.5)
    axes = figure.subplots()
    limit = max(max(*bins["predicted"], *bins["observed"]) for bins in found.values())
    axes.plot([0, limit], [0, limit], ":", color="#888")
    for label, bins in found.items():
        name = f"{label}, calibration error {bins['error']:.3f}"
        axes.plot(bins["predicted"], bins["observed"], marker="o", label=name)
    axes.set_xlabel("probability of the best item, softmax of the scores")
    axes.set_ylabel("how often it was next")
    axes.legend(fontsize="small")
    return figure
