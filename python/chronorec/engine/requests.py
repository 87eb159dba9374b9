"""What callers send, as a batch of histories: one request as Python lists, or a table of requests."""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.artifact import Artifact
from chronorec.data.encode import plain
from chronorec.data.jagged import Int32s, Int64s, count_in_rows, offsets_of, row_of_values
from chronorec.data.profile import Profile
from chronorec.data.splits import parse_time
from chronorec.data.times import TimeReader
from chronorec.engine.event_types import UNKNOWN, EventTypes
from chronorec.engine.history import HistoryBatch
from chronorec.engine.vocabulary import Vocabulary

When = datetime.datetime | datetime.date | np.datetime64 | str | int


class Unknown(NamedTuple):
    """What the model does not know of each request's history.

    Attributes:
        items: int64 [B], events that are skipped, because of their item.
        types: int64 [B], events of an unknown type, which count as events whose type is missing.
    """

    items: Int64s
    types: Int64s


def one_request(
    model: Artifact,
    vocabulary: Vocabulary,
    profile: Int32s | None,
    history: Sequence[Hashable],
    times: Sequence[When] | None,
    sessions: Sequence[Hashable] | None,
    events: Sequence[str | None] | None,
    at: When | None,
) -> tuple[HistoryBatch, Unknown]:
    """A batch of one request, and what the model does not know of it."""
    found = vocabulary.codes_of(history, "history")
    offsets = np.array([0, len(found)], np.int64)
    session = time = types = request = None
    if events is not None:
        _check_length("events", events, history)
        types = EventTypes(model.event_types).codes_of(events)
    if sessions is not None:
        _check_length("sessions", sessions, history)
        session = _session_codes(sessions)
    if times is not None:
        _check_length("times", times, history)
        time = np.array([parse_time(one, "times") for one in times], np.int64).reshape(-1)
        if (np.diff(time) < 0).any():
            raise ValueError("times: wanted the oldest event first, got times that fall")
    if at is not None:
        request = np.array([parse_time(at, "at")], np.int64)
    return _batch(model, found, offsets, time, session, types, request, profile)


def table_of_requests(
    model: Artifact, vocabulary: Vocabulary, profile: Profile, table: pa.Table
) -> tuple[HistoryBatch, Unknown]:
    """A batch of a table's requests, and what is unknown of each; columns as in ``recommend_batch``."""
    if "items" not in table.column_names:
        raise ValueError(f"requests: wanted a column 'items', got {', '.join(table.column_names)}")
    items, lengths = _flatten(table, "items")
    offsets, own = offsets_of(lengths), profile.codes_of_table(table)
    session = time = types = at = None
    if "events" in table.column_names:
        types = _types_of_array(model, _flatten_like(table, "events", lengths))
    if "sessions" in table.column_names:
        session = _session_codes_of_array(_flatten_like(table, "sessions", lengths))
    if "times" in table.column_names:
        rows = row_of_values(offsets)
        time = read_times(_flatten_like(table, "times", lengths), "times", rows)
        falls = np.flatnonzero((np.diff(time) < 0) & (rows[1:] == rows[:-1]))
        if len(falls):
            raise ValueError(
                f"times: wanted the oldest event first, got times that fall in row {rows[falls[0]]}"
            )
    if "at" in table.column_names:
        at = read_times(plain(table.column("at").combine_chunks()), "at", np.arange(len(lengths)))
    return _batch(model, vocabulary.codes_of_array(items), offsets, time, session, types, at, own)


