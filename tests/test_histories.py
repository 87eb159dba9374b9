"""Histories equal a slow grouping in plain Python, and survive the disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec import _core
from chronorec.data import EventLog, FormatError, Histories

Row = tuple[Any, Any, int]


def slow_histories(rows: list[Row]) -> tuple[list[Any], list[Any], list[list[tuple[int, int]]]]:
    """Users and items in order of first appearance; each user's (item code, time), stably sorted by time."""
    users = list(dict.fromkeys(user for user, _, _ in rows))
    items = list(dict.fromkeys(item for _, item, _ in rows))
    histories = [
        sorted(((items.index(item), time) for user, item, time in rows if user == wanted), key=lambda e: e[1])
        for wanted in users
    ]
    return users, items, histories


def as_lists(histories: Histories) -> list[list[tuple[int, int]]]:
    pairs = list(zip(histories.item.tolist(), histories.time.tolist(), strict=True))  # type: ignore[union-attr]
    return [
        pairs[a:b] for a, b in zip(histories.offsets.tolist(), histories.offsets[1:].tolist(), strict=False)
    ]


def log_of(rows: list[Row], cut: int = 10**9) -> pa.Table:
    table = pa.table(
        {
            "user_id": [r[0] for r in rows],
            "item_id": [r[1] for r in rows],
            "timestamp": pa.array([r[2] for r in rows], pa.timestamp("us")),
        }
    )
    return pa.Table.from_batches(table.to_batches(max_chunksize=cut))


ids = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ids, ids, st.integers(-5, 5)), min_size=1, max_size=60), st.integers(1, 70))
def test_equals_slow_grouping(rows: list[Row], cut: int) -> None:
    histories = EventLog.read(log_of(rows, cut)).histories()
    users, items, wanted = slow_histories(rows)
    assert histories.users["user"].to_pylist() == users
    assert histories.items["item"].to_pylist() == items
    assert as_lists(histories) == wanted


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.text(max_size=3), st.integers(-5, 5)), min_size=1, max_size=60
    ),
    st.integers(1, 70),
)
def test_equals_slow_grouping_of_texts(rows: list[Row], cut: int) -> None:
    histories = EventLog.read(log_of(rows, cut)).histories()
    users, items, wanted = slow_histories(rows)
    assert histories.users["user"].to_pylist() == users
    assert histories.items["item"].to_pylist() == items
    assert as_lists(histories) == wanted


def big_log(events: int, users: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": rng.integers(0, users, events) * 7919,
            "item_id": rng.zipf(1.3, events) % 5000,
            "timestamp": pa.array(rng.integers(0, 10**6, events), pa.timestamp("s")),
        }
    )


@pytest.mark.parametrize("users", [1, 3, 700, 60_000])
def test_large_log_equals_numpy(users: int) -> None:
    """Several windows, blocks and partitions; a single user is large enough for the radix sort."""
    table = big_log(400_000, users)
    histories = EventLog.read(table).histories()
    ids, first, codes = np.unique(table["user_id"].to_numpy(), return_index=True, return_inverse=True)
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(first)] = np.arange(len(ids))
    time = table["timestamp"].cast(pa.int64()).to_numpy() * 1_000_000
    order = np.lexsort((time, rank[codes]))
    assert np.array_equal(histories.users["user"].to_numpy(), ids[np.argsort(first)])
    assert np.array_equal(histories.time, time[order])
    items = histories.items["item"].to_numpy()
    assert np.array_equal(items[histories.item], table["item_id"].to_numpy()[order])


def test_does_not_depend_on_thread_count() -> None:
    table = big_log(300_000, 5000)
    before = _core.num_threads()
    hashes = set()
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            hashes.add(EventLog.read(table).histories().content_hash)
    finally:
        _core.set_num_threads(before)
    assert len(hashes) == 1


def test_save_and_open(tmp_path: Path) -> None:
    histories = EventLog.read(big_log(10_000, 100)).histories()
    histories.save(tmp_path / "data")
    opened = Histories.open(tmp_path / "data", verify=True)
    assert opened.content_hash == histories.content_hash
    assert np.array_equal(opened.item, histories.item)
    assert np.array_equal(opened.offsets, histories.offsets)
    assert opened.users.equals(histories.users)
    assert not opened.item.flags.owndata
    opened._content_hash = None
    assert opened.content_hash == histories.content_hash
    opened.save(tmp_path / "data")  # onto itself, while mapped
    assert Histories.open(tmp_path / "data", verify=True).num_events == 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_list_arrays_share_memory() -> None:
    histories = EventLog.read(big_log(1000, 10)).histories()
    lists = histories.as_list_arrays()
    assert lists["item"].values.buffers()[1].address == histories.item.ctypes.data
    assert len(lists["time"]) == histories.num_users


def damage_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "histories.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: (d / "histories.json").unlink(), "has no histories.json"),
        (lambda d: (d / "histories.json").write_text("{"), "damaged"),
        (lambda d: damage_manifest(d, format="other"), "not written by chronorec"),
        (lambda d: damage_manifest(d, format_number=99), "newer"),
        (lambda d: damage_manifest(d, num_items=3), "counts"),
        (lambda d: damage_manifest(d, bytes={}), "damaged"),
        (lambda d: (d / "items.arrow").unlink(), "items.arrow is missing"),
        (lambda d: (d / "events.arrow").write_bytes((d / "events.arrow").read_bytes()[:-100]), "bytes"),
        (lambda d: (d / "events.arrow").write_bytes(bytes((d / "events.arrow").stat().st_size)), "damaged"),
    ],
)
def test_damaged_folder_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    folder = tmp_path / "data"
    EventLog.read(big_log(1000, 10)).histories().save(folder)
    change(folder)
    with pytest.raises(FormatError, match=reason):
        Histories.open(folder)


