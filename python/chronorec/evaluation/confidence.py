"""Whether a model's scores, read as a softmax over the catalogue, are the probabilities they look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronorec.evaluation.head_metrics import Calibration, calibration

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries
    from chronorec.engine import Engine

_MOST = 2000
_SCORES = 1 << 22  # held at a time


def best_item_calibration(
    engine: Engine, histories: Histories, queries: Queries, *, exclude_seen: bool
) -> Calibration:
    """The probability of the best item against how often it was the next one, over at most 2,000 queries
    evenly spaced among ``queries``.

    Meant for models trained by cross entropy on next events; a target that is a basket is no one class.

    Raises:
        ValueError: a query has several targets.
    """
    if len(queries.targets) != len(queries):
        raise ValueError("queries: wanted one target each, got baskets")
    queries = queries.select(np.unique(np.linspace(0, len(queries) - 1, _MOST).astype(np.int64)))
    step = max(1, _SCORES // histories.num_items)
    probability, hit = [], []
    for first in range(0, len(queries), step):
        part = queries.select(slice(first, first + step))
        scores = engine.score_all(histories, part, exclude_seen).astype(np.float64)
        best = scores.argmax(axis=1)
        top = np.take_along_axis(scores, best[:, None], axis=1)
        probability.append(1 / np.exp(scores - top).sum(axis=1))
        hit.append(best == part.targets)
    return calibration(np.concatenate(probability), np.concatenate(hit))
