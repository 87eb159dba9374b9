"""Grouping of logs that are larger than memory: the same result as ``grouping``, through files.

The encoded log is spilled column by column, then dealt to partitions of neighbouring users that fit into
memory, and each partition is grouped and written behind the one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from chronorec import _core
from chronorec.data.errors import DataError
from chronorec.data.grouping import deal, gather, group
from chronorec.data.histories import Array
from chronorec.data.log_encoder import Piece
from chronorec.data.sources import ROWS_PER_PIECE

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str | int) -> int:
    """``"2G"`` -> 2147483648.

    Raises:
        DataError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise DataError(f"memory: wanted a size such as '2G' or '500M', got {text!r}")
    return size


class ColumnFiles:
    """One flat file per column, appended to piece by piece."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._types: dict[str, np.dtype[np.generic]] = {}
        self.rows = 0

    def append(self, piece: Piece) -> None:
        for name, values in piece.items():
            self._types[name] = values.dtype
            with (self._folder / name).open("ab") as file:
                np.ascontiguousarray(values).tofile(file)
        self.rows += len(next(iter(piece.values())))

    def load(self, start: int = 0, count: int = -1) -> Piece:
        """Rows of all columns, in memory."""
        return {
            name: np.fromfile(self._folder / name, kind, count, offset=start * kind.itemsize)
            for name, kind in self._types.items()
        }

    def map(self) -> Piece:
        """All columns, memory-mapped."""
        return {
            name: np.asarray(np.memmap(self._folder / name, kind, "r")) for name, kind in self._types.items()
        }

    def pieces(self) -> Iterator[Piece]:
        for start in range(0, self.rows, ROWS_PER_PIECE):
            yield self.load(start, min(ROWS_PER_PIECE, self.rows - start))

    def remove(self) -> None:
        for name in self._types:
            (self._folder / name).unlink()

    def bytes_per_row(self) -> int:
        return sum(kind.itemsize for kind in self._types.values())


def group_on_disk(pieces: Iterable[Piece], folder: Path, memory: int) -> tuple[Piece, Array, int]:
    """As ``grouping.group``, holding about ``memory`` bytes of events at once.

    Ids are not counted: the dictionaries of user and item ids stay in memory, and so does one partition
    that holds a single user.

    Args:
        pieces: the encoded log.
        folder: for the files; what is returned is mapped from there.
        memory: in bytes.
    """
    log = ColumnFiles(folder, "log")
    counts = np.zeros(1024, np.int64)
    num_users = 0
    for piece in pieces:
        num_users = max(num_users, int(piece["user"].max()) + 1)
        if num_users > len(counts):
            counts = np.concatenate([counts, np.zeros(max(len(counts), num_users - len(counts)), np.int64)])
        _core.count_codes(piece["user"], counts)
        log.append(piece)
    offsets = np.zeros(num_users + 1, np.int64)
    np.cumsum(counts[:num_users], out=offsets[1:])
    # grouped and ungrouped columns, and 12 bytes of order and users and 24 of work space in the grouping
    rows = max(1, memory // (2 * log.bytes_per_row() + 36))
    bounds = partition_bounds(offsets, rows)
    output, falls = ColumnFiles(folder, "grouped"), 0
    for first, partition in zip(bounds, _deal(log, bounds, folder), strict=False):
        columns = partition.load()
        partition.remove()
        columns["user"] -= np.int32(first)
        users = int(columns["user"].max()) + 1
        grouped, _, out_of_order = group(columns, users)
        output.append(grouped)
        falls += out_of_order
    return output.map(), offsets, falls


def partition_bounds(offsets: Array, rows: int) -> list[int]:
    """First user of each partition, and the number of users: at most ``rows`` events or one user each."""
    bounds, users = [0], len(offsets) - 1
    while bounds[-1] < users:
        limit = offsets[bounds[-1]] + rows
        following = int(np.searchsorted(offsets, limit, side="right")) - 1
        bounds.append(max(following, bounds[-1] + 1))
    return bounds


def _deal(log: ColumnFiles, bounds: list[int], folder: Path) -> list[ColumnFiles]:
    """The log, dealt to partitions in its own order."""
    count = len(bounds) - 1
    if count == 1:
        return [log]
    partitions = [ColumnFiles(folder, f"partition-{i}") for i in range(count)]
    for piece in log.pieces():
        owner = (np.searchsorted(bounds, piece["user"], side="right") - 1).astype(np.int32)
        order, starts = deal(owner, count)
        dealt = {name: gather(values, order) for name, values in piece.items()}
        for i in range(count):
            begin, end = starts[i], starts[i + 1]
            if end > begin:
                partitions[i].append({name: values[begin:end] for name, values in dealt.items()})
    log.remove()
    return partitions