def test_changed_bytes_are_found_by_verify(tmp_path: Path) -> None:
    EventLog.read(big_log(1000, 10)).histories().save(tmp_path / "data")
    path = tmp_path / "data" / "events.arrow"
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="content differs"):
        Histories.open(tmp_path / "data", verify=True)


def test_interruption_is_heard() -> None:
    """Ctrl-C during the grouping of one huge user, which is a single task."""
    count = 6_000_000
    key = np.random.default_rng(0).integers(-(2**62), 2**62, count)
    arrays = [np.empty(2, np.int64), np.empty(count, np.int64), None, None, np.empty(1, np.int64)]
    user = np.zeros(count, np.int32)

    def group_again_and_again() -> None:
        for _ in range(100):
            _core.group_events(user, key, None, *arrays)

    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        group_again_and_again()


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.float32, np.int64, np.float64])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_gather(kind: type, index: type) -> None:
    values = np.arange(100_000).astype(kind)
    order = np.random.default_rng(0).permutation(100_000).astype(index)
    output = np.empty(100_000, kind)
    _core.gather_events(values, order, output)
    assert np.array_equal(output, values[order])


def test_core_refuses_what_does_not_fit() -> None:
    one, codes = np.zeros(1, np.int64), np.array([0, 3, 1], np.int32)
    with pytest.raises(ValueError, match=r"user: wanted codes in \[0, 2\)"):
        _core.group_events(codes, None, None, np.empty(3, np.int64), None, None, np.empty(3, np.int32), one)
    with pytest.raises(ValueError, match=r"order: wanted positions in \[0, 2\)"):
        _core.gather_events(np.zeros(2), codes, np.empty(3))
    with pytest.raises(ValueError, match="codes: wanted codes inside counts"):
        _core.count_codes(codes, np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="keys: wanted int64, got int32"):
        _core.IntEncoder().encode(codes, codes.copy(), True)
    with pytest.raises(ValueError, match="offsets: wanted ascending offsets inside data"):
        _core.TextEncoder().encode(np.array([0, 9]), np.zeros(3, np.uint8), codes[:1].copy(), True)


def test_encoders_look_up_without_inserting() -> None:
    encoder, codes = _core.IntEncoder(), np.empty(3, np.int32)
    encoder.encode(np.array([5, 6, 5]), codes, True)
    encoder.encode(np.array([6, 7, 5]), codes, False)
    assert codes.tolist() == [1, -1, 0]
    assert len(encoder) == 2


def refusal_of(use: Callable[[], object]) -> list[str]:
    try:
        use()
    except RuntimeError as error:
        return [str(error)]
    return []


def test_an_encoder_refuses_a_second_thread() -> None:
    encoder, refused = _core.IntEncoder(), []
    keys = np.arange(3_000_000)[::-1].copy()
    encoding = threading.Thread(target=lambda: encoder.encode(keys, np.empty(len(keys), np.int32), True))
    encoding.start()
    while encoding.is_alive():
        for use in (
            lambda: len(encoder),
            lambda: encoder.copy_keys(np.empty(0, np.int64)),
            lambda: encoder.encode(keys[:1], np.empty(1, np.int32), True),
        ):
            with suppress(ValueError):  # of a size: came before or after the other thread
                refused += refusal_of(use)
    assert set(refused) == {"encoder is in use by another thread"}
    assert len(encoder) == len(keys)


def test_text_encoder_in_two_threads() -> None:
    encoder = _core.TextEncoder()
    texts = np.arange(400_000, dtype=np.int64)
    offsets, data = np.arange(0, 8 * len(texts) + 1, 8), texts.view(np.uint8)
    refused = []

    def encode() -> None:
        for start in range(0, len(texts), 20_000):
            ends, codes = offsets[start : start + 20_001], np.empty(20_000, np.int32)
            refused.extend(refusal_of(lambda e=ends, c=codes: encoder.encode(e, data, c, True)))  # type: ignore[misc]

    threads = [threading.Thread(target=encode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) <= {"encoder is in use by another thread"}
    assert encoder.num_bytes == 8 * len(encoder)


@pytest.mark.parametrize("kind", ["IntEncoder", "TextEncoder"])
def test_an_encoder_outlives_the_end_of_memory(kind: str) -> None:
    """What it held before stays right, and it goes on once there is memory again."""
    code = f"""
import resource, numpy as np
from chronorec import _core
encoder, keys, text = _core.{kind}(), np.arange(600_000) * 7, "{kind}" == "TextEncoder"
ends, codes = np.arange(0, 8 * len(keys) + 1, 8), np.empty(len(keys), np.int32)
def encode(count, insert):
    given = (ends[: count + 1], keys[:count].view(np.uint8)) if text else (keys[:count],)
    encoder.encode(*given, codes[:count], insert)
_core.set_num_threads(1)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
failures, room = 0, 1 << 20
while len(encoder) < len(keys):
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
    try: encode(len(keys), True)
    except MemoryError: failures += 1
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    known = len(encoder)
    encode(known, False)
    assert (codes[:known] == np.arange(known)).all()
    assert not text or encoder.num_bytes == 8 * known
    room += 2 << 20
assert failures > 3, failures
"""
    subprocess.run([sys.executable, "-c", code], check=True)
