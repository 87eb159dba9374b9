from __future__ import annotations

import datetime
import zoneinfo

import numpy as np
import pytest

from chronorec.data.calendar import zone_shifts


@pytest.mark.parametrize("name", [None, "UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_shifts_are_those_of_the_zone(name: str | None) -> None:
    starts, shifts = zone_shifts(name)
    assert len(starts) == len(shifts)
    assert starts[0] == np.iinfo(np.int64).min
    assert (np.diff(starts[1:]) > 0).all()
    zone = zoneinfo.ZoneInfo(name or "UTC")
    near = np.concatenate([starts[1:] + shift for shift in (-1_000_000, 0)])
    drawn = np.random.default_rng(0).integers(-2_000_000_000, 3_000_000_000, 500) * 1_000_000
    for time in np.concatenate([near, drawn]).tolist():
        moment = datetime.datetime.fromtimestamp(time // 1_000_000, zone)
        shift = shifts[np.searchsorted(starts, time, side="right") - 1]
        assert shift == round(moment.utcoffset().total_seconds()) * 1_000_000, moment
