"""Vectors of items that a model was not trained on, from the vectors of items that it was trained on.

An item gets the weighted mean of the vectors of its neighbours (Gantner et al., "Learning
attribute-to-feature mappings for cold-start recommendations", ICDM 2010, mapping by k nearest neighbours).
By content these are trained items with like features (:class:`chronorec.engine.content.Content`); by its
events they are the items that the model would have expected in its place, by the softmax over their scores
after what the user had done before.

Such means are shorter than vectors that were trained, in a direction that is a guess. So trained items, drawn
as they are taken, are treated as if they were new, where there are enough of them in the past of the users,
and the means are scaled to fit their vectors best (least squares); means over n events also by n / (n +
kappa), kappa being the spread of the means of single events over what those of one item have in common
(method of moments, as in James-Stein shrinkage).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec.artifact import Artifact
from chronorec.data.jagged import Int32s, Int64s, offsets_of
from chronorec.engine.content import Content, Reals
from chronorec.engine.engine import Engine
from chronorec.engine.history import HistoryBatch
from chronorec.engine.program import Floats

NEIGHBOURS = 20
_LEAST = 30  # trained items from which a scale is learned
_MOST = 1000  # users, or items, that are looked at for it

User = str | int
Asked = tuple[int, User, int]  # item, user, time
#: Item codes and times of a user's events, oldest first.
HistoryOf = Callable[[User], tuple[Int32s, Int64s]]


class Told(NamedTuple):
    """Events, the oldest first; times are microseconds, types None where they are missing."""

    users: list[User]
    items: list[str | int]
    times: Int64s
    types: list[str | None]


class Mixes(NamedTuple):
    """Neighbours of n items and their shares, which sum to 1: [n, K] each; unused places have the share 0."""

    own: npt.NDArray[np.int64]
    codes: Int32s
    shares: Reals

    def of(self, rows: Floats) -> Reals:
        """The mean over the neighbours of an array [V, ...]: [n, ...]."""
        mean: Reals = np.einsum("nk,nk...->n...", self.shares, rows[self.codes].astype(np.float64))
        return mean


class Scale(NamedTuple):
    """What means are multiplied with, by array, and how many events they need to count half (``kappa``)."""

    factors: dict[str, float]
    kappa: float = 0.0


def item_arrays(model: Artifact) -> list[str]:
    """The arrays with a learned row per item; none where the model has no item vectors."""
    if model.table is None:
        return []
    names = {model.table, model.bias}
    names |= {step["table"] for step in model.program if step["call"] == "embed"}
    names |= {f"{spec['weights']}.item" for spec in model.adjustments if spec["kind"] == "copy"}
    names |= {f"{spec['weights']}.pair.item" for spec in model.heads if spec["kind"] != "steps"}
    return sorted(name for name in names if name is not None)


# --- by content -------------------------------------------------------------------------------------


def by_content(model: Artifact, table: pa.Table, evidence: Floats) -> tuple[Mixes, Scale]:
    """Neighbours of the items without evidence, where their features have likes.

    Args:
        table: items of the model and new ones behind them.
        evidence: float32, a row of ``table`` each: 0 where nothing is known, infinite for trained items.
    """
    content, trained = Content(table), np.flatnonzero(np.isinf(evidence)).astype(np.int32)
    found = _alike(content, np.flatnonzero(evidence == 0), trained)
    sample = _alike(content, np.random.default_rng(0).permutation(trained)[:_MOST], trained)
    factors = dict.fromkeys(item_arrays(model), 1.0)
    if len(sample.own) >= _LEAST:
        for name in factors:
            mean, own = sample.of(model.weights[name]), model.weights[name][sample.own]
            factors[name] = max(float((mean * own).sum() / max((mean * mean).sum(), 1e-12)), 0.0)
    return found, Scale(factors)


def _alike(content: Content, items: npt.NDArray[np.integer], trained: Int32s) -> Mixes:
    own, codes, shares = [], [], []
    for item in items.tolist():
        near, likeness = content.nearest(item, trained[trained != item], NEIGHBOURS)
        if len(near):
            empty = NEIGHBOURS - len(near)
            own.append(item)
            codes.append(np.pad(near, (0, empty)))
            shares.append(np.pad(likeness / likeness.sum(), (0, empty)))
    shape = (len(own), NEIGHBOURS)
    return Mixes(
        np.array(own, np.int64), np.array(codes, np.int32).reshape(shape), np.array(shares).reshape(shape)
    )


# --- by events --------------------------------------------------------------------------------------


def by_events(
    engine: Engine, told: Told, codes: Int32s, evidence: Floats, history_of: HistoryOf | None
) -> tuple[Mixes, Scale]:
    """For every event of an untrained item after known ones what the model expected in its place."""
    none = Scale(dict.fromkeys(item_arrays(engine.artifact), 1.0))
    past = _Past(engine.num_items, told, codes, history_of)
    untrained = np.isfinite(evidence)
    left_out = np.flatnonzero(untrained[: engine.num_items]).astype(np.int32)
    taken = [] if engine.artifact.table is None else np.flatnonzero(untrained[codes]).tolist()
    asked = [(int(codes[n]), told.users[n], int(told.times[n])) for n in taken]
    found = _expected(engine, past, asked, left_out)
    if len(found.own) == 0:
        return found, none
    known = _two_of_each(past, list(dict.fromkeys(reversed(told.users)))[:_MOST], untrained)
    return found, _scale(engine.artifact, _expected(engine, past, known, left_out)) or none


def _two_of_each(past: _Past, users: list[User], untrained: npt.NDArray[np.bool_]) -> list[Asked]:
    """Two events with a past of each of some trained items, which are drawn as often as they were taken."""
    events = [past.before(user, np.iinfo(np.int64).max) for user in users]
    items, times = (np.concatenate(column) for column in zip(*events, strict=True))
    lengths = np.array([len(own) for own, _ in events])
    who = np.repeat(np.arange(len(users)), lengths)
    first = np.repeat([int(own[0]) if len(own) else 0 for _, own in events], lengths)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero((times > first) & ~untrained[items]))
    _, place, count = np.unique(items[drawn], return_index=True, return_counts=True)
    by_item = drawn[np.argsort(items[drawn], kind="stable")]
    begin = np.cumsum(count) - count
    twice = np.flatnonzero(count >= 2)
    chosen = begin[twice[np.argsort(place[twice])]][: _MOST // 2]
    pairs = by_item[np.concatenate([chosen, chosen + 1])]
    return [(int(items[event]), users[who[event]], int(times[event])) for event in pairs.tolist()]


def _expected(engine: Engine, past: _Past, asked: list[Asked], left_out: Int32s) -> Mixes:
    """What was expected of users at moments, other than the item itself; without those who had no past.

    Args:
        left_out: codes that nobody expects.
    """
    pasts = [past.before(user, at) for _, user, at in asked]
    kept = [place for place, (items, _) in enumerate(pasts) if len(items)]
    own = np.array([asked[place][0] for place in kept], np.int64)
    if not kept:
        return Mixes(own, np.empty((0, 0), np.int32), np.empty((0, 0)))
    batch = HistoryBatch(
        item=np.concatenate([pasts[place][0] for place in kept]),
        offsets=offsets_of(np.array([len(pasts[place][0]) for place in kept])),
        num_items=engine.num_items,
        time=np.concatenate([pasts[place][1] for place in kept]),
        at=np.array([asked[place][2] for place in kept], np.int64),
    )
    unknown, out = np.zeros(batch.num_users, np.bool_), engine.vocabulary.names(left_out)
    codes, found, _ = engine.answer(batch, unknown, NEIGHBOURS + 1, False, out, None, None)
    itself = codes == own[:, None]
    scores = np.where(itself, -np.inf, found.astype(np.float64))
    scores[~itself.any(axis=1), NEIGHBOURS:] = -np.inf  # as many for all
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return Mixes(own, codes, shares / shares.sum(axis=1, keepdims=True))


def _scale(model: Artifact, mixes: Mixes) -> Scale | None:
    """What makes means of events fit the vectors of trained items; None where too few came twice."""
    _, item, count = np.unique(mixes.own, return_inverse=True, return_counts=True)
    twice = count >= 2
    if int(twice.sum()) < _LEAST:
        return None
    factors, kappa, times = {}, 0.0, count[twice]
    for name in item_arrays(model):
        mean = mixes.of(model.weights[name]).reshape(len(item), -1)
        own = model.weights[name][mixes.own].reshape(len(item), -1)
        sums = np.zeros((len(count), mean.shape[1]))
        np.add.at(sums, item, mean)
        fit, square = (np.bincount(item, (mean * other).sum(axis=1))[twice] / times for other in (own, mean))
        shared = ((sums[twice] ** 2).sum(axis=1) - times * square) / (times * (times - 1))
        common = max(float(shared.mean()), 1e-12)
        factors[name] = max(float(fit.mean()) / common, 0.0)
        if name == model.table:
            kappa = max(float(square.mean()) / common - 1, 0.0)
    return Scale(factors, kappa)


class _Past:
    """What users did before a moment, of what the engine knows."""

    def __init__(self, num_items: int, told: Told, codes: Int32s, history_of: HistoryOf | None) -> None:
        self._history_of = history_of
        self._told: dict[User, list[int]] = {}
        for event in np.flatnonzero(codes < num_items).tolist():
            self._told.setdefault(told.users[event], []).append(event)
        self._codes, self._times = codes, told.times

    def before(self, user: User, at: int) -> tuple[Int32s, Int64s]:
        """Codes and times, oldest first; an event that was told twice is there once."""
        own = self._told.get(user, [])
        codes, times = self._codes[own], self._times[own]
        if self._history_of is not None:
            older_codes, older_times = self._history_of(user)
            codes, times = np.concatenate([older_codes, codes]), np.concatenate([older_times, times])
        pairs = np.unique(np.stack([times, codes], axis=1), axis=0)
        pairs = pairs[pairs[:, 0] < at]
        return pairs[:, 1].astype(np.int32), pairs[:, 0].astype(np.int64)
