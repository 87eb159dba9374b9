"""Sessions: the same answers as from whole histories, whatever happened in between; bounded memory."""

from __future__ import annotations

import datetime
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec.data.profile import Profile, ProfileColumn
from chronorec.engine import Engine, Rules, Sessions
from chronorec.engine.live_model import LiveModel
from chronorec.models import HSTU, GRU4Rec, LogBilinear, PersonalFrequency, SASRec, SequenceModel
from tests.support.logs import cycle_log, histories_of

ITEMS = 40
MICROS = 1_000_000


#: Those of the first group keep a state from event to event.
STREAMING: dict[str, tuple[type[SequenceModel], dict[str, Any]]] = {
    "gru": (GRU4Rec, {"hidden_size": 24, "layers": 2}),
    "lstm": (GRU4Rec, {"hidden_size": 17, "cell": "lstm", "tied": False, "time_features": True}),
    "rnn": (GRU4Rec, {"cell": "rnn", "request_time": True, "timezone": "America/New_York"}),
    "time gate": (GRU4Rec, {"hidden_size": 17, "time_gate": True, "request_time": True}),
    "sasrec": (SASRec, {"position": "relative", "block": "ligr", "max_length": 5}),
    "sasrec with times": (
        SASRec,
        {"position": "relative", "max_length": 4, "time_features": True, "request_time": True},
    ),
    "gru with types": (GRU4Rec, {"hidden_size": 17, "event_types": 2}),
    "hstu with types": (HSTU, {"max_length": 3, "event_types": 2}),
    "gru with a profile": (GRU4Rec, {"profile": [2, 3], "request_time": True}),
    "hstu": (HSTU, {"max_length": 5, "time_bias": False}),
    "hstu with times": (HSTU, {"max_length": 3, "blocks": 3}),
    "log-bilinear": (LogBilinear, {"time_features": True, "request_time": True}),
}
OTHERS: dict[str, tuple[type[SequenceModel], dict[str, Any]]] = {
    "absolute": (SASRec, {"max_length": 5}),
    "absolute with types": (SASRec, {"max_length": 5, "event_types": 2, "profile": [2, 3]}),
}
TYPES = ["view", "buy"]
PROFILE = Profile([ProfileColumn("sex", values=["f", "m"]), ProfileColumn("age", boundaries=[20.0, 50.0])])
PROFILES: list[dict[str, Any] | None] = [None, {"sex": "m"}, {"age": 50, "sex": "f", "hat": "red"}]
TOLD = [None, "view", "buy", "wish"]  # the last one is unknown


def make_engine(kind: str, seed: int = 0) -> Engine:
    torch.manual_seed(seed)
    histories = histories_of(cycle_log(items=ITEMS, events=30))
    if kind == "frequency":
        end = histories.offsets[1:]
        return Engine(PersonalFrequency(1.0).fit(histories, end, basket=False, exclude_seen=False))
    model, options = (STREAMING | OTHERS)[kind]
    built = model(histories.num_items, width=16, **options).eval()
    with torch.no_grad():  # make every weight matter
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    types = TYPES[: options.get("event_types", 0)]
    profile = PROFILE.to_plain() if "profile" in options else []
    return Engine(built.export(histories.items, event_types=types, profile=profile))


ENGINES = {kind: make_engine(kind) for kind in (*STREAMING, *OTHERS, "frequency")}
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),  # user
        st.integers(0, ITEMS),  # item; the last one is unknown
        st.integers(0, 20),  # time
        st.sampled_from(["append", "recommend", "past", "forget"]),
        st.sampled_from(TOLD),
    ),
    max_size=60,
)


def expected(engine: Engine, events: list[tuple[int, str, str | None]], at: int, **how: Any) -> Any:
    events = sorted((e for e in events if e[0] < at), key=lambda e: e[0])
    times, items, types = zip(*events, strict=True) if events else ((), (), ())
    return engine.recommend(items, times=times, events=types, at=at, **how)


