"""Answers to more requests than memory holds: Arrow in, Arrow out, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chronorec.atomic import new_file
from chronorec.data.encode import plain
from chronorec.data.histories import Histories
from chronorec.data.profile import Profile
from chronorec.data.sources import open_source, reading
from chronorec.data.storage import MANIFEST
from chronorec.engine.engine import Engine
from chronorec.engine.event_types import EventTypes
from chronorec.engine.live_model import microseconds
from chronorec.engine.requests import When
from chronorec.engine.rules import Rules
from chronorec.progress import Progress

ROWS = 1 << 12  # requests in memory at a time
_EVENTS = 1 << 20  # and events of histories, unless one user has more
_PARQUET, _ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
_ASKED = ("items", "times", "sessions", "events", "at")


def recommend_stream(
    engine: Engine,
    requests: Any,
    *,
    at: When | None = None,
    k: int = 10,
    exclude_seen: bool | None = None,
    candidates: Iterable[Hashable] | None = None,
    exclude: Iterable[Hashable] = (),
    rules: Rules | None = None,
) -> pa.RecordBatchReader:
    """Answers while it is read from; the numbers are those of :meth:`Engine.recommend`, bit for bit.

    Args:
        requests: what :meth:`Engine.recommend_batch` takes, such as a stream, which is read a few thousand
            rows at a time; or a path: Parquet (a file, a folder of files), Arrow IPC, or a histories folder,
            whose users are asked for with all their events.
        at: when the answers are asked for, if the requests have no column ``at``; by default now.
        k, exclude_seen, candidates, exclude, rules: see :meth:`Engine.recommend`; the same for all.

    Returns:
        The columns of :meth:`Engine.recommend_batch`, behind those of the requests that are no part of the
        question, such as ``user``.

    Raises:
        DataError: nothing can be read from ``requests``.
        ValueError: requests that cannot be answered, when their turn comes.
    """
    how = {
        "k": k,
        "exclude_seen": exclude_seen,
        "candidates": None if candidates is None else list(candidates),
        "exclude": exclude if isinstance(exclude, str) else list(exclude),
        "rules": rules,
    }
    return _answers(engine, _open(requests, engine.profile), at, how)


def recommend_file(
    engine: Engine,
    requests: Any,
    target: str | os.PathLike[str],
    *,
    quiet: bool = False,
    **how: Any,
) -> int:
    """Writes the answers of :func:`recommend_stream` to a file, which is there once it is complete.

    Args:
        requests: as there.
        target: ends in ``.parquet`` or, for Arrow IPC, in ``.arrow``; an older one is replaced at the end.
        quiet: print no progress.
        how: the other arguments of :func:`recommend_stream`.

    Returns:
        How many requests were answered.
    """
    suffix = Path(target).suffix
    if suffix not in _PARQUET + _ARROW:
        raise ValueError(f"target: wanted a name that ends in {', '.join(_PARQUET + _ARROW)}, got {target}")
    asked = _open(requests, engine.profile)
    reader = recommend_stream(engine, asked, **how)
    progress = Progress(engine.artifact.name, asked.rows, "requests", shown=not quiet)
    answered = 0
    with new_file(target) as file, _writer(suffix, file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            answered += batch.num_rows
            progress.advance(batch.num_rows)
    progress.close()
    return answered


def _writer(suffix: str, file: Any, schema: pa.Schema) -> Any:
    if suffix in _ARROW:
        return pa.ipc.new_file(file, schema)
    import pyarrow.parquet as pq  # which nobody pays for who writes none

    return pq.ParquetWriter(file, schema)


class _Requests(NamedTuple):
    """Requests in small pieces.

    Attributes:
        rows: how many there are, if it is known.
    """

    schema: pa.Schema
    rows: int | None
    pieces: Callable[[], Iterator[pa.Table]]


def _answers(engine: Engine, asked: _Requests, at: When | None, how: dict[str, Any]) -> pa.RecordBatchReader:
    kept = [name for name in asked.schema.names if name not in _ASKED]
    moment = None
    if "at" not in asked.schema.names and (at is not None or engine.artifact.needs_time):
        moment = microseconds(at)  # one for all, however long it takes

    def answer(requests: pa.Table) -> pa.Table:
        if moment is not None:
            requests = requests.append_column("at", pa.array(np.full(requests.num_rows, moment)))
        table = engine.recommend_batch(requests, **how)
        found = {name: plain(table.column(name).combine_chunks()) for name in table.column_names}
        clash = sorted(set(kept) & set(found))
        if clash:
            raise ValueError(f"requests: {', '.join(clash)} is a name of the answers; rename the column")
        own = {name: plain(requests.column(name).combine_chunks()) for name in kept}
        return pa.table(own | found)

    schema = answer(asked.schema.empty_table()).schema
    batches = (batch for piece in asked.pieces() for batch in answer(piece).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


# --- where requests come from -----------------------------------------------------------------------


def _open(requests: Any, profile: Profile) -> _Requests:
    if isinstance(requests, _Requests):
        return requests
    if isinstance(requests, (str, os.PathLike)):
        path = Path(requests)
        if (path / MANIFEST).is_file():
            return _of_histories(Histories.open(path), profile)
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if files and files[0].suffix in _PARQUET and files[0].is_file():
            return _of_parquet(files)
        requests = path
    source = open_source(requests)
    batches = source.read(source.schema.names, ())[1]
    return _Requests(source.schema, source.rows, lambda: _cut(batches))


def _of_parquet(files: list[Path]) -> _Requests:
    import pyarrow.parquet as pq

    with reading(str(files[0])):
        schema = pq.read_schema(files[0]).remove_metadata()
        rows = sum(pq.read_metadata(file).num_rows for file in files)

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            # pages are read one after the other, so that a row group may be larger than memory
            with reading(str(path)), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                yield from file.iter_batches(ROWS, columns=schema.names)

    return _Requests(schema, rows, lambda: _cut(batches()))


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Pieces of ROWS to twice as many; the last one may be smaller."""
    parts: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        for first in range(0, batch.num_rows, ROWS):
            parts.append(batch.slice(first, ROWS))
            rows += parts[-1].num_rows
            if rows >= ROWS:
                yield pa.Table.from_batches(parts)
                parts, rows = [], 0
    if parts:
        yield pa.Table.from_batches(parts)


