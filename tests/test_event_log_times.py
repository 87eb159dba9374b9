"""Times of every kind, and an order column in their place or beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from chronorec.data import DataError, EventLog
from tests.support.logs import SECOND, TIMES, table

DAY = 86_400 * SECOND


def times_of(column: pa.Array, **options: Any) -> list[int]:
    log = pa.table({"user_id": pa.array([1] * len(column), pa.int8()), "item_id": range(len(column))})
    return EventLog.read(log.append_column("timestamp", column), **options).histories().time.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamps(unit: str, zone: str | None) -> None:
    column = pa.array([-1, 0, 1_700_000_000], pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))
    assert times_of(column) == [-SECOND, 0, 1_700_000_000 * SECOND]
    assert times_of(pa.concat_arrays([column[:1], column]).slice(1)) == [-SECOND, 0, 1_700_000_000 * SECOND]
    log = table().set_column(2, "timestamp", table()["timestamp"].cast(pa.timestamp(unit, zone)))
    assert EventLog.read(log).histories().timezone == zone
    assert EventLog.read(log, timezone="Asia/Tokyo").histories().timezone == "Asia/Tokyo"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64()], ids=str)
def test_numbers_with_a_unit(unit: str, kind: pa.DataType) -> None:
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    column = pa.array(np.array([0, 1_700_000_000 * scale]).astype(kind.to_pandas_dtype()))
    assert times_of(column, time_unit=unit) == [0, 1_700_000_000 * SECOND]


def test_dates() -> None:
    assert times_of(pa.array([-1, 1], pa.date32())) == [-DAY, DAY]
    assert times_of(pa.array([-86_400_000, 86_400_000], pa.date64())) == [-DAY, DAY]


def test_iso_text() -> None:
    assert times_of(pa.array(["1970-01-02", "1970-01-02T01:00", "1970-01-02 01:00:01.5"])) == [
        DAY,
        DAY + 3600 * SECOND,
        DAY + 3601 * SECOND + 500_000,
    ]
    mixed = pa.array(["1970-01-02T00:00:00", "1970-01-02T01:00:00Z", "1970-01-02T04:00:00+02:00"])
    assert times_of(mixed) == [DAY, DAY + 3600 * SECOND, DAY + 7200 * SECOND]


def test_unreadable_text_is_counted() -> None:
    times = ["1970-01-02", "yesterday", "1970-13-45", None, "1970-01-03T00:00:00Z", "1970-01-04"]
    log = EventLog.read(table().set_column(2, "timestamp", pa.array(times)))
    assert log.histories().num_events == 3
    assert log.report.rejected == {"the time is unreadable": 2, "the time is null": 1}
    assert "an unreadable time: 'yesterday'" in log.report.notes


def test_nanoseconds_that_do_not_fit_are_noted() -> None:
    log = EventLog.read(table().set_column(2, "timestamp", pa.array(range(6), pa.timestamp("ns"))))
    assert log.histories().time.tolist() == [0] * 6  # type: ignore[union-attr]
    assert log.report.notes == ["5 times were cut to whole microseconds"]


def test_numbers_need_a_unit() -> None:
    log = table().set_column(2, "timestamp", pa.array(TIMES))
    with pytest.raises(DataError, match=r"say their unit with time_unit"):
        EventLog.read(log)
    with pytest.raises(DataError, match="wanted one of s, ms, us, ns, got 'minutes'"):
        EventLog.read(log, time_unit="minutes")
    with pytest.raises(DataError, match="time_unit: is for numbers"):
        EventLog.read(table(), time_unit="s")


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()], ids=str)
def test_mixed_units_are_refused(kind: pa.DataType) -> None:
    column = pa.array([1_700_000_000] * 4 + [1_700_000_000_000] * 2).cast(kind)
    log = table().set_column(2, "timestamp", column)
    for unit in ("s", "ms"):
        with pytest.raises(DataError, match="mix units: 4 look like s, 2 look like ms"):
            EventLog.read(log, time_unit=unit).histories()


def test_wrong_unit_is_noted_or_refused() -> None:
    log = table().set_column(2, "timestamp", pa.array([1_700_000_000] * 6))
    read = EventLog.read(log, time_unit="ms")
    assert read.report.notes == ["times were read as ms, but the numbers look like s"]
    log = table().set_column(2, "timestamp", pa.array([1_700_000_000_000] * 6))
    with pytest.raises(DataError, match="no usable row") as error:
        EventLog.read(log, time_unit="s").histories()
    assert "the numbers look like ms" in str(error.value)


def test_nan_and_out_of_range_are_counted() -> None:
    column = pa.array([float("nan"), float("inf"), 1e300, -1e300, 5.0, None])
    log = EventLog.read(table().set_column(2, "timestamp", column), time_unit="s")
    assert log.histories().num_events == 1
    assert log.report.rejected == {
        "the time is NaN": 1,
        "the time is out of range (years 1 to 9999)": 3,
        "the time is null": 1,
    }
    far = pa.array([2**63 - 1, -(2**63), 0, 1, 2, 3])
    log = EventLog.read(table().set_column(2, "timestamp", far), time_unit="us")
    assert log.report.rejected == {"the time is out of range (years 1 to 9999)": 2}


def test_order_replaces_time() -> None:
    log = table().drop_columns(["timestamp"]).append_column("position", pa.array(TIMES, pa.int32()))
    histories = EventLog.read(log, order="position").histories()
    assert histories.item.tolist() == [1, 0, 0, 1, 0, 2]
    assert histories.time is None
    assert not histories.has_time
    assert histories.columns["position"].tolist() == [20, 60, 60, 10, 40, 5]
    with pytest.raises(
        DataError, match=r"a temporal split needs the time of every event, but .* only an order"
    ):
        histories.require_time("a temporal split")


def test_order_accompanies_incomplete_time() -> None:
    log = table().set_column(2, "timestamp", pa.array([1, None, 3, 4, 5, 6], pa.timestamp("s")))
    log = log.append_column("position", pa.array(TIMES))
    read = EventLog.read(log, order="position")
    histories = read.histories()
    assert histories.num_events == 6
    assert histories.time is None
    assert read.report.missing_times == 1
    assert histories.columns["partial_time"].tolist()[:3] == [3 * SECOND, SECOND, 6 * SECOND]
    with pytest.raises(DataError, match="1 of its 6 events have none"):
        histories.require_time("a temporal split")


def test_order_with_complete_time_keeps_it() -> None:
    log = table().append_column("position", pa.array([6, 5, 4, 3, 2, 1]))
    histories = EventLog.read(log, order="position").histories()
    assert histories.time is not None
    assert histories.time.tolist()[:3] == [60 * SECOND, 20 * SECOND, 60 * SECOND]


def test_null_order_is_counted() -> None:
    log = table().append_column("position", pa.array([6, 5, None, 3, 2, 1]))
    assert EventLog.read(log, order="position").report.rejected == {
        "the order is null (column 'position')": 1
    }
