"""The calendar of a time zone as two arrays, so that whoever has them needs no table of zones."""

from __future__ import annotations

import datetime
import zoneinfo

import numpy as np

from chronorec.data.jagged import Int64s

_SECOND = 1_000_000  # microseconds
_DAY = 86_400
_FIRST, _LAST = -36_525, 36_525  # days from 1970: 1870 to 2070


def zone_shifts(timezone: str | None) -> tuple[Int64s, Int64s]:
    """From when, and by how much, local time differs from UTC: microseconds, int64 [K] each.

    Local time is ``t + shifts[i]`` for the last ``i`` with ``starts[i] <= t``. ``starts`` begin with the
    smallest int64 and are true from 1870 to 2070. None is UTC.
    """
    starts, shifts = [np.iinfo(np.int64).min], [0]
    if timezone is not None:
        zone = zoneinfo.ZoneInfo(timezone)
        shifts = [_shift(_FIRST * _DAY, zone)]
        for day in range(_FIRST, _LAST):
            before, after = day * _DAY, (day + 1) * _DAY
            if _shift(after, zone) == shifts[-1]:
                continue
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if _shift(middle, zone) == shifts[-1] else (before, middle)
            starts.append(after * _SECOND)
            shifts.append(_shift(after, zone))
    return np.array(starts, np.int64), np.array(shifts, np.int64) * _SECOND


def _shift(second: int, zone: zoneinfo.ZoneInfo) -> int:
    """Seconds to add to UTC at a second since 1970."""
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=second)
    shift = moment.astimezone(zone).utcoffset()
    assert shift is not None
    return round(shift.total_seconds())
