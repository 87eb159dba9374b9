"""What happened since a model was trained, taken into it at once, without training.

- Popularity is counted on, exactly: older counts of the recent past fade by the time that has passed.
- An item that the model was not trained on gets a row in every array that has one per item, from its
  content or from its first events; see :mod:`chronorec.engine.neighbours`. Content counts as
  ``CONTENT_EVENTS`` events, and every further event moves the rows on.

Approximated: new rows are scaled means of others; rows of trained items, weights shared by all items,
transitions and user neighbours stay as they were trained. Train on to learn from the events themselves.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.artifact import Artifact
from chronorec.data.counts import MICROSECONDS_PER_DAY
from chronorec.data.encode import plain
from chronorec.data.jagged import Int32s, Int64s
from chronorec.engine.engine import Engine
from chronorec.engine.fallback import EVER, RECENT, Fallback
from chronorec.engine.neighbours import HistoryOf, Mixes, Scale, Told, by_content, by_events, item_arrays
from chronorec.engine.program import Floats, weight_of
from chronorec.engine.requests import read_times

CONTENT_EVENTS = 10

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


def read_events(events: Any) -> Told:
    """Events of a table (``__arrow_c_stream__``) with columns ``user``, ``item``, ``time`` and perhaps
    ``event``, their types; None: none."""
    if isinstance(events, Told):
        return events
    if events is None:
        return Told([], [], np.empty(0, np.int64), [])
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
    types: list[str | None] = [None] * len(order)
    if "event" in table.column_names:
        types = plain(table.column("event").combine_chunks()).take(pa.array(order)).to_pylist()
    return Told(users, items, times[order], types)


def updated(
    engine: Engine, events: Any = None, items: Any = None, *, history_of: HistoryOf | None = None
) -> tuple[Engine, Updated]:
    """An engine that knows of the events, and what is new in it; the one given goes on as it was.

    Args:
        events: a table of ``user``, ``item``, ``time`` and perhaps ``event`` (types), none of which the
            engine was trained on or updated with before.
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
    rows = _Rows(engine, evidence)
    if items is not None or (evidence[: model.num_items] == 0).any():
        rows.add_content(*by_content(model, table, evidence))
    rows.add_events(*by_events(engine, told, codes, evidence, history_of))
    new = range(model.num_items, table.num_rows)
    left = [code for code in new if model.table is None or code in rows.events]  # who needs no vector is in
    kept = np.array([*range(model.num_items), *left], np.int64)
    place = np.full(table.num_rows, -1, np.int32)
    place[kept] = np.arange(len(kept))
    counted = place[codes]
    changes = len(left) + len(rows.events) > 0
    if changes:
        grown = _grown(model, table.take(pa.array(kept)), kept, rows, evidence)
    else:  # what was trained is written down before popularity counts on
        own = {} if model.table is None else {_EVIDENCE: evidence[: model.num_items]}
        grown = dataclasses.replace(model, weights=model.weights | own)
    artifact = _counted(grown, counted[counted >= 0], told.times[counted >= 0])
    report = Updated(
        events=int(np.count_nonzero(counted >= 0)),
        new_items=[ids[code] for code in left],
        refreshed_items=[ids[code] for code in sorted(rows.events) if code < model.num_items],
        unknown_items=[ids[code] for code in np.flatnonzero(place < 0).tolist()],
    )
    if changes:
        return Engine(artifact, engine.precisions, engine.search), report
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


# --- the model afterwards ---------------------------------------------------------------------------


class _Rows:
    """Rows of untrained items and the number of events that they rest on, as evidence comes in.

    Args:
        evidence: what the rows of the model rest on, and new ones behind them on nothing.

    Attributes:
        values: by array, then by item.
        events: by item.
    """

    def __init__(self, engine: Engine, evidence: Floats) -> None:
        self._weights, self._evidence = engine.artifact.weights, evidence
        self.values: dict[str, dict[int, Any]] = {name: {} for name in item_arrays(engine.artifact)}
        self.events: dict[int, float] = {}

    def add_content(self, mixes: Mixes, scale: Scale) -> None:
        """What stands for ``CONTENT_EVENTS`` events of items of which nothing else is known."""
        for name, values in self.values.items():
            means = scale.factors[name] * mixes.of(self._weights[name])
            values |= dict(zip(mixes.own.tolist(), means, strict=True))
        self.events |= dict.fromkeys(mixes.own.tolist(), float(CONTENT_EVENTS))

    def add_events(self, mixes: Mixes, scale: Scale) -> None:
        """An event for each of the mixes."""
        means = {name: scale.factors[name] * mixes.of(self._weights[name]) for name in self.values}
        for place, item in enumerate(mixes.own.tolist()):
            before = self.events.get(item, float(self._evidence[item])) or scale.kappa
            for name, values in self.values.items():
                rows = self._weights[name]
                old = values.get(item, rows[item] if item < len(rows) and self._evidence[item] else 0.0)
                values[item] = (before * old + means[name][place]) / (before + 1)
            self.events[item] = before + 1


def _grown(model: Artifact, table: pa.Table, kept: Int64s, rows: _Rows, evidence: Floats) -> Artifact:
    """The model with rows for new items, and other rows for those of which more is known.

    Args:
        table: item table afterwards.
        kept: its rows in the numbering of ``rows`` and ``evidence``.
    """
    weights, added = dict(model.weights), len(kept) - model.num_items
    for name in _item_arrays(model):
        old = weights[name]
        weights[name] = np.concatenate([old, np.zeros((added, *old.shape[1:]), old.dtype)])
    for name in _row_offsets(model):
        weights[name] = np.append(weights[name], np.repeat(weights[name][-1:], added))
    weights[_EVIDENCE] = evidence[kept].copy()
    place = {code: row for row, code in enumerate(kept.tolist())}
    for code, events in rows.events.items():
        weights[_EVIDENCE][place[code]] = events
        for name, values in rows.values.items():
            weights[name][place[code]] = values[code]
    return dataclasses.replace(model, items=table, weights=weights)


def _item_arrays(model: Artifact) -> list[str]:
    """All arrays with a row per item."""
    counts = {link["counts"] for link in model.fallback}
    return sorted({*item_arrays(model), *counts, *([] if model.bias is None else [model.bias])})


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
