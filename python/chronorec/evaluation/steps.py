"""How well items are predicted several events ahead.

Origins roll: every query is asked not only for its own target but for the targets of the user's queries after
it, from the history before the first (Tashman, "Out-of-sample tests of forecasting accuracy", 2000).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int64s
from chronorec.engine.adjust import combine, exclude_history
from chronorec.engine.forecast import rollout_scores
from chronorec.engine.heads import every_item
from chronorec.engine.item_table import score_lists
from chronorec.evaluation.metrics import Ranks, averages, per_query

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries
    from chronorec.engine import Engine

_MOST = 2000  # origins
_SCORES = 1 << 21  # held at a time
Floats = npt.NDArray[np.float32]


def most_steps(histories: Histories, queries: Queries) -> int:
    """The longest run of events of one user that are all targets of ``queries``."""
    return int(_runs(histories, queries).max(initial=0))


def evaluate_steps(
    engines: Mapping[str, Engine],
    histories: Histories,
    queries: Queries,
    steps: int,
    *,
    exclude_seen: bool,
) -> tuple[dict[str, dict[str, float]], int]:
    """recall@10 and ndcg@10 at every step ahead, full ranking, and the number of origins.

    Origins are the queries, at most 2,000 of them evenly spaced, from which ``steps`` events are targets. The
    request is asked at the time of the first. Each engine rolls out; one with heads for it also answers
    directly.

    Args:
        engines: by name.
        queries: next events, such as ``split.test``; no other event is read as a target.

    Raises:
        ValueError: no query has so many targets ahead of it.
    """
    origins = np.flatnonzero(_runs(histories, queries) >= steps)
    if len(origins) == 0:
        raise ValueError(
            f"steps: wanted at most {most_steps(histories, queries)} for these queries, got {steps}"
        )
    origins = origins[np.unique(np.linspace(0, len(origins) - 1, _MOST).astype(np.int64))]
    chosen = queries.select(origins)
    rows: dict[str, dict[str, float]] = {}
    for name, engine in engines.items():
        found: dict[str, list[Int64s]] = {}
        for part in _parts(chosen, histories.num_items):
            for label, scores in _answers(name, engine, histories, part, steps, exclude_seen):
                step = len(found.setdefault(label, [])) % steps
                found[label].append(_ranks(scores, histories.item[part.end + step]))
        rows |= {label: _metrics(ranks, steps) for label, ranks in found.items()}
    return rows, len(chosen)


def _answers(
    name: str, engine: Engine, histories: Histories, part: Queries, steps: int, exclude_seen: bool
) -> Iterator[tuple[str, Floats]]:
    """Label and scores [Q, V] of each step, of one way to answer after the other."""
    batch = engine.batch_of(histories, part)
    head = engine.heads.steps
    if head is not None:
        states, adjustment = engine.states(batch, exclude_seen)
        seen = combine([exclude_history(batch)] if exclude_seen else [], len(part), engine.num_items)
        items, offsets = every_item(len(part), engine.num_items)
        for step, own in enumerate(head.states(states)[:steps]):
            added = adjustment if step == 0 else seen
            scores = score_lists(own, engine.table, engine.bias, added, items, offsets)
            yield f"{name}, heads", scores.reshape(len(part), -1)
    for scores in rollout_scores(engine, batch, steps, exclude_seen):
        yield f"{name}, fed back", scores


def _runs(histories: Histories, queries: Queries) -> Int64s:
    """How many events from each query's target on are targets too, of the same user: int64 [Q]."""
    wanted = np.zeros(histories.num_events + 1, np.bool_)
    wanted[queries.end] = True
    last = histories.offsets[1:][queries.user]  # of the user, one past
    stops = np.flatnonzero(~wanted)
    runs: Int64s = np.minimum(stops[np.searchsorted(stops, queries.end)], last) - queries.end
    return runs


def _parts(queries: Queries, num_items: int) -> Iterator[Queries]:
    size = max(1, _SCORES // num_items)
    for first in range(0, len(queries), size):
        yield queries.select(slice(first, first + size))


def _ranks(scores: Floats, targets: npt.NDArray[np.int32]) -> Int64s:
    """How many items score more and how many others as much as each target: int64 [2, Q]."""
    own = np.take_along_axis(scores, targets[:, None].astype(np.int64), axis=1)
    greater, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
    missed = own[:, 0] == -np.inf  # no candidate
    return np.stack([np.where(missed, scores.shape[1], greater), np.where(missed, 0, equal)])


def _metrics(ranks: list[Int64s], steps: int) -> dict[str, float]:
    """Of the ranks of all steps of the first part of the queries, then of the second, and so on."""
    found: dict[str, float] = {}
    for step in range(steps):
        greater, equal = np.concatenate(ranks[step::steps], axis=1)
        offsets = np.arange(len(greater) + 1, dtype=np.int64)
        means = averages(per_query(Ranks(greater, equal, offsets), (10,)))
        found |= {f"{name} +{step + 1}": means[name] for name in ("recall@10", "ndcg@10")}
    return found
