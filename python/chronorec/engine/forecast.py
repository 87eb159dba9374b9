"""Several events ahead: predictions are fed back as if they had happened (recursive forecasting).

Nothing is known of when later events come. It is assumed that the first comes when the answer is asked for,
and each further one a usual gap later: the median time between the events of the history, or none where it
has fewer than two. Types and baskets of predicted events are unknown to the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int32s, Int64s, offsets_of
from chronorec.engine.engine import Engine
from chronorec.engine.heads import log_shares_of
from chronorec.engine.history import HistoryBatch


@dataclass(frozen=True)
class Forecast:
    """One way in which the next events may go.

    Attributes:
        items: ids, the next one first; fewer than asked where candidates ran out.
        log_probability: of these items in this order, each given those before.
        times: microseconds, when each event was assumed to come; None where no time is known.
    """

    items: list[Any]
    log_probability: float
    times: list[int] | None


@dataclass(frozen=True)
class _Path:
    codes: list[int]
    log_probability: float
    batch: HistoryBatch


def beam_search(
    engine: Engine, batch: HistoryBatch, steps: int, beams: int, exclude_seen: bool
) -> list[Forecast]:
    """The most probable ways found by keeping the best ``beams`` at each step; greedy with one.

    Args:
        batch: of one request.
        exclude_seen: whether an item comes once at most.
    """
    check_rollable(engine)
    gaps, every = usual_gaps(batch), np.arange(engine.num_items, dtype=np.int32)
    paths = [_Path([], 0.0, batch)]
    for _ in range(steps):
        grown = []
        for path in paths:
            logs = log_shares_of(engine.score_codes(path.batch, every, exclude_seen))[0]
            for code in np.argsort(-logs, kind="stable")[:beams].tolist():
                if logs[code] > -np.inf:
                    probability = path.log_probability + float(logs[code])
                    grown.append(_Path([*path.codes, code], probability, path.batch))
        if not grown:
            break
        kept = sorted(grown, key=lambda path: -path.log_probability)[:beams]
        paths = [
            dataclasses.replace(
                path, batch=with_events(path.batch, np.array(path.codes[-1:], np.int32), gaps)
            )
            for path in kept
        ]
    return [
        Forecast(
            engine.vocabulary.names(np.array(path.codes, np.int32)),
            path.log_probability,
            None if path.batch.time is None else path.batch.time[batch.num_events :].tolist(),
        )
        for path in paths
    ]


def rollout_scores(
    engine: Engine, batch: HistoryBatch, steps: int, exclude_seen: bool
) -> Iterator[npt.NDArray[np.float32]]:
    """Scores [B, V] of each step ahead, the best item of each fed back before the next."""
    check_rollable(engine)
    gaps, every = usual_gaps(batch), np.arange(engine.num_items, dtype=np.int32)
    for _ in range(steps):
        scores = engine.score_codes(batch, every, exclude_seen)
        yield scores
        best = scores.argmax(axis=1).astype(np.int32)
        best[scores.max(axis=1) == -np.inf] = -1
        batch = with_events(batch, best, gaps)


def check_rollable(engine: Engine) -> None:
    """Raises ValueError for a model of baskets, whose next one is not a single item."""
    if engine.artifact.basket:
        raise ValueError(
            f"{engine.artifact.name} predicts baskets; take a model of next events to look ahead"
        )


def usual_gaps(batch: HistoryBatch) -> Int64s:
    """The median time between the events of each history, int64 [B] microseconds; 0 where that is unknown."""
    gaps = np.zeros(batch.num_users, np.int64)
    if batch.time is not None:
        for row in np.flatnonzero(np.diff(batch.offsets) > 1):
            own = batch.time[batch.offsets[row] : batch.offsets[row + 1]]
            gaps[row] = np.median(np.diff(own))
    return gaps


def with_events(batch: HistoryBatch, codes: Int32s, gaps: Int64s) -> HistoryBatch:
    """Every history with one more event at the time of its request, which is then asked a gap later.

    Args:
        codes: the items, int32 [B]; -1 adds nothing.
        gaps: int64 [B].
    """
    rows = np.flatnonzero(codes >= 0)
    ends = batch.offsets[1:][rows]
    at = batch.at
    return dataclasses.replace(
        batch,
        item=np.insert(batch.item, ends, codes[rows]),
        offsets=batch.offsets + offsets_of(codes >= 0),
        time=None if batch.time is None or at is None else np.insert(batch.time, ends, at[rows]),
        columns={
            name: np.insert(column, ends, -1 if column.dtype.kind == "i" else np.nan)
            for name, column in batch.columns.items()
        },
        at=None if at is None else at + gaps,
    )
