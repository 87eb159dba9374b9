"""Every way into an event log gives the same histories, and what cannot be read is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from chronorec.data import DataError, EventLog
from tests.support.logs import check, table


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
