"""How often each item occurs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int64s, ranges

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

MICROSECONDS_PER_DAY = 86_400_000_000


def event_counts(histories: Histories, begin: Int64s, end: Int64s, days: float | None = None) -> Int64s:
    """Events of each item [V] in events[begin:end] of every user.

    Args:
        days: count only the last so many days before the newest of these events; needs times.
    """
    events = ranges(begin, end - begin)
    if days is not None and len(events):
        time = histories.require_time("recent popularity")[events]
        events = events[time > time.max() - days * MICROSECONDS_PER_DAY]
    counts: Int64s = np.bincount(histories.item[events], minlength=histories.num_items).astype(np.int64)
    return counts


def decayed_counts(
    histories: Histories, begin: Int64s, end: Int64s, days: float
) -> tuple[npt.NDArray[np.float64], int]:
    """Weights of each item [V] in events[begin:end] of every user, and the newest time T of these events.

    An event weighs exp(-(T - time) / days); needs times and at least one event.
    """
    events = ranges(begin, end - begin)
    time = histories.require_time("recent popularity")[events]
    newest = int(time.max())
    weights = np.exp((time - newest) / (days * MICROSECONDS_PER_DAY))
    counts = np.bincount(histories.item[events], weights, minlength=histories.num_items)
    return counts.astype(np.float64), newest