def tell(engine: Engine, event: tuple[int, str, str | None], events: list[Any]) -> None:
    """Adds an event as sessions do: an item at a time is one event, unless types are known to differ."""
    at, item, kind = event
    kind = kind if kind in TYPES else None
    for place in reversed(range(len(events))):
        if events[place][:2] != (at, item):
            continue
        if not engine.event_types or kind is None or events[place][2] in (None, kind):
            events[place] = (at, item, events[place][2] or kind)
            return
    events.append((at, item, kind))


def assert_same(found: Any, wanted: Any) -> None:
    assert len(found.items) == len(wanted.items)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    places = {item: place for place, item in enumerate(wanted.items)}
    for item, score in zip(found.items, found.scores, strict=True):  # but for the order of ties
        assert abs(score - wanted.scores[places[item]]) < 1e-4


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("forgetful", [False, True])
@settings(deadline=None, max_examples=30)
@given(story=EVENTS)
def test_answers_are_those_of_whole_histories(
    kind: str, forgetful: bool, story: list[tuple[int, int, int, str, str | None]]
) -> None:
    engine, sessions = ENGINES[kind], Sessions(ENGINES[kind])
    log: dict[str, list[tuple[int, str, str | None]]] = {}
    for number, code, seconds, action, event in story:
        user, item, at = f"user {number}", f"item {code}", seconds * MICROS
        events = log.setdefault(user, [])
        if forgetful:
            sessions.reload(engine)  # states are made anew
        if action == "append":
            assert sessions.append(user, item, at=at, event=event) == (code < ITEMS)
            if code < ITEMS:
                tell(engine, (at, item, event), events)
        elif action == "forget":
            assert sessions.forget(user) == bool(events)
            events.clear()
        else:
            asked = at if action == "past" else 10**9 * MICROS
            how = {"k": ITEMS, "exclude_seen": number % 2 == 0, "profile": PROFILES[(code + seconds) % 3]}
            if seconds % 3 == 0:
                how["rules"] = Rules(boost=[("item 3", 2.0)])
            assert_same(sessions.recommend(user, at=asked, **how), expected(engine, events, asked, **how))


@pytest.mark.parametrize("kind", STREAMING)
def test_long_sessions(kind: str) -> None:
    """Windows slide, and what is kept of them moves to the front of its room, many times."""
    engine, sessions = ENGINES[kind], Sessions(ENGINES[kind])
    rng = np.random.default_rng(0)
    events: list[tuple[int, str, str | None]] = []
    at = 0
    for step in range(150):
        at += int(rng.choice([1, 60, 5000])) * MICROS
        item = f"item {rng.integers(ITEMS)}"
        event = TOLD[int(rng.integers(len(TOLD)))]
        sessions.append("u", item, at=at, event=event)
        events.append((at, item, event))
        if step % 7 == 0:
            asked = at + 3600 * MICROS
            found = sessions.recommend("u", at=asked, k=ITEMS)
            assert_same(found, expected(engine, events, asked, k=ITEMS))


def test_unequal_lengths_change_nothing() -> None:
    sessions = Sessions(ENGINES["gru with types"])
    with pytest.raises(ValueError, match=r"events: wanted one per item \(2\), got 1"):
        sessions.extend("u", ["item 1", "item 2"], [1, 2], ["view"])
    assert "u" not in sessions


def test_filters_are_those_of_the_engine() -> None:
    engine = ENGINES["gru"]
    sessions = Sessions(engine)
    sessions.extend(7, ["item 3", "item 4"], [1, 2])
    everything = engine.recommend(["item 3", "item 4"], k=ITEMS)
    for how in (
        {"exclude": everything.items[:2]},
        {"exclude": [*everything.items[:2], "nothing"], "exclude_seen": True},
        {"candidates": ["item 9", "item 5", "nothing", "item 4"], "exclude_seen": True},
        {"candidates": []},
        {"k": 3},
    ):
        found, wanted = sessions.recommend(7, **how), engine.recommend(["item 3", "item 4"], **how)
        assert_same(found, wanted)
    with pytest.raises(ValueError, match="k: wanted a whole number from 1, got 0"):
        sessions.recommend(7, k=0)


