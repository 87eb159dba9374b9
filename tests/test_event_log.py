"""Every way into an event log gives the same histories, and bad input is refused or counted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from chronorec.data import DataError, EventLog, Histories

USERS = [30, 10, 30, 20, 10, 30]
ITEMS = ["bread", "milk", "milk", "tea", "bread", "bread"]
TIMES = [60, 10, 20, 5, 40, 60]  # seconds
SECOND = 1_000_000


def table() -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array(USERS, pa.int64()),
            "item_id": ITEMS,
            "timestamp": pa.array(TIMES, pa.timestamp("s")),
        }
    )


def check(histories: Histories) -> None:
    assert histories.users["user"].to_pylist() == [30, 10, 20]
    assert histories.items["item"].to_pylist() == ["bread", "milk", "tea"]
    assert histories.offsets.tolist() == [0, 3, 5, 6]
    assert histories.item.tolist() == [1, 0, 0, 1, 0, 2]
    assert histories.time is not None
    assert histories.time.tolist() == [t * SECOND for t in (20, 60, 60, 10, 40, 5)]


# ---- every source ----------------------------------------------------------------------------------------


def pandas_frame(text: Any) -> pd.DataFrame:
    frame = table().to_pandas()
    frame["item_id"] = frame["item_id"].astype(text)
    return frame


SOURCES: dict[str, Callable[[], Any]] = {
    "table": table,
    "chunked table": lambda: pa.Table.from_batches(table().to_batches(max_chunksize=2)),
    "record batch": lambda: table().to_batches()[0],
    "reader": lambda: table().to_reader(),
    "polars": lambda: pl.from_arrow(table()),
    "polars categorical": lambda: pl.DataFrame(pl.from_arrow(table())).with_columns(
        pl.col("item_id").cast(pl.Categorical)
    ),
    "pandas strings": lambda: pandas_frame("string[pyarrow]"),
    "pandas objects": lambda: pandas_frame(object),
    "pandas categories": lambda: pandas_frame("category"),
    "duckdb": lambda: duckdb.from_arrow(table()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    check(EventLog.read(SOURCES[name]()).histories())


def write_csv(path: Path) -> None:
    pyarrow.csv.write_csv(table(), path)


def write_csv_gz(path: Path) -> None:
    raw = path.with_suffix(".tmp")
    write_csv(raw)
    path.write_bytes(gzip.compress(raw.read_bytes()))
    raw.unlink()


def write_ipc(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table())


def write_folder(path: Path) -> None:
    path.mkdir()
    pa.parquet.write_table(table()[:2], path / "part-0.parquet")
    pa.parquet.write_table(table()[2:], path / "part-1.parquet")
    (path / "_SUCCESS").touch()


def write_hive(path: Path) -> None:
    whole = table()
    for year, rows in (("2020", whole[:2]), ("2021", whole[2:])):
        for user in dict.fromkeys(rows["user_id"].to_pylist()):
            folder = path / f"year={year}"
            folder.mkdir(parents=True, exist_ok=True)
            chosen = rows.filter(pa.compute.equal(rows["user_id"], user))
            pa.parquet.write_table(chosen, folder / f"{user}.parquet")


FILES: dict[str, Callable[[Path], None]] = {
    "log.parquet": lambda path: pa.parquet.write_table(table(), path),
    "log.csv": write_csv,
    "log.csv.gz": write_csv_gz,
    "log.arrow": write_ipc,
    "log.arrows": write_stream,
    "log.feather": lambda path: pa.feather.write_feather(table(), str(path)),
    "folder": write_folder,
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    check(EventLog.read(tmp_path / name).histories())
    check(EventLog.read(str(tmp_path / name)).histories())


def test_hive_partitions(tmp_path: Path) -> None:
    write_hive(tmp_path / "log")
    histories = EventLog.read(tmp_path / "log", session="year").histories()
    assert histories.num_events == 6
    assert sorted(histories.users["user"].to_pylist()) == [10, 20, 30]
    assert histories.sessions.to_pylist() == [2020, 2021]


def test_partition_column_as_user(tmp_path: Path) -> None:
    for user in (3, 1):
        folder = tmp_path / f"user_id={user}"
        folder.mkdir()
        rows = pa.table({"item_id": [7, 8], "timestamp": pa.array([2, 1], pa.timestamp("s"))})
        pa.parquet.write_table(rows, folder / "a.parquet")
    histories = EventLog.read(tmp_path).histories()
    assert histories.users["user"].to_pylist() == [1, 3]
    assert histories.item.tolist() == [1, 0, 1, 0]


# ---- every type of id ------------------------------------------------------------------------------------

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integer_ids(kind: pa.DataType) -> None:
    unsigned = pa.types.is_unsigned_integer(kind)
    low, high = (
        (0, 2**kind.bit_width - 1)
        if unsigned
        else (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
    )
    ids = pa.array([high, low, high, 5], kind)
    log = pa.table({"user_id": ids, "item_id": ids, "timestamp": pa.array([1, 2, 3, 4], pa.timestamp("s"))})
    histories = EventLog.read(log).histories()
    assert histories.users["user"].type == kind
    assert histories.users["user"].to_pylist() == [high, low, 5]
    assert histories.items["item"].to_pylist() == [high, low, 5]
    assert histories.offsets.tolist() == [0, 2, 3, 4]


TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint32(), pa.large_string()),
]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_ids(kind: pa.DataType) -> None:
    values = ["", "a longer text than twelve bytes", "ü", "", "a longer text than twelve byteS"]
    ids = pa.array(values).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(values, kind)
    padded = pa.concat_arrays([ids[:1], ids]).slice(1)  # a slice with an offset
    log = pa.table({"user_id": padded, "item_id": padded, "timestamp": pa.array([1] * 5, pa.timestamp("s"))})
    histories = EventLog.read(log).histories()
    assert histories.users["user"].to_pylist() == list(dict.fromkeys(values))
    assert histories.users["user"].type == pa.string()


def test_dictionaries_that_differ_between_chunks() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    time = pa.array([1, 2], pa.timestamp("s"))
    chunks = [
        pa.record_batch({"user_id": pa.array(pair, kind), "item_id": [1, 1], "timestamp": time})
        for pair in (["b", "a"], ["a", "c"])
    ]
    histories = EventLog.read(pa.Table.from_batches(chunks)).histories()
    assert histories.users["user"].to_pylist() == ["b", "a", "c"]
    assert histories.offsets.tolist() == [0, 1, 3, 4]


def test_integer_dictionary() -> None:
    log = table().set_column(0, "user_id", table()["user_id"].dictionary_encode())
    check(EventLog.read(log).histories())


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_(), pa.list_(pa.int32()), pa.binary()], ids=str)
def test_other_ids_are_refused(kind: pa.DataType) -> None:
    log = table().set_column(0, "user_id", pa.nulls(6, kind))
    with pytest.raises(DataError, match="user_id: wanted ids as integers, strings"):
        EventLog.read(log)


# ---- every kind of time ----------------------------------------------------------------------------------

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


# ---- order column ----------------------------------------------------------------------------------------


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


# ---- optional columns ------------------------------------------------------------------------------------


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


# ---- bad input -------------------------------------------------------------------------------------------


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


def test_null_inside_a_dictionary() -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["a", None]))
    log = pa.table({"user_id": ids, "item_id": ids, "timestamp": pa.array([1, 2, 3], pa.timestamp("s"))})
    read = EventLog.read(log)
    assert read.histories().num_events == 2
    assert read.report.rejected == {"the user is null (column 'user_id')": 1}


def test_views_and_categories_with_nulls() -> None:
    frame = pl.DataFrame({"user_id": ["a", None, "b"], "item_id": ["x", "y", None], "timestamp": [1, 2, 3]})
    categories = frame.with_columns(pl.col("user_id", "item_id").cast(pl.Categorical))
    for log in (frame, categories, frame.to_pandas()):
        read = EventLog.read(log, time_unit="s")
        assert read.histories().users["user"].to_pylist() == ["a"]
        assert sum(read.report.rejected.values()) == 2


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


@pytest.mark.parametrize("name", [name for name in FILES if name != "folder"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    rows = 20_000
    path = tmp_path / name
    big = pa.concat_tables([table()] * (rows // 6)).combine_chunks()
    writers: dict[str, Callable[[], Any]] = {
        "log.parquet": lambda: pa.parquet.write_table(big, path),
        "log.csv": lambda: pyarrow.csv.write_csv(big, path),
        "log.csv.gz": lambda: pyarrow.csv.write_csv(big, pa.CompressedOutputStream(str(path), "gzip")),
        "log.feather": lambda: pa.feather.write_feather(big, str(path)),
    }
    if name in writers:
        writers[name]()
    else:
        new = pa.ipc.new_file if name == "log.arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, new(file, big.schema) as writer:
            writer.write_table(big)
    raw = path.read_bytes()
    cut = raw.rindex(b",") if name == "log.csv" else len(raw) // 2
    path.write_bytes(raw[:cut])
    with pytest.raises(DataError, match="cannot be read"):
        EventLog.read(path).histories()


def test_unusable_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        EventLog.read(tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match="holds no files"):
        EventLog.read(tmp_path)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match="is an empty file"):
        EventLog.read(tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(DataError, match="wanted a name that ends in"):
        EventLog.read(tmp_path / "b.txt")
    with pytest.raises(DataError, match="wanted files of one format"):
        EventLog.read(tmp_path)
    with pytest.raises(DataError, match="got list"):
        EventLog.read([1, 2])
    with pytest.raises(DataError, match="timezone: wanted a zone"):
        EventLog.read(table(), timezone="Mars/Olympus")


def test_csv_whose_types_change_late(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},{i % 5},{i}\n" for i in range(1_200_000))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows + "x1,2,1200000\n")
    histories = EventLog.read(tmp_path / "log.csv", time_unit="s").histories()
    assert histories.users["user"].to_pylist() == ["0", "1", "2", "3", "4", "5", "6", "x1"]


def write_text(path: Path, rows: list[tuple[str, str]]) -> Path:
    text = "user_id,item_id,timestamp\n" + "".join(f"{a},{b},2020-01-01\n" for a, b in rows)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("folder", [False, True])
def test_csv_ids_lose_nothing(tmp_path: Path, folder: bool) -> None:
    path = write_text(tmp_path / "logs/log.csv", [("007", "-5"), ("7", "0"), ("", "1"), ("7", "-5")])
    log = EventLog.read(path.parent if folder else path)
    assert log.histories().users["user"].to_pylist() == ["007", "7"]
    assert log.histories().items["item"].to_pylist() == [-5, 0]
    assert log.report.rejected == {"the user is null (column 'user_id')": 1}
    assert log.report.notes == [
        "the ids in column 'user_id' were read as text, such as '007'",
        "the ids in column 'item_id' are all integers and were read as such",
    ]


@pytest.mark.parametrize("odd", ["+7", " 7", "7 ", "-0", "1.0", "9223372036854775808", "1e3", "NA", "00"])
def test_csv_ids_that_are_no_plain_integers_stay_text(tmp_path: Path, odd: str) -> None:
    histories = EventLog.read(write_text(tmp_path / "log.csv", [("1", "1"), (odd, "1")])).histories()
    assert histories.users["user"].to_pylist() == ["1", odd]


def test_csv_features_of_integer_ids(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n007,padded\n7,plain\n")
    time = pa.array([1, 2], pa.timestamp("s"))
    log = EventLog.read(pa.table({"user_id": [1, 1], "item_id": [7, 8], "timestamp": time}))
    assert log.histories(items=tmp_path / "items.csv").items["title"].to_pylist() == ["plain", None]
    assert "1 rows of the item table belong to no item of the log (left out)" in log.report.notes


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
