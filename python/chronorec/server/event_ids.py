"""Ids of events that were told: one that comes again, such as after a lost answer, counts once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from chronorec.atomic import new_file

#: How many of the latest ids are remembered; about 30 MB.
REMEMBERED = 1 << 18


def number_of(event_id: str | int) -> int:
    """64 bits of a hash: of the id itself, which may say something of a user, nothing is kept."""
    kind = "number" if isinstance(event_id, int) else "text"
    return int.from_bytes(hashlib.blake2b(f"{kind} {event_id}".encode(), digest_size=8).digest(), "big")


class EventIds:
    """The latest ids, in the order they came. Who calls it holds the journal's lock."""

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}

    def __contains__(self, event_id: str | int) -> bool:
        return number_of(event_id) in self._numbers

    def add(self, event_ids: Iterable[str | int | None]) -> None:
        """Remembers ids, and gives up the oldest; None is none."""
        self._numbers.update((number_of(one), None) for one in event_ids if one is not None)
        while len(self._numbers) > REMEMBERED:
            del self._numbers[next(iter(self._numbers))]

    def copy(self) -> EventIds:
        """As they are now."""
        same = EventIds()
        same._numbers = dict(self._numbers)
        return same

    def save(self, path: Path) -> None:
        """Writes them to a file, which is replaced once the new one is complete."""
        with new_file(path) as file:
            file.write(np.fromiter(self._numbers, np.uint64, len(self._numbers)).tobytes())

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Adds those of a file; one that is not there has none."""
        if Path(path).exists():
            self._numbers.update(dict.fromkeys(np.fromfile(path, np.uint64).tolist()))
