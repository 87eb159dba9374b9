"""Reads an event log from wherever it is and makes histories of it."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from chronorec.data.columns import resolve_columns
from chronorec.data.errors import DataError
from chronorec.data.features import join_features
from chronorec.data.grouping import concatenate, group, split_times
from chronorec.data.histories import Array, Histories
from chronorec.data.log_encoder import ID_ROLES, LogEncoder, Piece
from chronorec.data.report import LogReport
from chronorec.data.sources import Source, open_source


class EventLog:
    """Who did what, when: rows of user, item and time, read once.

    Make one with :meth:`read`, then call :meth:`histories`.
    """

    def __init__(
        self, source: Source, batches: Iterator[pa.RecordBatch], encoder: LogEncoder, timezone: str | None
    ) -> None:
        self.name = source.name
        self.rows = source.rows
        self.encoder = encoder
        self.time_unit = None if encoder.times is None else encoder.times.unit
        self._batches = batches
        self._timezone = timezone
        self._report = LogReport(source=source.name)
        self._histories: Histories | None = None
        self._described = False

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        order: str | None = None,
        time_unit: str | None = None,
        event_type: str | None = None,
        value: str | None = None,
        session: str | None = None,
        latitude: str | None = None,
        longitude: str | None = None,
        timezone: str | None = None,
    ) -> EventLog:
        """Opens a log and checks its columns; the rows are read by :meth:`histories`.

        Args:
            source: a path to Parquet (a file, a folder, a hive-partitioned data set), Arrow IPC (.arrow,
                .feather, .ipc), CSV (.csv, .csv.gz), or any object with ``__arrow_c_stream__`` (pyarrow,
                polars, pandas, a DuckDB relation).
            user, item: columns of ids: integers, strings, or a dictionary of these ("user_id", "item_id").
                Ids from CSV become integers only if that loses nothing: "007" and "7" are two ids.
            time: column of timestamps, dates, ISO text, or numbers with ``time_unit`` ("timestamp", if it
                is there). Times without a zone are UTC.
            order: column that orders a user's events, in place of the time or beside it; then a time may
                be missing.
            time_unit: "s", "ms", "us" or "ns", for times that are numbers since 1970-01-01 UTC.
            event_type: column with the kind of event.
            value: column with a number: a rating, a quantity, a price.
            session: column with the id of the session or basket.
            latitude, longitude: columns in degrees.
            timezone: zone for calendar features; default: the zone of the time column, if it has one.

        Raises:
            DataError: a column is missing or of the wrong kind, or the source cannot be read.
        """
        opened = open_source(source)
        names = resolve_columns(
            opened.schema,
            {
                "user": user,
                "item": item,
                "time": time,
                "order": order,
                "event_type": event_type,
                "value": value,
                "session": session,
                "latitude": latitude,
                "longitude": longitude,
            },
        )
        given = names.given()
        ids = {name for role, name in given.items() if role in ID_ROLES}
        schema, batches = opened.read(list(dict.fromkeys(given.values())), ids)
        encoder = LogEncoder(names, schema, time_unit, guessed=opened.guessed)
        return cls(opened, batches, encoder, check_timezone(timezone))

    @property
    def timezone(self) -> str | None:
        """The zone for calendar features that was given, else that of the time column."""
        if self._timezone is None and self.encoder.times is not None:
            return self.encoder.times.timezone
        return self._timezone

    def pieces(self) -> Iterator[Piece]:
        """Encoded pieces of the log in the order of its rows; ends with the checks on the whole of it.

        Raises:
            DataError: no row is usable, or the times mix units.
        """
        kept = 0
        for batch in self._batches:
            piece = self.encoder.encode(batch)
            kept += len(piece["user"])
            if len(piece["user"]):
                yield piece
        self._finish(kept)

    def _finish(self, kept: int) -> None:
        report, encoder = self._report, self.encoder
        report.rows, report.rejected = encoder.rows, encoder.rejected
        times = encoder.times
        if times is not None:
            warning = times.check_units()
            if warning is not None:
                report.notes.append(warning)
            if times.rounded:
                report.notes.append(f"{times.rounded:,} times were cut to whole microseconds")
            if times.bad_example is not None:
                report.notes.append(f"an unreadable time: {times.bad_example!r}")
        if encoder.rows == 0:
            raise DataError(f"{self.name}: the log is empty")
        if kept == 0:
            raise DataError(f"{self.name}: no usable row\n{report}")

    def histories(self, *, items: Any = None, users: Any = None) -> Histories:
        """Groups the events by user, in the order they happened, in memory.

        Args:
            items, users: tables of features and text, from anything :meth:`read` accepts; they need the id
                column of the log (or one called ``item`` / ``user``).

        Raises:
            DataError: see the message.
        """
        if self._histories is None:
            if self.rows is not None:
                self.encoder.reserve(self.rows)
            columns = concatenate(self.pieces(), self.rows)
            grouped, offsets, self._report.out_of_order = group(columns, len(self.encoder.ids["user"]))
            self._histories = self.assemble(grouped, offsets, items=items, users=users)
        return self._histories

    def assemble(self, grouped: Piece, offsets: Array, *, items: Any = None, users: Any = None) -> Histories:
        """Histories from grouped columns and the ids read so far."""
        ids, names = self.encoder.ids, self.encoder.names
        time, columns = split_times(grouped)
        notes = self._report.notes
        notes += [note for note in (encoder.note() for encoder in ids.values()) if note is not None]
        types = [str(name) for name in ids["event_type"].ids().to_pylist()] if "event_type" in ids else []
        return Histories(
            item=columns.pop("item"),
            time=time,
            offsets=offsets,
            users=join_features(ids["user"].ids(), "user", names.user, users, notes),
            items=join_features(ids["item"].ids(), "item", names.item, items, notes),
            columns=columns,
            timezone=self.timezone,
            event_types=tuple(types),
            sessions=ids["session"].ids() if "session" in ids else None,
            provenance={"source": self.name, "columns": names.given(), "time_unit": self.time_unit},
        )

    @property
    def report(self) -> LogReport:
        """What was read and what was refused. Reads the log if that has not happened yet."""
        histories = self.histories()
        if not self._described:
            self.describe(histories, self._report.out_of_order)
        return self._report

    def describe(self, histories: Histories, out_of_order: int, *notes: str) -> LogReport:
        """The report, completed by what the histories of this log tell."""
        self._report.out_of_order = out_of_order
        self._report.notes += notes
        self._report.describe(histories)
        self._described = True
        return self._report


def check_timezone(timezone: str | None) -> str | None:
    """Raises DataError unless this machine knows the zone."""
    if timezone is None:
        return None
    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(f"timezone: wanted a zone such as 'Europe/Berlin', got {timezone!r}") from error
    return timezone