def _batch(
    model: Artifact,
    found: npt.NDArray[np.int32],
    offsets: Int64s,
    time: Int64s | None,
    session: Int64s | None,
    types: Int32s | None,
    at: Int64s | None,
    profile: Int32s | None,
) -> tuple[HistoryBatch, Unknown]:
    """Leaves out events that are not before the request, then events of unknown items, which are counted."""
    if at is None and model.needs_time:
        at = np.repeat(_now(), len(offsets) - 1)
    if session is None and time is None and model.basket:
        session = np.full(len(found), -1, np.int64)
    known = found >= 0
    past = np.ones(len(found), np.bool_)
    if time is not None and at is not None:
        past = time < at[row_of_values(offsets)]
    kept = known & past
    columns = {"session": session, "event_type": types if model.event_types else None}
    batch = HistoryBatch(
        item=found[kept],
        offsets=offsets_of(count_in_rows(kept, offsets)),
        num_items=model.num_items,
        time=None if time is None else time[kept],
        columns={name: column[kept] for name, column in columns.items() if column is not None},
        at=at,
        profile=profile,
    )
    nameless = np.zeros(len(kept), np.bool_)
    if columns["event_type"] is not None:
        nameless = kept & (columns["event_type"] == UNKNOWN)
    return batch, Unknown(count_in_rows(past & ~known, offsets), count_in_rows(nameless, offsets))


def _check_length(name: str, values: Sequence[Any], history: Sequence[Any]) -> None:
    if len(values) != len(history):
        raise ValueError(f"{name}: wanted one per event of the history ({len(history)}), got {len(values)}")


def _now() -> int:
    return parse_time(datetime.datetime.now(datetime.timezone.utc), "at")


def _session_codes(sessions: Sequence[Hashable]) -> Int64s:
    """A code per distinct session; -1, no session, where it is None or -1, as in a log."""
    codes: dict[Hashable, int] = {None: -1, -1: -1}
    return np.array([codes.setdefault(value, len(codes)) for value in sessions], np.int64).reshape(-1)


def _session_codes_of_array(sessions: pa.Array) -> Int64s:
    encoded = pc.dictionary_encode(sessions)
    numbers = _session_codes(encoded.dictionary.to_pylist())
    places = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(numbers))
    codes: Int64s = np.append(numbers, -1)[places.to_numpy(zero_copy_only=False)]
    return codes


def _types_of_array(model: Artifact, events: pa.Array) -> Int32s:
    encoded = pc.dictionary_encode(pc.cast(events, pa.string()))
    codes = EventTypes(model.event_types).codes_of([*encoded.dictionary.to_pylist(), None])
    places = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(codes) - 1)
    found: Int32s = codes[places.to_numpy(zero_copy_only=False)]
    return found


def read_times(values: pa.Array, name: str, rows: Int64s) -> Int64s:
    """Microseconds int64 of timestamps, dates, ISO texts or whole numbers of microseconds."""
    if pa.types.is_floating(values.type):
        raise TypeError(f"{name}: wanted timestamps, ISO texts or whole microseconds, got {values.type}")
    unit = "us" if pa.types.is_integer(values.type) else None
    times, bad = TimeReader(values.type, unit, name).read(values)
    for reason, mask in bad.items():
        if mask.any():
            raise ValueError(f"{name}: wanted a time everywhere, but {reason} in row {rows[mask.argmax()]}")
    return times


def _flatten(table: pa.Table, name: str) -> tuple[pa.Array, Int64s]:
    """Values of a column of lists and the length of each row; a null row is empty."""
    lists = table.column(name).combine_chunks()
    if pa.types.is_null(lists.type):
        return pa.nulls(0), np.zeros(len(lists), np.int64)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise ValueError(f"{name}: wanted a list per request, got {lists.type}")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return plain(lists.flatten()), lengths


def _flatten_like(table: pa.Table, name: str, lengths: Int64s) -> pa.Array:
    values, own = _flatten(table, name)
    if not np.array_equal(own, lengths):
        row = int((own != lengths).argmax())
        raise ValueError(
            f"{name}: wanted lists as long as those of 'items', row {row} has {own[row]} for {lengths[row]}"
        )
    return values


def checked_k(k: int, name: str = "k") -> int:
    """k, if it is a whole number from 1; raises ValueError otherwise."""
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise ValueError(f"{name}: wanted a whole number from 1, got {k!r}")
    return int(k)
