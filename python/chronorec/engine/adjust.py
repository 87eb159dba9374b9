"""Sparse additions to the scores, made from the history and the time of the request: exclusion, personal
frequency, transitions, neighbours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s, Int64s, ranges, row_of_values
from chronorec.engine.history import HistoryBatch, Tokens
from chronorec.engine.program import weight_of

_DAY = 86_400_000_000  # microseconds
_HOUR = _DAY // 24

#: What an event far from the hour of the request still counts, as a share of one at that hour.
OTHER_HOURS = 0.05


class Adjustment(NamedTuple):
    """Jagged additions: query b adds ``values`` to the scores of ``items`` at offsets[b]:offsets[b + 1].

    Items ascend strictly within a query; -inf takes an item out.
    """

    offsets: Int64s
    items: Int32s
    values: npt.NDArray[np.float32]

    def rows(self, first: int, last: int) -> Adjustment:
        """That of the queries ``first`` to ``last - 1``."""
        own = slice(int(self.offsets[first]), int(self.offsets[last]))
        return Adjustment(self.offsets[first : last + 1] - own.start, self.items[own], self.values[own])


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
            _check_numbers(artifact, spec, decay_days=True, hour_width=True, transition_weight=False)
            if artifact.basket and spec.get("transition_weight"):
                raise ArtifactError(f"{artifact.name}: transition_weight: events of a basket have no order")
        elif kind == "transition":
            _check_rows(artifact, f"{spec.get('weights')}", "items", artifact.num_items, artifact.num_items)
            _check_values(artifact, f"{spec.get('weights')}", "items", "shares")
        elif kind == "neighbours":
            _check_neighbours(artifact, spec)
        elif kind not in ("copy", "rescore"):  # which are checked where they are made
            known = "frequency, transition, neighbours, copy or rescore"
            raise ArtifactError(f"{artifact.name}: wanted adjustments {known}, got {kind!r}")


def _check_numbers(artifact: Artifact, spec: dict[str, Any], **above_zero: bool) -> None:
    """Each name's value is missing, None, or a number of at least 0, or above 0 where so said."""
    for name, above in above_zero.items():
        value = spec.get(name)
        good = isinstance(value, (int, float)) and (value > 0 if above else value >= 0)
        if value is not None and not good:
            wanted = "above 0" if above else "from 0"
            raise ArtifactError(f"{artifact.name}: {name}: wanted a number {wanted}, got {value!r}")


def _check_neighbours(artifact: Artifact, spec: dict[str, Any]) -> None:
    _check_numbers(artifact, spec, decay_days=True, share=False)
    if not isinstance(spec.get("count"), int) or spec["count"] < 1 or not spec.get("share", 2) <= 1:
        raise ArtifactError(f"{artifact.name}: neighbours: wanted a count from 1 and a share from 0 to 1")
    name = f"{spec.get('weights')}"
    users = len(weight_of(artifact, f"{name}_offsets", (None,), np.int64)) - 1
    _check_rows(artifact, name, "items", users, artifact.num_items)
    _check_values(artifact, name, "items", "rates")
    _check_rows(artifact, f"{name}_item", "users", artifact.num_items, users)
    _check_values(artifact, f"{name}_item", "users", "similarities")


def _check_rows(artifact: Artifact, name: str, values: str, rows: int, codes: int) -> None:
    """A CSR matrix: offsets [rows + 1] and codes below ``codes``."""
    offsets = weight_of(artifact, f"{name}_offsets", (rows + 1,), np.int64)
    items = weight_of(artifact, f"{name}_{values}", (None,), np.int32)
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ArtifactError(f"{artifact.name}: {name}_offsets: wanted an ascent from 0 to {len(items)}")
    if len(items) and not 0 <= items.min() <= items.max() < codes:
        raise ArtifactError(
            f"{artifact.name}: {name}_{values}: wanted codes from 0 to {codes - 1}, "
            f"got {items.min()} to {items.max()}"
        )


def _check_values(artifact: Artifact, name: str, codes: str, values: str) -> None:
    weight_of(artifact, f"{name}_{values}", (len(artifact.weights[f"{name}_{codes}"]),))


def most_entries(artifact: Artifact) -> int:
    """The most entries that a request, or one item of its last token, can bring beside its own items."""
    most = 0
    for spec in artifact.adjustments:
        if spec["kind"] == "transition":
            most = max(most, int(np.diff(artifact.weights[f"{spec['weights']}_offsets"]).max(initial=0)))
        elif spec["kind"] == "neighbours":
            most = artifact.num_items
        elif spec["kind"] == "rescore":
            most = max(most, spec["count"])
    return most


def reads_whole_history(artifact: Artifact) -> bool:
    """Whether an adjustment looks further back than the tokens of the program."""
    return any(spec["kind"] not in ("transition", "copy", "rescore") for spec in artifact.adjustments)


def from_model(
    spec: dict[str, Any], weights: dict[str, np.ndarray], batch: HistoryBatch, tokens: Tokens
) -> Additions:
    """The additions that an adjustment of a model folder describes."""
    if spec["kind"] == "frequency":
        return _frequency(spec, batch)
    if spec["kind"] == "neighbours":
        return _neighbours(spec, weights, batch)
    return _transition(spec["weights"], weights, batch.num_items, tokens)


