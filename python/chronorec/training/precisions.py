"""What each precision of the engine costs in quality, on held-out events."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chronorec.artifact import Artifact
from chronorec.data.splits import Queries
from chronorec.engine import Engine, Precisions
from chronorec.engine.stream import offered_precisions
from chronorec.evaluation.ledger import ReadCount, check_untested, count_tests, record
from chronorec.evaluation.protocols import EvaluationResult, evaluate_split
from chronorec.evaluation.report import aligned
from chronorec.evaluation.significance import PairedDifference, paired_bootstrap
from chronorec.training.comparison import check_model
from chronorec.training.config import config_from_text
from chronorec.training.splitting import make_split

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.jagged import Int32s, Int64s

K = 10
_METRICS = (f"recall@{K}", f"ndcg@{K}")


class _WithLists:
    """A scorer that remembers the lists that it gave."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lists: list[Int32s] = []

    def rank(self, histories: Histories, queries: Queries, exclude_seen: bool) -> tuple[Int64s, Int64s]:
        return self.engine.rank(histories, queries, exclude_seen)

    def topk(self, histories: Histories, queries: Queries, k: int, exclude_seen: bool) -> Int32s:
        return self.engine.topk(histories, queries, k, exclude_seen)

    def rank_and_topk(
        self, histories: Histories, queries: Queries, k: int, exclude_seen: bool
    ) -> tuple[Int64s, Int64s, Int32s]:
        found = self.engine.rank_and_topk(histories, queries, k, exclude_seen)
        self.lists.append(found[2])
        return found


@dataclass(frozen=True)
class PrecisionRow:
    """One precision.

    Attributes:
        precisions: of weights, states and table.
        metrics: recall@10 and ndcg@10, and whatever else evaluation gives.
        change: of ndcg@10 against float32, over users resampled.
        same_items: share of queries with the same ten best items as float32, in the same order.
        seconds: that the engine took.
    """

    precisions: Precisions
    metrics: dict[str, float]
    change: PairedDifference
    same_items: float
    seconds: float


@dataclass(frozen=True)
class PrecisionReport:
    """All precisions that a model has parts for, on the same queries; float32 first."""

    label: str
    protocol: str
    part: str
    split_hash: str
    num_queries: int
    rows: list[PrecisionRow]
    tested: ReadCount | None

    def text(self) -> str:
        """A table for the screen."""
        head = ["weights", "states", "table", *_METRICS, f"change of {_METRICS[1]}", "same top 10", "seconds"]
        cells = [head]
        for row in self.rows:
            change = f"{row.change.mean:+.5f} [{row.change.low:+.5f}, {row.change.high:+.5f}]"
            own = row.precisions
            cells.append(
                [own.weights, own.states, own.table]
                + [f"{row.metrics[name]:.4f}" for name in _METRICS]
                + [change, f"{100 * row.same_items:.2f} %", f"{row.seconds:.1f}"]
            )
        title = (
            f"{self.label}: {self.protocol}, {self.part}: {self.num_queries:,} queries, full ranking, "
            f"split {self.split_hash[:12]}"
        )
        lines = [title, *aligned(cells)]
        if self.tested is not None:
            now = ", this table included as one" if self.part == "test" else ""
            lines.append(f"Evaluations on the test events{now}: {self.tested}.")
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """The same as JSON text."""
        content: dict[str, Any] = dataclasses.asdict(self)
        for row, own in zip(content["rows"], self.rows, strict=True):
            row["precisions"] = own.precisions._asdict()
        return json.dumps(content, indent=2, allow_nan=False)


def compare_precisions(
    label: str,
    model: Artifact,
    histories: Histories,
    *,
    part: Literal["validation", "test"] = "test",
    again: bool = False,
) -> PrecisionReport:
    """Evaluates a model in every precision that it has parts for, on the split that it was trained under.

    The whole table is one look at the events, recorded in the model's folder before anybody sees it.

    Raises:
        AlreadyTested: the model was tested before, and ``again`` is not set.
        ArtifactError: it was trained under another split, or on the events of ``part``.
    """
    split = make_split(config_from_text(model.config, label).split, histories)
    check_model(label, model, split, part)
    if part == "test":
        check_untested(label, model, again=again)
    found: list[tuple[Precisions, EvaluationResult, Int32s]] = []
    for precisions in offered_precisions(model):
        scorer = _WithLists(Engine(model, precisions))
        result = evaluate_split(scorer, histories, split, name=model.name, part=part, ks=(K,))
        found.append((precisions, result, np.concatenate(scorer.lists)))
    _, exact, best = found[0]
    record(model, exact)
    rows = []
    for precisions, result, lists in found:
        ndcg = _METRICS[1]
        change = paired_bootstrap(result.per_query[ndcg], exact.per_query[ndcg], exact.user)
        same = float((lists == best).all(axis=1).mean())
        rows.append(PrecisionRow(precisions, result.metrics, change, same, result.seconds))
    return PrecisionReport(
        label, exact.protocol, part, split.hash, exact.num_queries, rows, count_tests(model)
    )
