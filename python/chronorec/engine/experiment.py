"""Which of several models answers a user: decided by the hash of the id alone, and written down."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

EXPOSURES = pa.schema(
    [
        ("experiment", pa.string()),
        ("user", pa.string()),
        ("variant", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)


class Experiment:
    """Shares users out to variants, the same way on every machine and at every time.

    Args:
        name: another name shares the users out anew, independently.
        shares: variant to its share of the users; any positive numbers.

    Attributes:
        shares: the same, with the sum 1.
    """

    def __init__(self, name: str, shares: Mapping[str, float]) -> None:
        if not shares or not all(np.isfinite(share) and share > 0 for share in shares.values()):
            raise ValueError(f"shares: wanted a positive number per variant, got {dict(shares)}")
        self.name = name
        self.variants = list(shares)
        edges = np.cumsum(list(shares.values()))
        self._edges = edges / edges[-1]
        self.shares = dict(zip(self.variants, np.diff(self._edges, prepend=0.0).tolist(), strict=True))

    def variant(self, user: str | int) -> str:
        """The variant of a user."""
        kind = "number" if isinstance(user, int) else "text"
        digest = hashlib.sha256(f"{self.name}\0{kind}\0{user}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return self.variants[min(int(np.searchsorted(self._edges, place, "right")), len(self.variants) - 1)]


class ExposureLog:
    """Who was shown which variant when, as an Arrow IPC stream of the schema ``EXPOSURES``.

    Args:
        path: of a new file.
        rows: how many are gathered before they are written; the rest is on ``close``.
    """

    def __init__(self, path: str | os.PathLike[str], rows: int = 1000) -> None:
        self._file = open(path, "xb")  # noqa: SIM115  closed by close()
        self._writer = pa.ipc.new_stream(self._file, EXPOSURES)
        self._rows: list[tuple[str, str, str, int]] = []
        self._most = rows
        self._lock = threading.Lock()

    def add(self, experiment: str, user: str | int, variant: str, at: int) -> None:
        """Notes one exposure at a time in microseconds."""
        with self._lock:
            self._rows.append((experiment, str(user), variant, at))
            if len(self._rows) >= self._most:
                self._write()

    def close(self) -> None:
        """Writes the rest and ends the stream."""
        with self._lock:
            self._write()
            self._writer.close()
            self._file.close()

    def _write(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, EXPOSURES, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=EXPOSURES))
            self._file.flush()
            self._rows = []
