"""Optional columns, feature tables, and bad input, which is refused or counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from chronorec.data import DataError, EventLog
from tests.support.logs import table


def test_optional_columns() -> None:
    log = table().append_column("event", pa.array(["view", "buy", None, "view", "buy", "cart"]))
    log = log.append_column("price", pa.array([1, 2, 3, None, 5, 6], pa.int16()))
    log = log.append_column("basket", pa.array(["x", "y", "x", "z", None, "x"]))
    log = log.append_column("lat", pa.array([1.5, 2, 91, 4, 5, None]))
    log = log.append_column("lon", pa.array([1.0, 2, 3, 4, 5, 6]))
    read = EventLog.read(
        log, event_type="event", value="price", session="basket", latitude="lat", longitude="lon"
    )
    histories = read.histories()
    assert read.report.rejected == {"the latitude is outside -90 to 90": 1}
    columns = histories.columns
    assert {name: values.dtype.name for name, values in columns.items()} == {
        "value": "float32",
        "latitude": "float64",
        "longitude": "float64",
        "session": "int64",
        "event_type": "int32",
    }
    assert histories.event_types == ("view", "buy", "cart")
    assert columns["event_type"].tolist() == [0, 2, 1, 1, 0]
    assert np.array_equal(columns["value"], [1, 6, 2, 5, np.nan], equal_nan=True)
    assert histories.sessions.to_pylist() == ["x", "y", "z"]
    assert columns["session"].tolist() == [0, 0, 1, -1, 2]
    assert np.array_equal(columns["latitude"], [1.5, np.nan, 2, 5, 4], equal_nan=True)
    with pytest.raises(DataError, match="wanted both or neither"):
        EventLog.read(log, latitude="lat")
    with pytest.raises(DataError, match="value: wanted numbers"):
        EventLog.read(log, value="basket").histories()


def test_feature_tables() -> None:
    items = pa.table({"item_id": ["tea", "milk", "rum"], "title": ["Tea", "Milk", "Rum"]})
    users = pl.DataFrame({"user": pl.Series([10, 20, 30], dtype=pl.Int32), "age": [1, 2, 3]})
    log = EventLog.read(table())
    histories = log.histories(items=items, users=users)
    assert histories.items.to_pylist() == [
        {"item": "bread", "title": None},
        {"item": "milk", "title": "Milk"},
        {"item": "tea", "title": "Tea"},
    ]
    assert histories.users["age"].to_pylist() == [3, 1, 2]
    assert log.report.notes == [
        "1 items of the log are not in the item table (their features are null)",
        "1 rows of the item table belong to no item of the log (left out)",
    ]


def test_bad_feature_tables() -> None:
    def items(**columns: Any) -> None:
        EventLog.read(table()).histories(items=pa.table(columns))

    with pytest.raises(DataError, match="1 ids appear more than once, such as 'tea'"):
        items(item_id=["tea", "tea"])
    with pytest.raises(DataError, match=r"items: no column 'item_id'; did you mean 'itemid'\?"):
        items(itemid=["tea"])
    with pytest.raises(DataError, match="1 ids in column 'item_id' are null"):
        items(item_id=["tea", None])
    with pytest.raises(DataError, match="are taken"):
        items(item_id=["tea"], offset=[1])


def test_missing_columns_name_the_nearest() -> None:
    with pytest.raises(DataError, match=r"user: no column 'userid'; did you mean 'user_id'\?"):
        EventLog.read(table(), user="userid")
    with pytest.raises(DataError, match=r"item: no column 'item_id'; did you mean 'ItemID'\?"):
        EventLog.read(table().rename_columns(["user_id", "ItemID", "timestamp"]))
    with pytest.raises(DataError, match="name the column that holds the time"):
        EventLog.read(table().drop_columns(["timestamp"]))
    with pytest.raises(DataError, match="appears 2 times"):
        EventLog.read(table().append_column("user_id", table()["user_id"]))


def test_nulls_are_counted_and_give_no_code() -> None:
    log = pa.table(
        {
            "user_id": pa.array([None, 1, 2, 3, None], pa.int64()),
            "item_id": pa.array(["a", None, "b", "c", None]),
            "timestamp": pa.array([1, 2, None, 4, None], pa.timestamp("s")),
        }
    )
    read = EventLog.read(log)
    histories = read.histories()
    assert histories.users["user"].to_pylist() == [3]
    assert histories.items["item"].to_pylist() == ["c"]
    assert read.report.rows == 5
    assert read.report.rejected == {
        "the user is null (column 'user_id')": 2,
        "the item is null (column 'item_id')": 1,
        "the time is null": 1,
    }
    text = str(read.report)
    assert "4 of 5 rows rejected" in text
    assert "2: the user is null" in text


def test_empty_and_useless_logs_are_refused() -> None:
    with pytest.raises(DataError, match="the log is empty"):
        EventLog.read(table()[:0]).histories()
    with pytest.raises(DataError, match=r"(?s)no usable row.*6: the user is null"):
        EventLog.read(table().set_column(0, "user_id", pa.nulls(6, pa.int64()))).histories()


def test_remarkable_things_are_reported() -> None:
    log = EventLog.read(table())
    report = log.report
    assert (report.out_of_order, report.exact_duplicates) == (1, 1)
    assert (report.users_with_one_event, report.items_seen_once) == (1, 1)
    assert log.histories().num_events == 6
    for sentence in ("1 events out of order", "1 exact duplicates (kept", "1 users with one event"):
        assert sentence in str(report)


def test_duplicates_differ_in_any_column() -> None:
    log = table().append_column("price", pa.array([1.0, 1, 1, 1, 1, 2]))
    assert EventLog.read(log, value="price").report.exact_duplicates == 0
    log = table().append_column("price", pa.array([1.0, 1, 1, 1, 1, 1]))
    assert EventLog.read(log, value="price").report.exact_duplicates == 1


def test_missing_and_infinite_numbers_are_counted() -> None:
    inf, nan = float("inf"), float("nan")
    log = EventLog.read(
        pa.table(
            {
                "user_id": [1] * 7,
                "item_id": list(range(7)),
                "timestamp": pa.array(range(7), pa.timestamp("s")),
                "value": [1.0, None, nan, inf, -inf, 1e300, 2.0],
                "lat": [1.0, 1.0, None, 1.0, 1.0, 1.0, inf],
                "lon": [1.0, nan, None, 1.0, 1.0, 1.0, 1.0],
            }
        ),
        value="value",
        latitude="lat",
        longitude="lon",
    )
    report = log.report
    assert log.histories().item.tolist() == [0, 1, 2]
    assert (report.missing_values, report.missing_places) == (2, 2)
    assert report.rejected == {
        "the value is infinite or beyond float32": 3,
        "the latitude is outside -90 to 90": 1,
    }
    assert "2 events without a value (null or NaN; kept)" in str(report)
    assert "2 events without latitude or longitude (null or NaN; kept)" in str(report)