def test_types_are_counted_where_they_are_unknown() -> None:
    """Those that are unknown count as missing, by either path; models without types look at none."""
    engine = ENGINES["gru with types"]
    sessions = Sessions(engine)
    for at, event in enumerate(TOLD):
        sessions.append("u", "item 1", at=at, event=event)
    assert sessions.counts()["unknown_types"] == 1
    items, times = ["item 1"] * 4, list(range(4))
    missing = engine.recommend(items, times=times, events=[None, "view", "buy", None])
    unknown = engine.recommend(items, times=times, events=TOLD)
    assert (missing.unknown_types, unknown.unknown_types) == (0, 1)
    assert_same(unknown, missing)
    with pytest.raises(AssertionError):
        assert_same(unknown, engine.recommend(items, times=times))
    table = pa.table({"items": [items, []], "times": [times, []], "events": [TOLD, None]})
    batch = engine.recommend_batch(table)
    assert batch["unknown_types"].to_pylist() == [1, 0]
    assert batch["scores"][0].as_py() == unknown.scores.tolist()
    plain = Sessions(ENGINES["gru"])
    plain.append("u", "item 1", event="wish")
    assert plain.counts()["unknown_types"] == 0
    with pytest.raises(ValueError, match="events: wanted one per event of the history"):
        engine.recommend(items, events=["buy"])


def test_which_models_stream() -> None:
    for kind, engine in ENGINES.items():
        assert Sessions(engine).streams == (kind in STREAMING), kind


def test_users_are_texts_or_numbers_and_never_mixed() -> None:
    sessions = Sessions(ENGINES["gru"])
    sessions.append(7, "item 1", at=1)
    sessions.append("7", "item 2", at=1)
    sessions.append("", "item 3", at=1)
    sessions.append("a name that is longer than any word of a machine \0 é", "item 4", at=1)
    assert [sessions.history(user)[0] for user in (7, "7", "", 8)] == [["item 1"], ["item 2"], ["item 3"], []]
    assert len(sessions) == 4
    for wrong in (True, 1.5, None, b"7"):
        with pytest.raises(TypeError, match="user: wanted a text or a whole number"):
            sessions.append(wrong, "item 1")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        sessions.append(2**70, "item 1")


def test_answers_from_kept_states_are_counted() -> None:
    sessions = Sessions(ENGINES["gru"])
    for _ in range(3):
        sessions.append("u", "item 1")
        sessions.recommend("u")
    sessions.recommend("nobody")
    counts = sessions.counts()
    assert (counts["state_hits"], counts["state_misses"]) == (2, 1)


def test_memory_is_bounded_and_states_go_first() -> None:
    sessions = Sessions(ENGINES["gru"], memory="64K")
    for user in range(400):
        sessions.append(user, "item 1", at=1)
        sessions.recommend(user)
        counts = sessions.counts()
        used = counts["index_bytes"] + counts["state_bytes"] + counts["event_bytes"]
        assert used <= 64 << 10
    assert counts["dropped_states"] > 0
    assert counts["sessions"] > counts["states"] > 0
    assert sessions.history(399)[0] == ["item 1"]
    for user in range(400, 4000):
        sessions.append(user, "item 1", at=1)
    assert sessions.counts()["dropped_sessions"] > 0
    assert sessions.history(3999)[0] == ["item 1"]
    assert sessions.history(400)[0] == []


def test_idle_sessions_are_forgotten() -> None:
    sessions = Sessions(ENGINES["gru"], forget_after=datetime.timedelta(seconds=1))
    sessions.append("early", "item 1")
    deadline = time.time() + 10
    while sessions.counts()["dropped_sessions"] == 0 and time.time() < deadline:
        time.sleep(0.2)
        sessions.append("late", "item 2", at=1)
    assert sessions.history("early")[0] == []
    assert len(sessions) == 1
    with pytest.raises(ValueError, match="forget_after: wanted at least a second"):
        Sessions(ENGINES["gru"], forget_after=datetime.timedelta(0))


