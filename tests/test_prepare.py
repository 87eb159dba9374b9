"""Prepared folders: larger than memory, appended to, replaced in one step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec.data import DataError, EventLog, Histories, prepare
from chronorec.data.out_of_core import parse_bytes, partition_bounds

COLUMNS = {"session": "basket", "value": "price", "event_type": "kind"}


def log_of(events: int, users: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": rng.zipf(1.4, events) % users,
            "item_id": [f"item {i}" for i in rng.integers(0, 300, events)],
            "timestamp": pa.array(rng.integers(0, 1000, events), pa.timestamp("s")),
            "basket": rng.integers(0, 40, events),
            "price": rng.normal(size=events),
            "kind": rng.choice(["view", "buy"], events),
        }
    )


def before(log: pa.Table, second: int) -> tuple[pa.Table, pa.Table]:
    early = pc.less(log["timestamp"], pa.scalar(second, pa.timestamp("s")))
    return log.filter(early), log.filter(pc.invert(early))


def test_prepare_equals_histories(tmp_path: Path) -> None:
    report = prepare(log_of(5000, 100), tmp_path / "data", **COLUMNS)
    wanted = EventLog.read(log_of(5000, 100), **COLUMNS)
    assert report.content_hash == wanted.histories().content_hash
    assert report.log.as_dict() == wanted.report.as_dict()
    assert "5,000 events of 100 users on 300 items" in str(report)
    assert str(tmp_path / "data") in str(report)
    opened = Histories.open(tmp_path / "data", verify=True)
    assert opened.event_types == ("view", "buy") or opened.event_types == ("buy", "view")
    assert opened.sessions.to_pylist() == wanted.histories().sessions.to_pylist()
    assert opened.provenance["columns"]["session"] == "basket"


@pytest.mark.parametrize("memory", ["20K", "150K", "2G"])
def test_larger_than_memory_is_identical(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronorec.data.sources.ROWS_PER_PIECE", 777)
    monkeypatch.setattr("chronorec.data.out_of_core.ROWS_PER_PIECE", 1234)
    log = log_of(10_000, 500)
    whole = prepare(log, tmp_path / "whole", **COLUMNS)
    parts = prepare(log, tmp_path / "parts", memory=memory, **COLUMNS)
    assert parts.content_hash == whole.content_hash
    assert parts.log.as_dict() == whole.log.as_dict()
    Histories.open(tmp_path / "parts", verify=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_partition_bounds(lengths: list[int], rows: int) -> None:
    bounds = partition_bounds(np.cumsum([0, *lengths]), rows)
    assert bounds[0] == 0
    assert bounds[-1] == len(lengths)
    for a, b in itertools.pairwise(bounds):
        assert a < b
        assert b == a + 1 or sum(lengths[a:b]) <= rows


@pytest.mark.parametrize("memory", [None, "50K"])
def test_append_equals_all_at_once(tmp_path: Path, memory: str | None) -> None:
    old, new = before(log_of(8000, 300), 600)
    whole = prepare(pa.concat_tables([old, new]), tmp_path / "whole", **COLUMNS)
    first = prepare(old, tmp_path / "data", **COLUMNS)
    users = Histories.open(tmp_path / "data").users["user"].to_pylist()
    report = prepare(new, tmp_path / "data", append=True, memory=memory, **COLUMNS)
    assert report.content_hash == whole.content_hash != first.content_hash
    assert report.log.notes == [f"appended to {old.num_rows:,} events"]
    opened = Histories.open(tmp_path / "data", verify=True)
    assert opened.users["user"].to_pylist()[: len(users)] == users
    assert opened.provenance["appended_to"]["source"] == "Arrow table"


def test_append_of_older_events_is_reported(tmp_path: Path) -> None:
    time = pa.array([10, 20], pa.timestamp("s"))
    prepare(pa.table({"user_id": [1, 2], "item_id": [1, 2], "timestamp": time}), tmp_path / "data")
    late = pa.table(
        {"user_id": [2, 1, 3], "item_id": [3, 3, 1], "timestamp": pa.array([15, 10, 1], time.type)}
    )
    report = prepare(late, tmp_path / "data", append=True)
    assert "1 of the new ones are older" in report.log.notes[0]
    histories = Histories.open(tmp_path / "data")
    assert histories.offsets.tolist() == [0, 2, 4, 5]
    assert histories.item.tolist() == [0, 2, 2, 1, 0]  # a tie comes after what was there


def test_append_keeps_features(tmp_path: Path) -> None:
    time = pa.array([10, 20], pa.timestamp("s"))
    titles = pa.table({"item_id": [1, 2], "title": ["one", "two"]})
    log = pa.table({"user_id": [1, 2], "item_id": [1, 2], "timestamp": time})
    prepare(log, tmp_path / "data", items=titles)
    prepare(
        pa.table({"user_id": [1, 2], "item_id": [5, 2], "timestamp": time}), tmp_path / "data", append=True
    )
    assert Histories.open(tmp_path / "data").items["title"].to_pylist() == ["one", "two", None]
    more = pa.table({"item_id": [5, 1, 2], "title": ["five", "1", "2"]})
    prepare(log, tmp_path / "data", append=True, items=more)
    assert Histories.open(tmp_path / "data").items["title"].to_pylist() == ["1", "2", "five"]


def test_append_continues_incomplete_times(tmp_path: Path) -> None:
    def log(start: int, times: list[int | None]) -> pa.Table:
        columns = {
            "user_id": [1] * len(times),
            "item_id": range(len(times)),
            "timestamp": pa.array(times, pa.timestamp("s")),
        }
        return pa.table({**columns, "position": range(start, start + len(times))})

    prepare(log(0, [1, 2]), tmp_path / "data", order="position")
    report = prepare(log(2, [None, 4]), tmp_path / "data", order="position", append=True)
    both = pa.concat_tables([log(0, [1, 2]), log(2, [None, 4])])
    assert report.content_hash == EventLog.read(both, order="position").histories().content_hash
    report = prepare(log(4, [5]), tmp_path / "data", order="position", append=True)
    assert report.log.missing_times == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda log: log.drop_columns(["timestamp"]), "time: no column 'timestamp'"),
        (lambda log: log.set_column(0, "user_id", pa.array(["a", "b"])), "user_id: wanted ids of type int64"),
        (
            lambda log: log.set_column(0, "user_id", pa.array([2**63, 1], pa.uint64())),
            "user_id: wanted ids of type int64",
        ),
    ],
)
def test_append_of_another_kind_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    log = pa.table({"user_id": [1, 2], "item_id": [1, 2], "timestamp": pa.array([10, 20], pa.timestamp("s"))})
    first = prepare(log, tmp_path / "data")
    with pytest.raises(DataError, match=reason):
        prepare(change(log), tmp_path / "data", append=True)
    assert Histories.open(tmp_path / "data", verify=True).content_hash == first.content_hash


def test_append_needs_the_same_columns_and_a_data_set(tmp_path: Path) -> None:
    old, new = before(log_of(100, 10), 600)
    with pytest.raises(DataError, match="no prepared data set to append to"):
        prepare(old, tmp_path / "data", append=True)
    prepare(old, tmp_path / "data", value="price")
    with pytest.raises(DataError, match="wanted the columns of the data set; it has in addition: session"):
        prepare(new, tmp_path / "data", append=True, session="basket")


def test_what_is_no_data_set_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match=r"other files, such as 'photo.jpg'"):
        prepare(log_of(100, 10), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_failure_leaves_the_old_data_set(tmp_path: Path) -> None:
    report = prepare(log_of(100, 10), tmp_path / "data")
    with pytest.raises(DataError, match="the log is empty"):
        prepare(log_of(100, 10)[:0], tmp_path / "data")
    assert Histories.open(tmp_path / "data", verify=True).content_hash == report.content_hash
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_parse_bytes() -> None:
    assert [parse_bytes(t) for t in ("2G", "500 MB", "1.5GiB", 4096)] == [2**31, 500 * 2**20, 3 * 2**29, 4096]
    for wrong in ("", "G", "2X", "-1", 0):
        with pytest.raises(DataError, match="memory: wanted a size"):
            parse_bytes(wrong)


def test_append_takes_columns_unit_and_zone_from_the_data_set(tmp_path: Path) -> None:
    def log(start: int) -> pa.Table:
        return pa.table({"who": [1, 2], "what": [3, 4], "when": [start, start + 1], "paid": [1.0, 2.0]})

    names = {"user": "who", "item": "what", "time": "when", "value": "paid", "time_unit": "s"}
    prepare(log(10**9), tmp_path / "data", timezone="Europe/Berlin", **names)
    prepare(log(10**9 + 5), tmp_path / "data", append=True)
    moved = log(10**9 + 9).rename_columns(["who", "what", "at", "paid"])
    moved = moved.set_column(2, "at", pa.array([10**9 + 9] * 2, pa.timestamp("s")))
    prepare(moved, tmp_path / "data", append=True, time="at")  # a timestamp needs no unit
    histories = Histories.open(tmp_path / "data", verify=True)
    assert (histories.time // 10**6 - 10**9).tolist() == [0, 5, 9, 1, 6, 9]
    assert histories.columns["value"].tolist() == [1, 1, 1, 2, 2, 2]
    assert histories.timezone == "Europe/Berlin"
    with pytest.raises(DataError, match="timezone: wanted 'Europe/Berlin' like the data set, got 'UTC'"):
        prepare(log(10**9 + 20), tmp_path / "data", append=True, timezone="UTC", time="when")


def test_append_of_csv_ids(tmp_path: Path) -> None:
    def csv(name: str, *users: str) -> Path:
        rows = "".join(f"{user},{i},2020-01-0{i + 1}\n" for i, user in enumerate(users))
        (tmp_path / name).write_text("user_id,item_id,timestamp\n" + rows)
        return tmp_path / name

    prepare(csv("a.csv", "7", "8"), tmp_path / "numbers")
    prepare(csv("b.csv", "9", "7"), tmp_path / "numbers", append=True)
    assert Histories.open(tmp_path / "numbers", verify=True).users["user"].to_pylist() == [7, 8, 9]
    with pytest.raises(DataError, match="user_id: wanted ids of type int64 like those before, got '007'"):
        prepare(csv("c.csv", "9", "007"), tmp_path / "numbers", append=True)
    prepare(csv("d.csv", "007", "7"), tmp_path / "texts")
    report = prepare(csv("e.csv", "9", "7"), tmp_path / "texts", append=True)
    assert "the ids in column 'user_id' were read as text, like those before" in report.log.notes
    assert Histories.open(tmp_path / "texts", verify=True).users["user"].to_pylist() == ["007", "7", "9"]
