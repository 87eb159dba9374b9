"""The server's memory on disk: a log of events, written before they are acknowledged, and snapshots.

A folder holds ``sessions-<variant>.arrow`` and ``event-ids`` (snapshots), and numbered segments
``events-<n>.jsonl`` (what came after them). A snapshot begins a new segment first and deletes the older ones
last, so that a kill at any moment loses nothing: an event that stands both in a snapshot and in a segment is
the same event told twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from chronorec.atomic import sync
from chronorec.engine import Sessions
from chronorec.server.event_ids import EventIds

Durability = Literal["write", "fsync"]


class Entry(msgspec.Struct, array_like=True):
    """A line of a segment: an event, or without an item a user to forget."""

    user: str | int
    item: str | int | None
    at: int
    id: str | int | None = None
    event: str | None = None


class JournalError(RuntimeError):
    """An event could not be written down, and so was not accepted."""


class Journal:
    """Appends events to the newest segment.

    Who appends holds ``lock`` until the sessions have the events too: a snapshot that begins holds them then.

    Args:
        folder: made where there is none; used by one process at a time.
        durability: ``"write"`` survives the end of the process, ``"fsync"`` that of the machine.

    Attributes:
        synchronous: whether an append waits for the disk.
        event_ids: of the events written down.
    """

    def __init__(self, folder: str | os.PathLike[str], durability: Durability = "write") -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.synchronous = durability == "fsync"
        self.lock = threading.RLock()
        self.event_ids = EventIds()
        self._snapshot_lock = threading.Lock()  # an older snapshot must not take the place of a newer one
        self._encoder = msgspec.json.Encoder()
        self._file = -1
        self._begin_segment()

    def append(self, entries: list[Entry]) -> None:
        """Writes the entries down, all or none.

        Raises:
            JournalError: the disk is full or gone; nothing was written.
        """
        text = b"".join(self._encoder.encode(entry) + b"\n" for entry in entries)
        with self.lock:
            size = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, text)
                if written != len(text):
                    raise OSError(f"{written} of {len(text)} bytes were written")
                if self.synchronous:
                    os.fdatasync(self._file)
            except OSError as error:
                os.ftruncate(self._file, size)  # and nothing of it is read again
                raise JournalError(f"{self.folder}: the event log cannot be written: {error}") from error
            self.event_ids.add(entry.id for entry in entries)

    def restore(self, variants: Mapping[str, Sessions]) -> None:
        """Brings sessions back: those of the snapshots, then the entries after them.

        A variant without a snapshot of its own begins with that of another.
        """
        written = sorted(self.folder.glob("sessions-*.arrow"))
        for name, sessions in variants.items():
            own = self._snapshot_of(name)
            for snapshot in [own] if own in written else written[:1]:
                sessions.restore(snapshot)
        self.event_ids.restore(self._ids_file)
        for segment in self._segments():
            for entry in _entries(segment):
                self.event_ids.add([entry.id])
                for sessions in variants.values():
                    replay(sessions, entry)

    def snapshot(self, variants: Mapping[str, Sessions]) -> int:
        """Writes all sessions and lets go of the events before; returns how many sessions there are."""
        with self._snapshot_lock:
            with self.lock:
                before, ids = self._segments(), self.event_ids.copy()
                if os.fstat(self._file).st_size > 0:
                    self._begin_segment()
                else:  # such as after a snapshot that failed
                    before.pop()
            written = sum(sessions.snapshot(self._snapshot_of(name)) for name, sessions in variants.items())
            ids.save(self._ids_file)
            for segment in before:
                segment.unlink()
            return written

    def close(self) -> None:
        """Ends the newest segment."""
        os.close(self._file)

    @property
    def _ids_file(self) -> Path:
        return self.folder / "event-ids"

    def _snapshot_of(self, variant: str) -> Path:
        return self.folder / f"sessions-{variant}.arrow"

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("events-*.jsonl"))

    def _begin_segment(self) -> None:
        segments = self._segments()
        number = int(segments[-1].stem.split("-")[1]) + 1 if segments else 0
        path = self.folder / f"events-{number:012d}.jsonl"
        before = self._file
        try:  # the segment before goes on where there is no place for a new one
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise JournalError(f"{path}: no new segment: {error}") from error
        if before >= 0:
            os.close(before)
        if self.synchronous:
            sync(self.folder)


def replay(sessions: Sessions, entry: Entry) -> bool:
    """Does what an entry says; False where its item, or the user to forget, is unknown."""
    if entry.item is None:
        return sessions.forget(entry.user)
    return sessions.append(entry.user, entry.item, at=entry.at, event=entry.event)


def _entries(segment: Path) -> Iterator[Entry]:
    """The entries of a segment; a last line that a kill cut short was never acknowledged."""
    decoder = msgspec.json.Decoder(Entry)
    with segment.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise JournalError(f"{segment}: line {number} is damaged: {error}") from error