@pytest.mark.parametrize("kind", ["gru", "gru with types", "absolute with types"])
def test_snapshot_and_restore(tmp_path: Path, kind: str) -> None:
    sessions = Sessions(ENGINES[kind])
    for user in (1, "1", "ü", 2**40):
        types = [TOLD[(i + hash(user)) % 4] for i in range(9)]
        sessions.extend(user, [f"item {i}" for i in range(9)], list(range(9)), types)
    assert sessions.snapshot(tmp_path / "sessions.arrow") == 4
    again = Sessions(ENGINES[kind])
    assert again.restore(tmp_path / "sessions.arrow") == 4
    for user in (1, "1", "ü", 2**40):
        items, times = again.history(user)
        assert items == sessions.history(user)[0]
        np.testing.assert_array_equal(times, range(9))
        assert_same(again.recommend(user), sessions.recommend(user))
    assert [path.name for path in tmp_path.iterdir()] == ["sessions.arrow"]


def test_snapshot_that_is_none_is_refused(tmp_path: Path) -> None:
    sessions = Sessions(ENGINES["gru"])
    sessions.append(1, "item 1")
    sessions.snapshot(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    (tmp_path / "torn").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged snapshot"):
        sessions.restore(tmp_path / "torn")
    table = pa.table({"a": [1]})
    with pa.ipc.new_file(str(tmp_path / "other"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="wanted a snapshot of sessions"):
        sessions.restore(tmp_path / "other")


def test_reload_keeps_events_and_never_mixes_states() -> None:
    sessions = Sessions(ENGINES["gru"])
    sessions.extend("u", ["item 3", "item 4"], [1, 2])
    before = sessions.recommend("u")
    other = make_engine("gru", seed=1)
    sessions.reload(other)
    assert_same(sessions.recommend("u"), other.recommend(["item 3", "item 4"]))
    assert sessions.recommend("u").scores[0] != before.scores[0]


def test_threads_side_by_side() -> None:
    engine = ENGINES["gru"]
    sessions = Sessions(engine, memory="2M")
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for step in range(300):
                shared = int(rng.integers(20))
                sessions.append(shared, f"item {rng.integers(ITEMS)}")
                sessions.recommend(shared)
                sessions.append(f"{seed}", f"item {step % ITEMS}", at=step + 1)
        except BaseException as error:  # shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for seed in range(4):
        history = [f"item {step % ITEMS}" for step in range(300)]
        assert sessions.history(f"{seed}")[0] == history
        assert_same(sessions.recommend(f"{seed}"), engine.recommend(history))


def test_nobody_waits_for_a_replay_with_the_interpreter_in_hand() -> None:
    """A replay of many events asks now and then whether Ctrl-C was pressed, for which it needs the GIL."""
    program = """
import threading
from chronorec.engine import Sessions
from tests.test_sessions import ENGINES
sessions = Sessions(ENGINES["gru"])
sessions.extend("u", ["item 1"] * 400_000, range(400_000))
done = threading.Event()
def look():
    while not done.is_set():
        sessions.history("u")
threads = [threading.Thread(target=look) for _ in range(2)]
for thread in threads:
    thread.start()
sessions.recommend("u", at=10**6)
done.set()
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, timeout=100, check=True)


def test_a_time_that_cannot_be_leaves_nothing_behind() -> None:
    sessions = Sessions(ENGINES["gru"])
    with pytest.raises(ValueError, match=r"times: wanted microseconds from -2\^61 to 2\^61"):
        sessions.append("u", "item 1", at=2**62)
    assert "u" not in sessions
    assert len(sessions) == 0


def test_who_is_forgotten_during_a_reload_stays_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reload has read a user's events, and not yet written them down, when the user is forgotten."""
    sessions = Sessions(ENGINES["gru"])
    for user in ("gone", "again", "here"):
        sessions.extend(user, ["item 1", "item 2"], [1, 2])
    read = LiveModel.batches

    def batches(self: LiveModel) -> Iterator[pa.RecordBatch]:
        found = list(read(self))
        assert sessions.forget("gone")
        assert sessions.forget("again")
        sessions.append("again", "item 3", at=3)
        yield from found

    monkeypatch.setattr(LiveModel, "batches", batches)
    sessions.reload(ENGINES["gru"])
    assert "gone" not in sessions
    assert sessions.history("again")[0] == ["item 3"]
    assert sessions.history("here")[0] == ["item 1", "item 2"]
