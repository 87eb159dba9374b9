"""Sparse additions to the scores, made from the history alone: exclusion, personal frequency, transitions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s, Int64s, ranges, row_of_values
from chronorec.engine.history import HistoryBatch, Tokens
from chronorec.engine.program import weight_of

_DAY = 86_400_000_000  # microseconds


class Adjustment(NamedTuple):
    """Jagged additions: query b adds ``values`` to the scores of ``items`` at offsets[b]:offsets[b + 1].

    Items ascend strictly within a query; -inf takes an item out.
    """

    offsets: Int64s
    items: Int32s
    values: npt.NDArray[np.float32]


NO_ADJUSTMENT = (None, None, None)


class Additions(NamedTuple):
    """Unordered additions: row * V + item, and what is added."""

    keys: Int64s
    values: npt.NDArray[np.float64]


def combine(additions: list[Additions], num_queries: int, num_items: int) -> Adjustment | None:
    """Sums additions to the same item of the same query; None where there are none at all."""
    if not additions:
        return None
    keys = np.concatenate([a.keys for a in additions])
    values = np.concatenate([a.values for a in additions])
    unique, inverse = np.unique(keys, return_inverse=True)
    sums = np.bincount(inverse.reshape(-1), weights=values, minlength=len(unique))
    rows = np.arange(num_queries + 1, dtype=np.int64) * num_items
    return Adjustment(
        np.searchsorted(unique, rows).astype(np.int64),
        (unique % max(num_items, 1)).astype(np.int32),
        sums.astype(np.float32),
    )


def exclude_history(batch: HistoryBatch) -> Additions:
    """Takes every item of a history out of its own query's answer."""
    keys = row_of_values(batch.offsets) * batch.num_items + batch.item
    return Additions(keys, np.full(len(keys), -np.inf))


def check_specs(artifact: Artifact) -> None:
    """Raises ArtifactError where an adjustment of a model folder cannot be made."""
    for spec in artifact.adjustments:
        kind = spec.get("kind")
        if kind == "frequency":
            decay = spec.get("decay_days")
            if decay is not None and not (isinstance(decay, (int, float)) and decay > 0):
                raise ArtifactError(f"{artifact.name}: decay_days: wanted a number above 0, got {decay!r}")
        elif kind == "transition":
            _check_transition(artifact, spec.get("weights"))
        elif kind != "copy":  # checked where it is made
            known = "frequency, transition or copy"
            raise ArtifactError(f"{artifact.name}: wanted adjustments {known}, got {kind!r}")


def _check_transition(artifact: Artifact, name: str | None) -> None:
    offsets = weight_of(artifact, f"{name}_offsets", (artifact.num_items + 1,), np.int64)
    items = weight_of(artifact, f"{name}_items", (None,), np.int32)
    weight_of(artifact, f"{name}_shares", (len(items),))
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ArtifactError(f"{artifact.name}: {name}_offsets: wanted an ascent from 0 to {len(items)}")
    if len(items) and not 0 <= items.min() <= items.max() < artifact.num_items:
        raise ArtifactError(
            f"{artifact.name}: {name}_items: wanted codes from 0 to {artifact.num_items - 1}, "
            f"got {items.min()} to {items.max()}"
        )


def most_entries(artifact: Artifact) -> int:
    """The most entries that one item of a history can bring: the longest row of a transition."""
    rows = [
        np.diff(artifact.weights[f"{s['weights']}_offsets"])
        for s in artifact.adjustments
        if s["kind"] == "transition"
    ]
    return max((int(lengths.max(initial=0)) for lengths in rows), default=0)


def from_model(
    spec: dict[str, Any], weights: dict[str, np.ndarray], batch: HistoryBatch, tokens: Tokens
) -> Additions:
    """The additions that an adjustment of a model folder describes."""
    if spec["kind"] == "frequency":
        return _frequency(batch, spec["decay_days"])
    return _transition(spec["weights"], weights, batch.num_items, tokens)


def _frequency(batch: HistoryBatch, decay_days: float | None) -> Additions:
    """Every event adds exp(-whole days before the request / decay_days) to its item."""
    rows = row_of_values(batch.offsets)
    keys = rows * batch.num_items + batch.item
    if decay_days is None:
        return Additions(keys, np.ones(len(keys)))
    time = batch.require_time("personal frequency with time decay")
    if batch.at is None:
        raise ValueError("at: personal frequency with time decay needs the time of the request, got none")
    days = np.maximum(batch.at[rows] - time, 0) // _DAY
    return Additions(keys, np.exp(-days / decay_days))


def _transition(name: str, weights: dict[str, np.ndarray], num_items: int, tokens: Tokens) -> Additions:
    """The items of the last token each add their row of the successor matrix."""
    items, item_offsets = tokens.last_items()
    offsets = weights[f"{name}_offsets"]
    begin = offsets[items]
    lengths = offsets[items + 1] - begin
    entries = ranges(begin, lengths)
    rows = np.repeat(row_of_values(item_offsets), lengths)
    keys = rows * num_items + weights[f"{name}_items"][entries]
    return Additions(keys, weights[f"{name}_shares"][entries].astype(np.float64))
