"""How well a model predicts what kind of event comes next and what value it has, beside baselines.

Labels are read of the targets of the queries, and of the training events that baselines are counted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int64s, ranges, row_of_values
from chronorec.engine import Predictor
from chronorec.evaluation.head_metrics import classification, regression
from chronorec.evaluation.steps import evaluate_steps, most_steps

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries
    from chronorec.engine import Engine

#: Shrink the biases of items and of users (Koren, "Factor in the neighbors", TKDD 2010).
ITEM_SHRINKAGE, USER_SHRINKAGE = 25.0, 10.0
_MOST = 2000
Metrics = dict[str, float]


@dataclass(frozen=True)
class HeadTable:
    """One prediction of one model.

    Attributes:
        what: is predicted.
        events: how many targets have a known label.
        rows: metrics of the model, which comes first, and of the baselines.
    """

    what: str
    events: int
    rows: dict[str, Metrics]

    def cells(self) -> list[list[str]]:
        """The table, its head first."""
        names = list(next(iter(self.rows.values())))
        body = [[name, *(f"{row[metric]:.4f}" for metric in names)] for name, row in self.rows.items()]
        return [[f"{self.what} ({self.events:,} events)", *names], *body]

    def metrics(self) -> Metrics:
        """Those of the model, named after what is predicted."""
        return {f"{self.what}: {name}": value for name, value in next(iter(self.rows.values())).items()}


def evaluate_heads(
    engine: Engine,
    histories: Histories,
    queries: Queries,
    end: Int64s,
    *,
    name: str,
    exclude_seen: bool,
    beside: Mapping[str, Engine] | None = None,
) -> list[HeadTable]:
    """A table for each prediction of the model: its classes, or its values; none without a known target.

    Args:
        queries: next events, one target each.
        end: int64 [B], one past the last event of each user that the model was trained on; baselines are
            counted on these events too.
        name: of the model's row.
        exclude_seen: whether items of a history cannot come next.
        beside: name to a baseline that predicts items, for steps ahead.

    Raises:
        ValueError: a target is not the event after its history, or the log has no column of labels.
    """
    heads = engine.heads
    if not np.array_equal(histories.item[queries.end], queries.targets):
        raise ValueError("queries: wanted the event after each history as its target")
    asked = _Asked(histories, queries, end)
    tables: list[HeadTable | None] = []
    predictor = Predictor(engine)
    if heads.behaviour is not None:
        given = predictor.of_targets(histories, queries, heads.behaviour.log_probabilities)
        codes, count = asked.column("event_type"), len(heads.behaviour.classes)
        tables.append(asked.classes("behaviour, given the item", codes, count, name, given.argmax(axis=1)))
        some = np.unique(np.linspace(0, len(queries) - 1, _MOST).astype(np.int64))
        overall = predictor.overall_of(histories, queries.select(some), exclude_seen).argmax(axis=1)
        part = _Asked(histories, queries.select(some), end)
        tables.append(part.classes("behaviour, of any item", codes, count, name, overall, by_item=False))
    if heads.value_class is not None:
        values = np.array(heads.value_class.classes, np.float32)
        given = predictor.of_targets(histories, queries, heads.value_class.log_probabilities)
        codes = _places(asked.column("value"), values)
        tables.append(asked.classes("class of value", codes, len(values), name, given.argmax(axis=1)))
    if heads.value is not None or heads.value_class is not None:
        found = predictor.of_targets(histories, queries, heads.values)
        tables.append(asked.numbers("value", asked.column("value"), name, found))
    if heads.steps is not None:
        steps = min(heads.steps.steps, most_steps(histories, queries))
        engines = {name: engine, **(beside or {})}
        rows, count = evaluate_steps(engines, histories, queries, steps, exclude_seen=exclude_seen)
        tables.append(HeadTable("item by steps ahead", count, rows))
    return [table for table in tables if table is not None]


class _Asked:
    """Queries of next events, and the training events."""

    def __init__(self, histories: Histories, queries: Queries, end: Int64s) -> None:
        self._histories, self._queries = histories, queries
        begin = histories.offsets[:-1]
        self._trained = ranges(begin, end - begin)
        self._user = row_of_values(histories.offsets)[self._trained]

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of all events."""
        if name not in self._histories.columns:
            raise ValueError(f"histories: wanted a column {name!r} to evaluate the model on, got none")
        return self._histories.columns[name]

    def classes(
        self,
        what: str,
        codes: npt.NDArray[np.integer],
        count: int,
        name: str,
        predicted: npt.NDArray[np.integer],
        *,
        by_item: bool = True,
    ) -> HeadTable | None:
        """Predicted classes [Q] and baselines against ``codes`` [N] of all events, -1 where unknown.

        Args:
            by_item: whether the item of the target is known.
        """
        wanted = codes[self._queries.end]
        trained, shares = self._trained[codes[self._trained] >= 0], np.zeros(count)
        shares += np.bincount(codes[trained], minlength=count) / max(len(trained), 1)
        rows = {name: predicted, "most frequent": np.full(len(wanted), shares.argmax())}
        if by_item:
            item, num_items = self._histories.item, self._histories.num_items
            rows["most frequent of the item"] = _frequent(
                item[trained], codes[trained], (num_items, count), shares
            )[self._queries.targets]
        rows["most frequent after the last"] = self._after_last(codes, trained, shares)
        known = int((wanted >= 0).sum())
        if known == 0:
            return None
        return HeadTable(what, known, {k: classification(row, wanted, count) for k, row in rows.items()})

    def _after_last(
        self, codes: npt.NDArray[np.integer], trained: Int64s, shares: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.integer]:
        """The class that follows that of a history's last event most often."""
        begin = self._histories.offsets[:-1]
        follows = trained[~np.isin(trained, begin)]
        before = codes[follows - 1] + 1  # 0: unknown
        table = _frequent(before, codes[follows], (len(shares) + 1, len(shares)), shares)
        predicted: npt.NDArray[np.integer] = table[codes[self._queries.end - 1] + 1]
        return predicted

    def numbers(
        self, what: str, values: npt.NDArray[np.floating], name: str, predicted: npt.NDArray[np.floating]
    ) -> HeadTable | None:
        """Predicted numbers [Q] and baselines against ``values`` [N] of all events, NaN where unknown."""
        wanted, queries = values[self._queries.end], self._queries
        known = ~np.isnan(values[self._trained])
        own, user = values[self._trained][known].astype(np.float64), self._user[known]
        item, mean = self._histories.item[self._trained][known], float(own.mean())
        of_item = _shrunk(item, own - mean, self._histories.num_items, ITEM_SHRINKAGE)
        of_user = _shrunk(user, own - mean - of_item[item], self._histories.num_users, USER_SHRINKAGE)
        rows = {
            name: predicted,
            "item and user means": mean + of_item[queries.targets] + of_user[queries.user],
            "mean": np.full(len(wanted), mean),
        }
        events = int((~np.isnan(wanted)).sum())
        if events == 0:
            return None
        return HeadTable(what, events, {label: regression(row, wanted) for label, row in rows.items()})


def _frequent(
    rows: npt.NDArray[np.integer],
    codes: npt.NDArray[np.integer],
    shape: tuple[int, int],
    shares: npt.NDArray[np.float64],
) -> npt.NDArray[np.integer]:
    """The most frequent class of each row; where classes tie, or for a row without events, the one with the
    larger share.
    """
    counts = np.bincount(rows.astype(np.int64) * shape[1] + codes, minlength=shape[0] * shape[1])
    best: npt.NDArray[np.integer] = (counts.reshape(shape) + shares / 2).argmax(axis=1)
    return best


def _shrunk(
    rows: npt.NDArray[np.integer], values: npt.NDArray[np.float64], count: int, shrinkage: float
) -> npt.NDArray[np.float64]:
    """The mean of each row's values, as if ``shrinkage`` zeros were among them."""
    sums = np.bincount(rows, weights=values, minlength=count)
    return sums / (np.bincount(rows, minlength=count) + shrinkage)


def _places(values: npt.NDArray[np.floating], classes: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
    """Where each value stands among ascending classes, -1 where it is none of them."""
    places = np.searchsorted(classes, values).clip(max=len(classes) - 1)
    return np.where(classes[places] == values, places, -1)
