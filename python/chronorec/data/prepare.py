"""The function behind ``chronorec prepare``: any event log to a folder of histories."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronorec.data.append import Appending, like_before
from chronorec.data.errors import DataError
from chronorec.data.event_log import EventLog
from chronorec.data.grouping import concatenate, group
from chronorec.data.histories import Histories
from chronorec.data.out_of_core import group_on_disk, parse_bytes
from chronorec.data.report import LogReport
from chronorec.data.sources import open_source
from chronorec.data.storage import MANIFEST, check_replaceable, save_histories


@dataclass(frozen=True)
class PrepareReport:
    """What was read, and what was written where. ``print(report)`` is meant for people."""

    folder: Path
    log: LogReport
    content_hash: str

    def __str__(self) -> str:
        return f"{self.log}\nwritten to {self.folder} (content hash {self.content_hash})"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"folder": str(self.folder), "content_hash": self.content_hash, **self.log.as_dict()}


def prepare(
    source: Any,
    output: str | Path,
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
    items: Any = None,
    users: Any = None,
    timezone: str | None = None,
    memory: str | int | None = None,
    append: bool = False,
) -> PrepareReport:
    """Reads a log (see :meth:`EventLog.read` for the columns) and writes its histories to a folder.

    Args:
        source: the log: a path, or an object with ``__arrow_c_stream__``.
        output: folder to write, in one step. An earlier data set there is replaced; anything else is not.
        items, users: tables of features and text with the ids of the log.
        memory: about how much memory events may take ("2G"), for logs larger than memory; the result is
            the same. The ids themselves are always held in memory.
        append: add the log to the data set in ``output``. Its codes stay. If the new events come after
            the old ones, the result is that of preparing everything at once. Features of items and users
            are kept unless new tables are given. Columns, time unit and time zone that are not given are
            those of the data set.

    Raises:
        DataError: the log cannot be used; ``output`` is as it was.
    """
    limit = None if memory is None else parse_bytes(memory)
    folder = Path(output)
    check_replaceable(folder)
    columns = {
        "user": user,
        "item": item,
        "time": time,
        "order": order,
        "time_unit": time_unit,
        "event_type": event_type,
        "value": value,
        "session": session,
        "latitude": latitude,
        "longitude": longitude,
        "timezone": timezone,
    }
    if append:
        if not (folder / MANIFEST).exists():
            raise DataError(f"append: {folder} holds no prepared data set to append to")
        old, source = Histories.open(folder), open_source(source)
        columns = like_before(columns, old, source.schema)
        return _write(EventLog.read(source, **columns), folder, items, users, limit, old)
    return _write(EventLog.read(source, **columns), folder, items, users, limit, None)


def _write(
    log: EventLog, folder: Path, items: Any, users: Any, limit: int | None, old: Histories | None
) -> PrepareReport:
    appending = None if old is None else Appending(old, log)
    pieces = log.pieces() if appending is None else appending.pieces()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.work.", dir=folder.parent) as scratch:
        if limit is None:
            whole = concatenate(pieces, log.rows if appending is None else None)
            grouped, offsets, out_of_order = group(whole, int(whole["user"].max()) + 1)
        else:
            grouped, offsets, out_of_order = group_on_disk(pieces, Path(scratch), limit)
        notes = []
        if appending is not None:
            items = _old_features(appending.old.items) if items is None else items
            users = _old_features(appending.old.users) if users is None else users
            notes.append(appending.note())
        histories = log.assemble(grouped, offsets, items=items, users=users)
        if appending is not None:
            before = appending.old.provenance
            histories.provenance["appended_to"] = before
        report = log.describe(histories, out_of_order, *notes)
        save_histories(histories, folder)
    return PrepareReport(folder, report, histories.content_hash)


def _old_features(table: Any) -> Any:
    return table if table.num_columns > 1 else None