def _of_histories(histories: Histories, profile: Profile) -> _Requests:
    names = [column.name for column in profile.columns if column.name in histories.users.column_names]

    def pieces() -> Iterator[pa.Table]:
        first = 0
        while first < histories.num_users:
            most = int(np.searchsorted(histories.offsets, histories.offsets[first] + _EVENTS, "right")) - 1
            last = min(max(first + 1, most), first + ROWS, histories.num_users)
            yield _piece(histories, names, first, last)
            first = last

    return _Requests(_piece(histories, names, 0, 0).schema, histories.num_users, pieces)


def _piece(histories: Histories, names: list[str], first: int, last: int) -> pa.Table:
    """The users ``first`` to ``last - 1`` as requests, with columns of the user table."""
    begin, end = (int(histories.offsets[user]) for user in (first, last))
    offsets = pa.array(histories.offsets[first : last + 1] - begin)
    codes = pa.array(histories.item[begin:end])
    values = {"items": histories.items.column("item").take(codes).combine_chunks()}
    if histories.time is not None:
        values["times"] = pa.array(histories.time[begin:end]).cast(pa.timestamp("us", "UTC"))
    if "session" in histories.columns:
        values["sessions"] = pa.array(histories.columns["session"][begin:end])
    if "event_type" in histories.columns:
        types = EventTypes(histories.event_types).names_of(histories.columns["event_type"][begin:end])
        values["events"] = pa.array(types, pa.string())
    lists = {name: pa.LargeListArray.from_arrays(offsets, value) for name, value in values.items()}
    users = histories.users.select(["user", *names]).slice(first, last - first).combine_chunks()
    return pa.table({**dict(zip(users.column_names, users.columns, strict=True)), **lists})
