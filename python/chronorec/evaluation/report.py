"""A comparison that people read: a table on the screen, Markdown or JSON, with a sentence on who wins."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec.evaluation.head_metrics import Calibration
from chronorec.evaluation.heads import HeadTable
from chronorec.evaluation.ledger import ReadCount
from chronorec.evaluation.metrics import Floats
from chronorec.evaluation.protocols import EvaluationResult
from chronorec.evaluation.significance import paired_bootstrap
from chronorec.evaluation.slices import Slicing

_MARK = "*"


@dataclass(frozen=True, eq=False)
class _Row:
    """One model: the mean over its seeds."""

    name: str
    baseline: bool
    seeds: list[int]
    metrics: dict[str, float]
    deviation: dict[str, float]
    seconds: float
    per_query: Floats | None


class Report:
    """Results of several models on the same queries, best first.

    Results of one name and several seeds become one row, their mean.

    Args:
        results: of ``evaluate_split``, all on the same part of the same split.
        baselines: the names among them that are baselines.
        primary: the metric that decides the order and the verdict; by default ndcg at 10, or at the first k.
        columns: the metrics of the table; by default recall, ndcg and mrr at every k, then map, coverage and
            novelty at the first. JSON holds all.
        slicings: ways to cut the queries; each becomes a table of the primary metric.
        tested: name of a row to how often the test events were read for each of its models, None for a model
            that is in no folder.
        calibrations: label to how probable a model's best item is said to be, and how often it is right.
        heads: label to what a model predicts beside the next item.

    Raises:
        ValueError: there are no results, they belong to different queries or differ in their metrics, or a
            baseline, the primary metric or a column is not among them.
    """

    def __init__(
        self,
        results: Sequence[EvaluationResult],
        *,
        baselines: Collection[str] = (),
        primary: str | None = None,
        columns: Sequence[str] | None = None,
        slicings: Sequence[Slicing] = (),
        tested: Mapping[str, Sequence[ReadCount | None]] | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
        heads: Mapping[str, Sequence[HeadTable]] | None = None,
    ) -> None:
        if not results:
            raise ValueError("results: wanted at least one evaluation result, got none")
        first = results[0]
        for result in results:
            for name in ("split_hash", "part", "num_queries"):
                if getattr(result, name) != getattr(first, name):
                    raise ValueError(
                        f"results: wanted one {name}, got {getattr(first, name)!r} ({first.name}) "
                        f"and {getattr(result, name)!r} ({result.name})"
                    )
            if result.metrics.keys() != first.metrics.keys():
                raise ValueError(f"results: {first.name} and {result.name} have different metrics")
        names = list(dict.fromkeys(result.name for result in results))
        if unknown := sorted(set(baselines) - set(names)):
            raise ValueError(f"baselines: wanted names among {names}, got {unknown}")
        self.protocol, self.part, self.split_hash = first.protocol, first.part, first.split_hash
        self.num_queries, self.num_targets = first.num_queries, first.num_targets
        self.primary = primary or _default_primary(first.metrics)
        self.columns = list(columns) if columns is not None else _default_columns(first.metrics)
        for name in (self.primary, *self.columns):
            if name not in first.metrics:
                raise ValueError(f"metrics: wanted one of {sorted(first.metrics)}, got {name!r}")
        self.tested = dict(tested or {})
        self.calibrations = dict(calibrations or {})
        self.heads = {label: list(tables) for label, tables in (heads or {}).items() if tables}
        self.slicings = list(slicings)
        for slicing in self.slicings:
            if len(slicing.part) != self.num_queries:
                wanted = f"wanted a part for each of {self.num_queries} queries, got {len(slicing.part)}"
                raise ValueError(f"slicings: {slicing.name}: {wanted}")
        self._user: npt.NDArray[np.integer] = first.user
        rows = [self._row([r for r in results if r.name == name], name in baselines) for name in names]
        self._rows = sorted(rows, key=lambda row: -row.metrics[self.primary])

    def _row(self, results: Sequence[EvaluationResult], baseline: bool) -> _Row:
        table = {name: np.array([r.metrics[name] for r in results]) for name in results[0].metrics}
        known = all(self.primary in r.per_query for r in results)
        return _Row(
            name=results[0].name,
            baseline=baseline,
            seeds=[r.seed for r in results if r.seed is not None],
            metrics={name: float(values.mean()) for name, values in table.items()},
            deviation={
                name: float(values.std(ddof=1)) if len(results) > 1 else 0.0 for name, values in table.items()
            },
            seconds=sum(r.seconds for r in results) / len(results),
            per_query=np.mean([r.per_query[self.primary] for r in results], axis=0) if known else None,
        )

    def verdict(self) -> str:
        """Who wins, by how much, whether that is more than chance, and which baselines beat which models."""
        best = self._rows[0]
        if len(self._rows) == 1:
            return f"Only {best.name} was evaluated: {self.primary} {best.metrics[self.primary]:.4f}."
        return " ".join([self._winner(), *self._against_baselines()])

    def _winner(self) -> str:
        best, second = self._rows[:2]
        value = best.metrics[self.primary]
        if value == second.metrics[self.primary]:
            return f"{best.name} and {second.name} are equal on {self.primary}: {value:.4f}."
        kind = "baseline" if best.baseline else "model"
        return f"{best.name} ({kind}) wins on {self.primary}: {value:.4f}, {self._lead(best, second)}."

    def _lead(self, better: _Row, worse: _Row) -> str:
        """How far one row is above another, and whether users resampled would say the same."""
        high, low = better.metrics[self.primary], worse.metrics[self.primary]
        text = f"{100 * (high / low - 1):.1f} % above" if low > 0 else "above"
        text = f"{text} {worse.name} ({low:.4f})"
        if better.per_query is None or worse.per_query is None:
            return text
        lead = paired_bootstrap(better.per_query, worse.per_query, self._user)
        sure = "clear of chance" if lead.clear else "not told apart from chance"
        return (
            f"{text}, a lead of {lead.mean:.4f} [{lead.low:.4f}, {lead.high:.4f}] over {lead.users:,} users: "
            f"{sure} (effect size {lead.effect_size:.2f}; {lead.smallest_visible:.4f} is the least that "
            "these users would show)"
        )

    def _interval(self, row: _Row) -> list[float] | None:
        """Where 95 % of resampled users put the main metric of a row."""
        if row.per_query is None:
            return None
        found = paired_bootstrap(row.per_query, np.zeros_like(row.per_query), self._user)
        return [found.low, found.high] if found.users > 1 else None

    def _against_baselines(self) -> list[str]:
        models = [row for row in self._rows if not row.baseline]
        baselines = [row for row in self._rows if row.baseline]
        if not models or not baselines:
            return []
        sentences, beaten = [], []
        if not self._rows[0].baseline and not self._rows[1].baseline:
            strongest = baselines[0]
            if models[0].metrics[self.primary] > strongest.metrics[self.primary]:
                sentences.append(f"{models[0].name} stands {self._lead(models[0], strongest)}.")
        for baseline in baselines:
            value = baseline.metrics[self.primary]
            losers = [model.name for model in models if model.metrics[self.primary] <= value]
            if not losers:
                beaten.append(baseline.name)
            elif len(losers) == len(models) > 1:
                sentences.append(f"No model beats {baseline.name}, a baseline.")
            else:
                verb = "does" if len(losers) == 1 else "do"
                sentences.append(f"{_and(losers)} {verb} not beat {baseline.name}, a baseline.")
        if beaten:
            whom = "Every model beats" if len(models) > 1 else f"{models[0].name} beats"
            sentences.append(f"{whom} {_and(beaten)}.")
        return sentences

    def text(self) -> str:
        """The tables for the screen."""
        table = aligned(self._cells(_MARK, ""))
        width = max(80, len(table[1]))
        paragraphs = [*self._footer(f"{_MARK} highest of its column"), self.verdict()]
        lines = [self.title(), *table, *(textwrap.fill(text, width) for text in paragraphs)]
        for slicing in self.slicings:
            lines += ["", f"{self.primary} by {slicing.name}", *aligned(self._slice_cells(slicing))]
        for title, cells in self.head_tables():
            lines += ["", title, *aligned(cells)]
        return "\n".join(lines) + "\n"

    def head_tables(self) -> list[tuple[str, list[list[str]]]]:
        """Title and cells of a table for each prediction beside the next item."""
        return [
            (f"{label} predicts the next event's {table.what}", table.cells())
            for label, tables in self.heads.items()
            for table in tables
        ]

    def markdown(self) -> str:
        """The same as a Markdown table."""
        header, *body = self._cells("**", "**")
        lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in body]
        footer = self._footer("**bold**: highest of its column")
        return "\n\n".join([self.title(), "\n".join(lines), " ".join(footer), self.verdict()]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything: all metrics of every model, their deviation over seeds, the verdict."""
        return {
            "protocol": self.protocol,
            "part": self.part,
            "split": self.split_hash,
            "queries": self.num_queries,
            "targets": self.num_targets,
            "primary": self.primary,
            "models": [
                {
                    "name": row.name,
                    "baseline": row.baseline,
                    "seeds": row.seeds,
                    "metrics": row.metrics,
                    "deviation": row.deviation,
                    "seconds": row.seconds,
                    "interval": self._interval(row),
                    "tested": [
                        None if count is None else {"own": count.own, "earlier": count.earlier}
                        for count in self.tested.get(row.name, ())
                    ],
                    "slices": {
                        slicing.name: dict(
                            zip(slicing.labels, slicing.means(row.per_query).tolist(), strict=True)
                        )
                        for slicing in self.slicings
                        if row.per_query is not None
                    },
                }
                for row in self._rows
            ],
            "slices": {
                slicing.name: dict(zip(slicing.labels, slicing.sizes.tolist(), strict=True))
                for slicing in self.slicings
            },
            "calibrations": {
                label: {name: values.tolist() for name, values in vars(found).items()}
                | {"error": found.error}
                for label, found in self.calibrations.items()
            },
            "heads": {
                label: {table.what: {"events": table.events, "rows": table.rows} for table in tables}
                for label, tables in self.heads.items()
            },
            "verdict": self.verdict(),
        }

    def json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def title(self) -> str:
        """One line: which queries, how many, ranked how."""
        return (
            f"{self.protocol}, {self.part}: {self.num_queries:,} queries, {self.num_targets:,} targets, "
            f"full ranking, split {self.split_hash[:12]}"
        )

    def cells(self) -> list[list[str]]:
        """The table without marks, its head first."""
        return self._cells("", "")

    def _cells(self, before: str, after: str) -> list[list[str]]:
        best = {name: max(row.metrics[name] for row in self._rows) for name in self.columns}
        table = [["model", *self.columns, "seconds"]]
        for row in self._rows:
            cells = [f"{row.name} (baseline)" if row.baseline else row.name]
            for name in self.columns:
                value = _number(name, row.metrics[name])
                cells.append(f"{before}{value}{after}" if row.metrics[name] == best[name] else value)
            table.append([*cells, f"{row.seconds:.1f}"])
        return table

    def _slice_cells(self, slicing: Slicing) -> list[list[str]]:
        sizes = [
            f"{label} ({size:,})" for label, size in zip(slicing.labels, slicing.sizes.tolist(), strict=True)
        ]
        return [["model (queries)", *sizes]] + [
            [row.name, *(f"{mean:.4f}" for mean in slicing.means(row.per_query).tolist())]
            for row in self._rows
            if row.per_query is not None
        ]

    def _footer(self, mark: str) -> list[str]:
        lines = [f"{mark}; coverage and novelty describe the lists, more is not better by itself."]
        seeds = [f"{row.name} {', '.join(map(str, row.seeds))}" for row in self._rows if row.seeds]
        if seeds:
            lines.append(f"Seeds: {'; '.join(seeds)}.")
        return [*lines, *self.test_counts()]

    def test_counts(self) -> list[str]:
        """A sentence on how often the test events were read, where that is known."""
        if not self.tested:
            return []
        found = [
            f"{name}: {', '.join('not recorded' if count is None else str(count) for count in counts)}"
            for name, counts in self.tested.items()
        ]
        now = ", this one included" if self.part == "test" else ""
        return [f"Evaluations on the test events{now}: {'; '.join(found)}."]


def aligned(cells: list[list[str]]) -> list[str]:
    """The lines of a table: the first column to the left, the others to the right, a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *padded]).rstrip())
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name.startswith("novelty") else f"{value:.4f}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cutoffs(metrics: Collection[str]) -> list[int]:
    return sorted({int(name.split("@")[1]) for name in metrics if "@" in name})


def _default_primary(metrics: Collection[str]) -> str:
    return (
        "ndcg@10" if "ndcg@10" in metrics else next((n for n in metrics if n.startswith("ndcg@")), "ndcg@10")
    )


def _default_columns(metrics: Collection[str]) -> list[str]:
    cutoffs = _cutoffs(metrics)
    names = [f"{name}@{k}" for k in cutoffs for name in ("recall", "ndcg")]
    names += [f"mrr@{k}" for k in cutoffs]
    names += [f"{name}@{cutoffs[0]}" for name in ("map", "coverage", "novelty") if cutoffs]
    return [name for name in names if name in metrics]
