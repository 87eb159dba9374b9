"""What happened since a model was trained, taken into it at once, without training.

- Popularity is counted on, exactly: older counts of the recent past fade by the time that has passed.
- An item that the model was not trained on gets the weights of its neighbours: their weighted mean, in every
  array that has a row per item (Gantner et al., "Learning attribute-to-feature mappings for cold-start
  recommendations", ICDM 2010, mapping by k nearest neighbours). Neighbours are, by content, trained items
  with like features (:class:`chronorec.engine.content.Content`); by its first events, the items that the
  model would have expected in its place: the softmax over the best ``NEIGHBOURS`` scores after what the user
  had done before. Content counts as ``CONTENT_EVENTS`` events, and every further event moves the mean on.

Approximated: a mean of vectors is shorter than they are, so a new item never outranks all of its neighbours;
vectors of trained items, weights shared by all items, transitions and user neighbours stay as they were
trained. Train on to learn from the events themselves.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.artifact import Artifact
from chronorec.data.counts import MICROSECONDS_PER_DAY
from chronorec.data.jagged import Int32s, Int64s, offsets_of
from chronorec.engine.content import Content, Reals
from chronorec.engine.engine import Engine
from chronorec.engine.fallback import EVER, RECENT, Fallback
from chronorec.engine.history import HistoryBatch
from chronorec.engine.program import Floats, weight_of
from chronorec.engine.requests import plain, read_times

NEIGHBOURS = 20
CONTENT_EVENTS = 10

User = str | int
#: Item codes and times of a user's events, oldest first.
HistoryOf = Callable[[User], tuple[Int32s, Int64s]]

_EVIDENCE = "update.evidence"  # events that a row rests on, [V]; infinite for items that were trained


@dataclass(frozen=True)
class Updated:
    """What an update found.

    Attributes:
        events: how many events have an item that the model knows now.
        new_items: items that the model knows since.
        refreshed_items: untrained items that it knew and whose vectors were made or moved.
        unknown_items: items of which there was neither content nor an event after known ones: their events
            are counted nowhere.
    """

    events: int
    new_items: list[Any]
    refreshed_items: list[Any]
    unknown_items: list[Any]


class Mix(NamedTuple):
    """Neighbours of an item; the sum of their shares is the number of events that they stand for."""

    codes: Int32s
    shares: Reals


Mixes = dict[int, list[Mix]]


class Told(NamedTuple):
    """Events, the oldest first; times are microseconds."""

    users: list[User]
    items: list[Any]
    times: Int64s


def read_events(events: Any) -> Told:
    """Events of a table (``__arrow_c_stream__``) with columns ``user``, ``item`` and ``time``; None: none."""
    if isinstance(events, Told):
        return events
    if events is None:
        return Told([], [], np.empty(0, np.int64))
    table = pa.table(events)
    missing = [name for name in ("user", "item", "time") if name not in table.column_names]
    if missing:
        raise ValueError(
            f"events: wanted columns user, item and time, got {', '.join(table.column_names)}; "
            f"missing: {', '.join(missing)}"
        )
    columns = {name: plain(table.column(name).combine_chunks()) for name in ("user", "item", "time")}
    for name in ("user", "item"):
        if columns[name].null_count:
            raise ValueError(f"events: wanted a value in every row of {name}, got null")
    times = read_times(columns["time"], "time", np.arange(table.num_rows))
    order = np.argsort(times, kind="stable")
    users, items = (columns[name].take(pa.array(order)).to_pylist() for name in ("user", "item"))
    return Told(users, items, times[order])


def updated(
    engine: Engine, events: Any = None, items: Any = None, *, history_of: HistoryOf | None = None
) -> tuple[Engine, Updated]:
    """An engine that knows of the events, and what is new in it; the one given goes on as it was.

    Args:
        events: a table of ``user``, ``item`` and ``time``, none of which the engine was trained on or updated
            with before.
        items: a table of new items: ``item`` and features as in the item table of the model; others of its
            columns are left out.
        history_of: what a user did before, in the engine's codes; by default nothing but these events.

    Raises:
        ValueError: columns are missing, or of another type than in the item table of the model.
    """
    told = read_events(events)
    model = engine.artifact
    table = _with_items(model.items, told.items, items)
    ids = table.column("item").to_pylist()
    provisional = {item: code for code, item in enumerate(ids)}
    codes = np.array([provisional[item] for item in told.items], np.int32).reshape(-1)
    evidence = _evidence(model, table.num_rows)
    mixes = _by_content(table, evidence) if items is not None or not evidence[: model.num_items].all() else {}
    for code, mix in _by_events(engine, told, codes, evidence, history_of).items():
        mixes.setdefault(code, []).extend(mix)
    if model.table is None:  # counted models have no vectors to wait for
        mixes |= {code: [] for code in range(model.num_items, table.num_rows)}
    left = [code for code in range(model.num_items, table.num_rows) if code in mixes]
    kept = np.array([*range(model.num_items), *left], np.int64)
    place = np.full(table.num_rows, -1, np.int32)
    place[kept] = np.arange(len(kept))
    counted = place[codes]
    grown = _grown(model, table.take(pa.array(kept)), kept, mixes, evidence) if mixes else model
    artifact = _counted(grown, counted[counted >= 0], told.times[counted >= 0])
    report = Updated(
        events=int(np.count_nonzero(counted >= 0)),
        new_items=[ids[code] for code in left],
        refreshed_items=[ids[code] for code in sorted(mixes) if code < model.num_items],
        unknown_items=[ids[code] for code in np.flatnonzero(place < 0).tolist()],
    )
    if mixes:
        return Engine(artifact, engine.precisions), report
    same = copy.copy(engine)  # tables and dictionaries are what they were
    same.artifact, same.fallback = artifact, Fallback(artifact)
    return same, report


def _with_items(known: pa.Table, told: list[Any], items: Any) -> pa.Table:
    """The item table of the model, and behind it what else was told of; without features where none came."""
    kind = known.schema.field("item").type
    table = known
    if items is not None:
        given = pa.table(items)
        if "item" not in given.column_names:
            raise ValueError(f"items: wanted a column 'item', got {', '.join(given.column_names)}")
        columns = [_like(given, field) for field in known.schema]
        given = pa.table(columns, schema=known.schema)
        new = pc.invert(pc.is_in(given.column("item"), value_set=known.column("item").combine_chunks()))
        given = given.filter(new)
        if pc.count_distinct(given.column("item")).as_py() < given.num_rows:
            raise ValueError("items: wanted each item once")
        table = pa.concat_tables([known, given])
    there = set(table.column("item").to_pylist())
    others = [item for item in dict.fromkeys(told) if item not in there]
    try:
        ids = pa.array(others, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"events: wanted items of type {kind}, as in the model: {error}") from error
    nulls = [ids if field.name == "item" else pa.nulls(len(ids), field.type) for field in known.schema]
    return pa.concat_tables([table, pa.table(nulls, schema=known.schema)]).combine_chunks()


def _like(given: pa.Table, field: pa.Field) -> pa.Array:
    """A column of new items with the type that it has in the model; nulls where it is missing."""
    if field.name not in given.column_names:
        return pa.nulls(given.num_rows, field.type)
    try:
        return plain(given.column(field.name).combine_chunks()).cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"items: {field.name}: wanted {field.type}, as in the model: {error}") from error


def _evidence(model: Artifact, num_items: int) -> Floats:
    """How many events the rows of each item rest on, float32 [num_items]; infinite: they were trained."""
    evidence = np.zeros(num_items, np.float32)
    if _EVIDENCE in model.weights:
        evidence[: model.num_items] = weight_of(model, _EVIDENCE, (model.num_items,))
        return evidence
    known = np.ones(model.num_items, np.bool_)
    for link in model.fallback:
        if link["source"] == EVER:
            known = weight_of(model, link["counts"], (model.num_items,)) > 0
    evidence[: model.num_items][known] = np.inf
    return evidence


# --- neighbours -------------------------------------------------------------------------------------


def _by_content(table: pa.Table, evidence: Floats) -> Mixes:
    content, trained = Content(table), np.flatnonzero(np.isinf(evidence)).astype(np.int32)
    mixes: Mixes = {}
    for code in np.flatnonzero(evidence == 0).tolist():
        codes, likeness = content.nearest(code, trained, NEIGHBOURS)
        if len(codes):
            mixes[code] = [Mix(codes, CONTENT_EVENTS * likeness / likeness.sum())]
    return mixes


def _by_events(
    engine: Engine, told: Told, codes: Int32s, evidence: Floats, history_of: HistoryOf | None
) -> Mixes:
    """For every event of an untrained item the items that the model would have expected in its place."""
    untrained = np.isfinite(evidence)
    taken = np.flatnonzero(untrained[codes])
    if engine.artifact.table is None or len(taken) == 0:
        return {}
    past = _Past(engine.num_items, told, codes, history_of)
    pairs = [(event, *past.before(told.users[event], int(told.times[event]))) for event in taken.tolist()]
    pairs = [pair for pair in pairs if len(pair[1])]
    if not pairs:
        return {}
    events, histories, times = zip(*pairs, strict=True)
    batch = HistoryBatch(
        item=np.concatenate(histories),
        offsets=offsets_of(np.array([len(history) for history in histories])),
        num_items=engine.num_items,
        time=np.concatenate(times),
        at=told.times[list(events)],
    )
    unknown = np.zeros(batch.num_users, np.bool_)
    untrained_ids = engine.vocabulary.names(np.flatnonzero(untrained[: engine.num_items]).astype(np.int32))
    expected, scores, _ = engine.answer(batch, unknown, NEIGHBOURS, False, untrained_ids, None, None)
    shares = np.exp(scores.astype(np.float64) - scores[:, :1])
    shares /= shares.sum(axis=1, keepdims=True)
    mixes: Mixes = {}
    for event, neighbours, share in zip(events, expected, shares, strict=True):
        mixes.setdefault(int(codes[event]), []).append(Mix(neighbours, share))
    return mixes


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


# --- the model afterwards ---------------------------------------------------------------------------


def _grown(model: Artifact, table: pa.Table, kept: Int64s, mixes: Mixes, evidence: Floats) -> Artifact:
    """The model with rows for new items, and other rows for those whose neighbours were found.

    Args:
        table: item table afterwards.
        kept: its rows in the numbering of ``mixes`` and ``evidence``.
    """
    weights, added = dict(model.weights), len(kept) - model.num_items
    for name in _item_arrays(model):
        old = weights[name]
        weights[name] = np.concatenate([old, np.zeros((added, *old.shape[1:]), old.dtype)])
    for name in _row_offsets(model):
        weights[name] = np.append(weights[name], np.repeat(weights[name][-1:], added))
    weights[_EVIDENCE] = evidence[kept].copy()
    for row, code in enumerate(kept.tolist()):
        mix = mixes.get(code, [])
        if not mix:
            continue
        codes, shares = np.concatenate([m.codes for m in mix]), np.concatenate([m.shares for m in mix])
        before, new = float(evidence[code]), float(shares.sum())
        for name in _mixed_arrays(model):
            values = weights[name]
            mean = np.tensordot(shares, model.weights[name][codes].astype(np.float64), axes=1)
            values[row] = (before * values[row] + mean) / (before + new)
        weights[_EVIDENCE][row] = before + new
    return dataclasses.replace(model, items=table, weights=weights)


def _mixed_arrays(model: Artifact) -> list[str]:
    """The arrays with a learned row per item."""
    names = {model.table, model.bias} if model.table is not None else set()
    names |= {step["table"] for step in model.program if step["call"] == "embed"}
    names |= {f"{spec['weights']}.item" for spec in model.adjustments if spec["kind"] == "copy"}
    return sorted(name for name in names if name is not None)


def _item_arrays(model: Artifact) -> list[str]:
    """All arrays with a row per item."""
    counts = {link["counts"] for link in model.fallback}
    return sorted({*_mixed_arrays(model), *counts, *([] if model.bias is None else [model.bias])})


def _row_offsets(model: Artifact) -> list[str]:
    """Offsets [V + 1] of matrices with a row per item; new rows are empty."""
    names = {"transition": "offsets", "neighbours": "item_offsets"}
    return [f"{s['weights']}_{names[s['kind']]}" for s in model.adjustments if s["kind"] in names]


def _counted(model: Artifact, codes: Int32s, times: Int64s) -> Artifact:
    """The model with the events counted in its popularity, if it has one."""
    if len(codes) == 0:
        return model
    weights, chain = dict(model.weights), []
    for link in model.fallback:
        counts = weights[link["counts"]].astype(np.float64)
        if link["source"] == RECENT:
            until = max(link["until"], int(times.max()))
            scale = link["days"] * MICROSECONDS_PER_DAY
            counts = counts * np.exp((link["until"] - until) / scale)
            counts += np.bincount(codes, np.exp((times - until) / scale), minlength=model.num_items)
            link = {**link, "until": until}
        else:
            counts += np.bincount(codes, minlength=model.num_items)
        weights[link["counts"]] = counts.astype(np.float32)
        chain.append(link)
    return dataclasses.replace(model, weights=weights, fallback=chain)
