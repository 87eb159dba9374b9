"""Histories on disk: Arrow IPC files, memory-mapped when read, and a JSON file with counts and hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from chronorec.atomic import new_folder, obstacle
from chronorec.data.encode import text_buffers
from chronorec.data.errors import DataError, FormatError
from chronorec.data.histories import COLUMN_TYPES, Array, Histories

FORMAT = "chronorec histories"
FORMAT_NUMBER = 1
MANIFEST = "histories.json"
_FILES = (MANIFEST, "events.arrow", "users.arrow", "items.arrow", "sessions.arrow")
EVENT_TYPES = {"item": np.dtype(np.int32), "time": np.dtype(np.int64), **COLUMN_TYPES}

_ROWS_AT_ONCE = 1 << 22  # so that a mapped file needs no copy and Ctrl-C is heard

H = TypeVar("H", bound=Histories)


def event_columns(histories: Histories) -> dict[str, Array]:
    """The event columns that are there, in their order on disk."""
    columns = {"item": histories.item, **histories.columns}
    if histories.time is not None:
        columns["time"] = histories.time
    return {name: columns[name] for name in EVENT_TYPES if name in columns}


def content_hash(histories: Histories) -> str:
    """BLAKE2b over every event column, the offsets, the ids and the time zone."""
    total = hashlib.blake2b(digest_size=16)
    for name, values in {**event_columns(histories), "offsets": histories.offsets}.items():
        column = hashlib.blake2b(digest_size=16)
        _update(column, values)
        total.update(f"{name} {values.dtype.str} {len(values)} ".encode() + column.digest())
    ids = {"user": histories.users["user"], "item": histories.items["item"], "session": histories.sessions}
    for name, array in ids.items():
        if array is not None:
            total.update(f"{name} {array.type} {len(array)} ".encode() + _digest_of_ids(array))
    total.update(json.dumps([list(histories.event_types), histories.timezone]).encode())
    return total.hexdigest()


def _update(digest: hashlib.blake2b, values: Array) -> None:
    for start in range(0, len(values), _ROWS_AT_ONCE):
        digest.update(np.ascontiguousarray(values[start : start + _ROWS_AT_ONCE]).view(np.uint8).data)


def _digest_of_ids(array: pa.Array | pa.ChunkedArray) -> bytes:
    if pa.types.is_integer(array.type):
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(array), _ROWS_AT_ONCE):
            _update(digest, array.slice(start, _ROWS_AT_ONCE).to_numpy(zero_copy_only=False))
        return digest.digest()
    lengths, content = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            offsets, data = text_buffers(chunk.slice(start, _ROWS_AT_ONCE))
            _update(lengths, np.diff(offsets))
            _update(content, data[offsets[0] : offsets[-1]])
    return lengths.digest() + content.digest()


def check_replaceable(folder: Path) -> None:
    """Raises DataError if a data set cannot be written there, or would replace something else."""
    why = obstacle(folder, MANIFEST, FORMAT, _FILES)
    if why is not None:
        raise DataError(f"{folder}: cannot hold a prepared data set: {why}; choose another folder")


def save_histories(histories: Histories, folder: Path) -> None:
    """See :meth:`Histories.save`."""
    check_replaceable(folder)
    with new_folder(folder) as work:
        _write_files(histories, work)


def _write_files(histories: Histories, work: Path) -> None:
    """Writes the files of a data set into an existing, empty folder."""
    events = {name: _plain_array(values) for name, values in event_columns(histories).items()}
    _write(work / "events.arrow", pa.table(events))
    users = histories.users.add_column(1, "offset", _plain_array(histories.offsets[:-1]))
    _write(work / "users.arrow", users.combine_chunks())
    _write(work / "items.arrow", histories.items.combine_chunks())
    if histories.sessions is not None:
        _write(work / "sessions.arrow", pa.table({"session": histories.sessions}))
    manifest = {
        "format": FORMAT,
        "format_number": FORMAT_NUMBER,
        "num_users": histories.num_users,
        "num_items": histories.num_items,
        "num_events": histories.num_events,
        "event_types": list(histories.event_types),
        "timezone": histories.timezone,
        "content_hash": histories.content_hash,
        "bytes": {path.name: path.stat().st_size for path in sorted(work.glob("*.arrow"))},
        "provenance": histories.provenance,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _plain_array(values: Array) -> pa.Array:
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _write(path: Path, table: pa.Table) -> None:
    # one record batch: a column is one stretch of the file
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


def open_histories(cls: type[H], folder: Path, *, verify: bool) -> H:
    """See :meth:`Histories.open`."""
    manifest = read_manifest(folder)
    tables = {name: _map(folder, name, size) for name, size in manifest["bytes"].items()}
    try:
        events, users = tables["events.arrow"], tables["users.arrow"]
        arrays = {name: _numpy(events[name]) for name in events.column_names}
        offsets = np.append(_numpy(users["offset"]), np.int64(manifest["num_events"]))
        sessions = (
            tables["sessions.arrow"]["session"].combine_chunks() if "sessions.arrow" in tables else None
        )
        histories = cls(
            item=arrays.pop("item"),
            time=arrays.pop("time", None),
            offsets=offsets,
            users=users.drop_columns(["offset"]),
            items=tables["items.arrow"],
            columns=arrays,
            timezone=manifest["timezone"],
            event_types=tuple(manifest["event_types"]),
            sessions=sessions,
            provenance=manifest["provenance"],
            _content_hash=manifest["content_hash"],
        )
    except (KeyError, TypeError, DataError, pa.ArrowException) as error:
        raise FormatError(f"{folder}: damaged data set: {error}") from error
    counts = (histories.num_users, histories.num_items, histories.num_events)
    if counts != (manifest["num_users"], manifest["num_items"], manifest["num_events"]):
        raise FormatError(f"{folder}: damaged data set: counts {counts} differ from {MANIFEST}")
    if verify and content_hash(histories) != manifest["content_hash"]:
        raise FormatError(f"{folder}: damaged data set: its content differs from the hash in {MANIFEST}")
    return histories


def read_manifest(folder: Path) -> dict[str, Any]:
    """The JSON of a folder, checked."""
    path = folder / MANIFEST
    if not path.is_file():
        why = "has no " + MANIFEST if folder.is_dir() else "is not a folder"
        raise FormatError(f"{folder}: not a prepared data set: it {why} (make one with `chronorec prepare`)")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{path}: not written by chronorec: wanted format {FORMAT!r}")
    number = manifest.get("format_number")
    if not isinstance(number, int) or number > FORMAT_NUMBER:
        raise FormatError(
            f"{path}: format number {number} is newer than this chronorec reads ({FORMAT_NUMBER}); "
            "upgrade chronorec or prepare the data again"
        )
    wanted = {
        "num_users": int,
        "num_items": int,
        "num_events": int,
        "event_types": list,
        "content_hash": str,
        "bytes": dict,
        "provenance": dict,
    }
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise FormatError(f"{path}: damaged: wanted {key!r} to be of type {kind.__name__}")
    if "timezone" not in manifest:
        raise FormatError(f"{path}: damaged: 'timezone' is missing")
    return manifest


def _map(folder: Path, name: str, size: int) -> pa.Table:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise FormatError(f"{folder}: damaged data set: {name} is missing")
    if path.stat().st_size != size:
        raise FormatError(f"{path}: damaged: wanted {size} bytes, got {path.stat().st_size}")
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error


def _numpy(column: pa.ChunkedArray) -> Array:
    if column.num_chunks == 0:
        return np.empty(0, column.type.to_pandas_dtype())
    if column.num_chunks > 1:
        raise FormatError(f"wanted one record batch, got {column.num_chunks}")
    values: Array = column.chunk(0).to_numpy(zero_copy_only=True)
    return values
