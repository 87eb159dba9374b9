"""Ids of every type keep their value and their type."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from chronorec.data import DataError, EventLog
from tests.support.logs import check, table

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
