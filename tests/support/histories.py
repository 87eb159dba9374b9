"""A stand-in for ``chronorec.data.Histories``, made from lists: what splits, batches and evaluation read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec.data.baskets import Baskets, baskets


@dataclass
class ListHistories:
    """The attributes of ``Histories`` over arrays in memory."""

    item: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64] | None
    offsets: npt.NDArray[np.int64]
    num_items: int
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.item)

    @property
    def content_hash(self) -> str:
        arrays = [
            self.item,
            self.offsets,
            *([] if self.time is None else [self.time]),
            *self.columns.values(),
        ]
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    @cached_property
    def baskets(self) -> Baskets:
        return baskets(self)

    def require_time(self, what: str) -> npt.NDArray[np.int64]:
        if self.time is None:
            raise ValueError(f"{what} needs times, and this log has none")
        return self.time


def make_histories(
    items: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    sessions: Sequence[Sequence[int]] | None = None,
    num_items: int | None = None,
) -> Any:
    """Histories of users given as lists: ``items[b]`` in order, and the same shape of times and sessions."""

    def flat(rows: Sequence[Sequence[int]], dtype: type) -> npt.NDArray[Any]:
        assert [len(row) for row in rows] == [len(row) for row in items]
        return np.array([value for row in rows for value in row], dtype)

    item = flat(items, np.int32)
    return ListHistories(
        item=item,
        time=None if times is None else flat(times, np.int64),
        offsets=np.cumsum([0, *(len(row) for row in items)], dtype=np.int64),
        num_items=num_items or (int(item.max()) + 1 if len(item) else 0),
        columns={} if sessions is None else {"session": flat(sessions, np.int64)},
    )


def random_histories(
    seed: int, users: int = 40, num_items: int = 30, baskets: bool = False, longest: int = 60
) -> Any:
    """Random users (some empty, some of one event), with time ties and, if asked for, sessions."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, users)
    lengths[:3] = [0, 1, 2]
    items = [rng.integers(0, num_items, n).tolist() for n in lengths]
    times = [np.sort(rng.integers(0, 100, n)).tolist() for n in lengths]
    sessions = None
    if baskets:
        codes = iter(range(10**9))
        sessions = []
        for row in times:
            code_of = {time: next(codes) for time in dict.fromkeys(row)}
            sessions.append([code_of[time] for time in row])
    return make_histories(items, times, sessions, num_items)
