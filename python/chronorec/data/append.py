"""Newer events behind a prepared data set: its events come first, its codes stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from chronorec.data.errors import DataError
from chronorec.data.event_log import EventLog
from chronorec.data.histories import Array, Histories
from chronorec.data.log_encoder import LogEncoder, Piece
from chronorec.data.sources import ROWS_PER_PIECE


def like_before(given: dict[str, str | None], old: Histories, schema: pa.Schema) -> dict[str, str | None]:
    """The arguments of :meth:`EventLog.read`, completed by those with which the data set was made.

    Args:
        given: by the caller; None where nothing was said.
        old: the data set.
        schema: of the new log. Its times have a unit of their own unless they are numbers.

    Raises:
        DataError: the time zone is not that of the data set.
    """
    if given["timezone"] and old.timezone and given["timezone"] != old.timezone:
        raise DataError(f"timezone: wanted {old.timezone!r} like the data set, got {given['timezone']!r}")
    before = {**old.provenance.get("columns", {}), "timezone": old.timezone}
    both = {role: given[role] or before.get(role) for role in given}
    at = schema.get_field_index(both["time"]) if both["time"] else -1
    if at >= 0 and (pa.types.is_integer(schema.types[at]) or pa.types.is_floating(schema.types[at])):
        both["time_unit"] = given["time_unit"] or old.provenance.get("time_unit")
    return both


class Appending:
    """The pieces of a data set, followed by those of a newer log that is encoded with the same codes.

    Raises:
        DataError: the log does not fit the data set.
    """

    def __init__(self, old: Histories, log: EventLog) -> None:
        self.old, self.log = old, log
        self.older = 0
        resume(log.encoder, old)

    def pieces(self) -> Iterator[Piece]:
        yield from old_pieces(self.old)
        last = sort_key(self.old.columns, _times(self.old))[self.old.offsets[1:] - 1]
        for piece in self.log.pieces():
            self._count_older(piece, last)
            yield piece

    def _count_older(self, piece: Piece, last: Array) -> None:
        key = sort_key(piece, piece.get("time"))
        known = piece["user"] < len(last)
        self.older += int(np.count_nonzero(key[known] < last[piece["user"][known]]))

    def note(self) -> str:
        """One sentence on the events that did not come after the old ones."""
        if self.older == 0:
            return f"appended to {self.old.num_events:,} events"
        return (
            f"appended to {self.old.num_events:,} events; {self.older:,} of the new ones are older than "
            "the last event of their user and were put in their place"
        )


def resume(encoder: LogEncoder, old: Histories) -> None:
    """Gives the encoder the ids of a data set, so that its codes go on from there."""
    wanted = {"user", "item", *old.columns}
    if old.time is not None or "partial_time" in wanted:
        wanted = (wanted | {"time"}) - {"partial_time"}
    roles = {"order": "position"}
    given = {roles.get(role, role) for role in encoder.names.given()}
    if given != wanted:
        missing, extra = sorted(wanted - given), sorted(given - wanted)
        raise DataError(
            "append: wanted the columns of the data set; "
            + "; ".join(
                f"{what}: {', '.join(names)}"
                for what, names in (("the new log lacks", missing), ("it has in addition", extra))
                if names
            )
        )
    ids = {
        "user": old.users["user"],
        "item": old.items["item"],
        "session": old.sessions,
        "event_type": pa.array(old.event_types, pa.string()),
    }
    for role, target in encoder.ids.items():
        if role == "event_type" and pa.types.is_integer(target.type):
            ids[role] = _as_integers(ids[role], target.type)
        target.resume(ids[role])


def _as_integers(names: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return names.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"event_type: wanted names like those of the data set, got {kind}: {error}"
        ) from error


def old_pieces(histories: Histories) -> Iterator[Piece]:
    """A data set as pieces of a log: user by user, in its own order."""
    columns = dict(histories.columns)
    columns.pop("partial_time", None)
    columns["item"] = histories.item
    time = _times(histories)
    if time is not None:
        columns["time"] = time
    offsets = histories.offsets
    for start in range(0, histories.num_events, ROWS_PER_PIECE):
        end = min(start + ROWS_PER_PIECE, histories.num_events)
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, end, side="left"))
        lengths = np.diff(np.clip(offsets[first : last + 1], start, end))
        user = np.repeat(np.arange(first, last, dtype=np.int32), lengths)
        yield {"user": user, **{name: values[start:end] for name, values in columns.items()}}


def _times(histories: Histories) -> Array | None:
    return histories.time if histories.time is not None else histories.columns.get("partial_time")


def sort_key(columns: Piece, times: Array | None) -> Array:
    """What events are ordered by: the order column if there is one, else the time."""
    key = columns.get("position", times)
    if key is None:
        raise DataError("the data set has neither times nor an order")
    return key
