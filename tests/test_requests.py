"""A table of requests gets the answers of the single requests, and a request never sees its future."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from chronorec.data.splits import Queries, leave_one_out
from chronorec.engine import Engine
from chronorec.engine.history import HistoryBatch
from chronorec.models import Markov, PersonalFrequency, SASRec
from tests.support.logs import basket_log, cycle_log, histories_of

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    histories = histories_of(cycle_log(items=40, events=30))
    return Engine(SASRec(histories.num_items, width=16, max_length=10).eval().export(histories.items))


@pytest.fixture(scope="module")
def basket_engine() -> Engine:
    """A model of baskets that uses their times, over integer ids."""
    histories = histories_of(basket_log())
    artifact = PersonalFrequency(3.0).fit(histories, histories.offsets[1:], basket=True, exclude_seen=False)
    markov = Markov().fit(histories, histories.offsets[1:], basket=True, exclude_seen=False)
    artifact.weights.update(markov.weights)
    artifact.adjustments.extend(markov.adjustments)
    return Engine(artifact)


def _assert_batch_is_single(engine: Engine, requests: list[dict[str, Any]], **arguments: Any) -> None:
    names = {"history": "items", "times": "times", "sessions": "sessions", "at": "at"}
    table = {names[key]: [request[key] for request in requests] for key in requests[0]}
    answers = engine.recommend_batch(pa.table(table), **arguments).to_pylist()
    assert len(answers) == len(requests)
    for answer, request in zip(answers, requests, strict=True):
        single = engine.recommend(**request, **arguments)
        assert answer["items"] == single.items
        assert answer["scores"] == single.scores.tolist()
        assert answer["unknown_items"] == single.unknown_items


def test_a_request_sees_nothing_at_or_after_its_time(engine: Engine) -> None:
    times, history = ["2020-01-01", "2021-01-01", "2024-01-01"], ["item 1", "nothing", "item 2"]
    seen = engine.recommend(history, times=times, at="2021-01-01T00:00:00Z")
    assert seen.items == engine.recommend(["item 1"]).items
    assert seen.unknown_items == 0
    np.testing.assert_array_equal(
        engine.score(history, ["item 3"], times=times, at="2021-01-01"),
        engine.score(["item 1"], ["item 3"]),
    )
    requests = [{"history": history, "times": times, "at": at} for at in ("2019-01-01", "2021-06-01")]
    _assert_batch_is_single(engine, requests)


def test_times_sessions_and_filters_in_a_batch(basket_engine: Engine) -> None:
    requests = [
        {"history": [3, 4, 999, 3], "times": [0, 0, 1, 2], "sessions": ["a", "a", "b", None], "at": 3 * DAY},
        {"history": [], "times": [], "sessions": [], "at": DAY},
        {"history": [5, 6, 7], "times": [DAY, DAY, 9 * DAY], "sessions": [None, None, "a"], "at": 8 * DAY},
    ]  # fmt: skip
    for arguments in (
        {},
        {"exclude_seen": True},
        {"exclude": [1, 2, 999]},
        {"candidates": [4, 3, 29, 999]},
        {"candidates": [4, 3, 29], "exclude": [3], "exclude_seen": True},
        {"candidates": []},
    ):
        _assert_batch_is_single(basket_engine, requests, k=1000, **arguments)
    without = [{key: value for key, value in r.items() if key != "sessions"} for r in requests]
    _assert_batch_is_single(basket_engine, without, k=7)


def test_an_event_without_a_session_is_a_basket_of_its_own() -> None:
    histories = histories_of(basket_log())
    engine = Engine(Markov().fit(histories, histories.offsets[1:], basket=True, exclude_seen=False))
    ids = histories.items.column("item").to_pylist()
    codes = np.array([4, 3, 7, 8], np.int32)
    session = np.array([5, 5, -1, -1], np.int64)
    history = [ids[code] for code in codes]
    alone = engine.score(history, ids, sessions=[5, 5, None, -1])
    np.testing.assert_array_equal(alone, engine.score(history[-1:], ids))
    np.testing.assert_array_equal(alone, engine.score(history, ids))
    for sessions in ([5, 5, -1, -1], [5, 5, None, None], ["x", "x", None, None]):
        _assert_batch_is_single(engine, [{"history": history, "sessions": sessions}], k=30)
        np.testing.assert_array_equal(alone, engine.score(history, ids, sessions=sessions))
    log = histories_of(basket_log(users=1))
    log.item, log.columns, log.time = codes, {"session": session}, None
    offsets = np.array([0, 1], np.int64)
    queries = Queries(
        np.zeros(1, np.int32), offsets[:1], np.array([4]), None, offsets, np.array([2], np.int32)
    )
    batch = HistoryBatch.of_queries(log, queries)
    np.testing.assert_array_equal(engine.score_codes(batch, np.arange(30, dtype=np.int32), False)[0], alone)


@pytest.mark.parametrize(
    "values", [[1 << 40, 3], [-1, 3], ["item", "3"], [3.5, 3.0], [None, 3], [b"3", b"x"]]
)
def test_foreign_ids_are_unknown_in_a_batch(basket_engine: Engine, values: list[Any]) -> None:
    request = {"history": values, "times": [0, 0], "at": DAY}
    _assert_batch_is_single(basket_engine, [request])


def test_unsigned_ids_beyond_int64_and_encoded_columns(basket_engine: Engine, engine: Engine) -> None:
    big = pa.array([[2**64 - 1, 3]], pa.list_(pa.uint64()))
    table = pa.table({"items": big, "times": [[0, 0]], "at": [DAY]})
    assert basket_engine.recommend_batch(table)["unknown_items"].to_pylist() == [1]
    texts = pa.array(["item 1", "no", "item 2"]).dictionary_encode()
    lists = pa.ListArray.from_arrays(pa.array([0, 3], pa.int32()), texts)
    answer = engine.recommend_batch(pa.table({"items": lists})).to_pylist()[0]
    assert answer["items"] == engine.recommend(["item 1", "item 2"]).items
    for kind in (pl.String, pl.Categorical):
        frame = pl.DataFrame({"items": [["item 1", "no", "item 2"]]}, {"items": pl.List(kind)})
        assert engine.recommend_batch(frame).to_pylist()[0] == answer
    nothing = engine.recommend_batch(pa.table({"items": [None, [None]]})).to_pylist()
    assert [row["unknown_items"] for row in nothing] == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"times": [[1], [2, None]]}, "times: .* the time is null in row 1"),
        ({"times": [[1], [2, 1]]}, "times: wanted the oldest event first, .* row 1"),
        ({"times": [[1], [2]]}, "times: wanted lists as long as those of 'items', row 1 has 1 for 2"),
        ({"times": [["2024-05-01"], ["yesterday", "2024-05-01"]]}, "times: .* unreadable in row 1"),
        ({"sessions": [[1, 2], [1]]}, "sessions: wanted lists as long"),
        ({"times": [[1], [2, 3]], "at": [1, None]}, "at: .* the time is null in row 1"),
        ({"times": [1, 2]}, "times: wanted a list per request, got int64"),
    ],
)
def test_unusable_tables(engine: Engine, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.recommend_batch(pa.table({"items": [["item 1"], ["item 2", "item 3"]], **columns}))


def test_times_of_all_kinds_mean_the_same(basket_engine: Engine) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2024, 5, 1, 14, tzinfo=zone)
    expected = basket_engine.score([3], [3], times=[moment], at=moment + datetime.timedelta(days=2))
    later = basket_engine.score([3], [3], times=[moment], at=moment + datetime.timedelta(days=2000))
    assert expected[0] - later[0] == pytest.approx(np.exp(-2 / 3), abs=2e-6)
    for time, at in (
        ("2024-05-01T12:00", "2024-05-03T12:00Z"),
        ("2024-05-01T14:00+02:00", np.datetime64("2024-05-03T12:00:00.000000001")),
        (int(moment.timestamp()) * 1_000_000, datetime.datetime(2024, 5, 3, 12)),
    ):
        np.testing.assert_array_equal(basket_engine.score([3], [3], times=[time], at=at), expected)
    for unit in ("s", "ms", "us", "ns"):
        stamps = pa.array([[moment]], pa.list_(pa.timestamp(unit, "Europe/Berlin")))
        table = pa.table({"items": [[3]], "times": stamps, "at": ["2024-05-03T12:00Z"]})
        answer = basket_engine.recommend_batch(table, candidates=[3]).to_pylist()[0]
        assert answer["scores"] == expected.tolist()
    with pytest.raises(ValueError, match=r"at: wanted an ISO date or time such as .* got 'yesterday'"):
        basket_engine.recommend([3], times=[0], at="yesterday")
    with pytest.raises(ValueError, match="at: wanted a time, got NaT"):
        basket_engine.recommend([3], times=[0], at=np.datetime64("NaT"))


def test_texts_are_no_lists_of_items(engine: Engine) -> None:
    for name in ("history", "exclude", "candidates"):
        with pytest.raises(TypeError, match=f"{name}: wanted a sequence of item ids, got the text 'item 1'"):
            engine.recommend(**{"history": [], name: "item 1"})  # type: ignore[arg-type]


def test_k_may_be_a_numpy_integer_or_beyond_the_catalogue(engine: Engine) -> None:
    assert len(engine.recommend(["item 1"], k=np.int64(3)).items) == 3
    assert len(engine.recommend(["item 1"], k=10**12).items) == engine.num_items
    assert len(engine.similar_items("item 1", k=10**12).items) == engine.num_items - 1


def test_tables_with_nothing_in_them(basket_engine: Engine) -> None:
    for columns in (
        {"items": [[3, 4]], "times": [[0, 0]], "sessions": [[None, None]], "at": [DAY]},
        {"items": [[]], "times": [[]], "sessions": [[]], "at": [DAY]},
        {"items": [], "times": [], "sessions": [], "at": pa.array([], pa.timestamp("us"))},
    ):
        answers = basket_engine.recommend_batch(pa.table(columns), k=2)
        assert [len(row["items"]) for row in answers.to_pylist()] == [2] * len(columns["items"])


def test_queries_read_no_more_than_the_model_and_answer_as_requests(engine: Engine) -> None:
    histories = histories_of(cycle_log(users=5, items=40, events=30))
    ids = np.array(histories.items.column("item").to_pylist())
    one = Engine(dataclasses.replace(engine.artifact, items=histories.items))
    queries = leave_one_out(histories, exclude_seen=False).test
    for exclude_seen in (False, True):
        best = one.topk(histories, queries, 40, exclude_seen)
        for row, begin, end in zip(best, queries.begin, queries.end, strict=True):
            history = ids[histories.item[begin:end]].tolist()
            answer = one.recommend(history, k=40, exclude_seen=exclude_seen)
            assert ids[row[row >= 0]].tolist() == answer.items