def _frequency(spec: dict[str, Any], batch: HistoryBatch) -> Additions:
    """Every event adds its weight to its item, and more of it where it followed the last item."""
    rows = row_of_values(batch.offsets)
    values = _event_weights(batch, spec["decay_days"])
    if spec.get("hour_width"):
        values = values * _hour_weights(batch, spec["hour_width"])
    if spec.get("transition_weight"):
        values = values * (1 + spec["transition_weight"] * _follows_last(batch))
    return Additions(rows * batch.num_items + batch.item, values)


def _event_weights(batch: HistoryBatch, decay_days: float | None) -> npt.NDArray[np.float64]:
    """exp(-whole days before the request / decay_days) of every event; 1 without decay."""
    if decay_days is None:
        return np.ones(batch.num_events)
    weights: npt.NDArray[np.float64] = np.exp(-(_age(batch, "time decay") // _DAY) / decay_days)
    return weights


def _hour_weights(batch: HistoryBatch, width: float) -> npt.NDArray[np.float64]:
    """A Gaussian of ``width`` hours round the request's time of day, and a little for all other hours.

    The distance of two times of day is the same in every zone.
    """
    hours = (_age(batch, "the hour of the request") % _DAY) / _HOUR
    distance = np.minimum(hours, 24 - hours)
    weights: npt.NDArray[np.float64] = np.exp(-0.5 * (distance / width) ** 2) + OTHER_HOURS
    return weights


def _age(batch: HistoryBatch, what: str) -> Int64s:
    """Microseconds from every event to its request, at least 0."""
    time = batch.require_time(f"personal frequency with {what}")
    if batch.at is None:
        raise ValueError(f"at: personal frequency with {what} needs the time of the request, got none")
    age: Int64s = np.maximum(batch.at[row_of_values(batch.offsets)] - time, 0)
    return age


def _follows_last(batch: HistoryBatch) -> npt.NDArray[np.bool_]:
    """Which events came right after an earlier event of the same item as the history's last: [N]."""
    if batch.num_events == 0:
        return np.zeros(0, np.bool_)
    rows = row_of_values(batch.offsets)
    last = batch.item[np.maximum(batch.offsets[1:] - 1, 0)][rows]
    follows = np.zeros(batch.num_events, np.bool_)
    follows[1:] = (batch.item[:-1] == last[1:]) & (rows[1:] == rows[:-1])
    return follows


def _neighbours(spec: dict[str, Any], weights: dict[str, np.ndarray], batch: HistoryBatch) -> Additions:
    """The shares of the user's own decayed events and, mixed in, those of the most similar known users."""
    name, num_items = spec["weights"], batch.num_items
    values = _event_weights(batch, spec["decay_days"])
    keys, found = [], []
    for row in range(batch.num_users):
        events = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        items, places = np.unique(batch.item[events], return_inverse=True)
        own = _weighted_counts(places.reshape(-1), values[events], len(items))
        total = own.sum()
        if not total > 0:
            continue
        near, nearness = _nearest(weights, name, items, own, spec["count"])
        scores = spec["share"] * _mean_rows(weights, name, near, nearness, num_items)
        scores[items] += (1 - spec["share"]) * own / total
        some = np.flatnonzero(scores)
        keys.append(row * num_items + some)
        found.append(scores[some])
    if not keys:
        return Additions(np.zeros(0, np.int64), np.zeros(0))
    return Additions(np.concatenate(keys), np.concatenate(found))


def _nearest(
    weights: dict[str, np.ndarray], name: str, items: Int32s, own: npt.NDArray[np.float64], count: int
) -> tuple[Int64s, npt.NDArray[np.float64]]:
    """The ``count`` users of the largest similarity above 0, ties by code, and the similarities."""
    offsets = weights[f"{name}_item_offsets"]
    lengths = offsets[items + 1] - offsets[items]
    entries = ranges(offsets[items], lengths)
    similarity = _weighted_counts(
        weights[f"{name}_item_users"][entries],
        weights[f"{name}_item_similarities"][entries] * np.repeat(own, lengths),
        len(weights[f"{name}_offsets"]) - 1,
    )
    if count < len(similarity):
        least = np.partition(similarity, -count)[-count]
        at_least = np.flatnonzero(similarity >= max(least, np.nextafter(0, 1)))
    else:
        at_least = np.flatnonzero(similarity > 0)
    near = at_least[np.argsort(-similarity[at_least], kind="stable")[:count]]
    return near, similarity[near]


def _mean_rows(
    weights: dict[str, np.ndarray],
    name: str,
    users: Int64s,
    importance: npt.NDArray[np.float64],
    num_items: int,
) -> npt.NDArray[np.float64]:
    """The weighted mean of the users' rates: [V]."""
    offsets = weights[f"{name}_offsets"]
    lengths = offsets[users + 1] - offsets[users]
    entries = ranges(offsets[users], lengths)
    shares = np.repeat(importance / max(importance.sum(), np.nextafter(0, 1)), lengths)
    rates = weights[f"{name}_rates"][entries] * shares
    return _weighted_counts(weights[f"{name}_items"][entries], rates, num_items)


def _weighted_counts(
    codes: npt.NDArray[np.integer], weights: npt.NDArray[np.floating], size: int
) -> npt.NDArray[np.float64]:
    return np.bincount(codes, weights=weights, minlength=size).astype(np.float64)


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
