"""Columns of the user table as inputs of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chronorec.data import DataError, EventLog, Histories
from chronorec.data.batches import BasketBatches, EventBatches
from chronorec.data.profile import MISSING, Profile, ProfileColumn
from chronorec.engine import Engine, Sessions
from chronorec.training import load_config, train
from chronorec.training.config import Config, ConfigError
from tests.support.logs import DAY, basket_log, cycle_log, histories_of


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """Overrides the one of conftest: training must be deterministic without torch's own switch."""


def team_log(users: int = 800, seed: int = 0) -> Histories:
    """Two events a user: anything, then what the user's team and age tell; the log alone tells nothing."""
    generator = np.random.default_rng(seed)
    red, old = generator.integers(0, 2, (2, users))
    item = np.column_stack([generator.integers(0, 8, users), red + 2 * old])
    log = pa.table(
        {
            "user_id": np.repeat(np.arange(users), 2),
            "item_id": item.reshape(-1),
            "timestamp": pa.array(np.tile([0, DAY], users), pa.timestamp("us")),
        }
    )
    age = np.where(old, 60.0, 20.0) + generator.integers(0, 9, users)
    table = {"user_id": np.arange(users), "team": np.where(red, "red", "blue"), "age": age}
    return EventLog.read(log).histories(users=pa.table(table))


def config_of(*overrides: str) -> Config:
    small = ["training.epochs=150", "training.patience=150", "training.validate_every=10"]
    small += ["training.learning_rate=0.01", "training.batch_tokens=256"]
    others = ["model.width=16", "model.dropout=0", "training.warmup_steps=5"]
    return load_config(overrides=[*small, *others, "split.protocol=user-fold-event", *overrides])


@pytest.mark.parametrize("kind", ["gru4rec", "sasrec"])
@pytest.mark.parametrize("known", [True, False], ids=["profile", "no profile"])
def test_learns_from_the_profile(kind: str, known: bool) -> None:
    columns = 'model.user_columns=["age", "team"]' if known else "model.user_columns=[]"
    run = train(config_of(f"model.kind={kind}", columns), team_log(), quiet=True)
    assert (run.validation > 0.95) == known
    if known:
        engine = Engine(run.artifact)
        people = [{"team": team, "age": age} for age in (22, 66) for team in ("blue", "red")]
        assert [engine.recommend([7], profile=own, k=1).items for own in people] == [[0], [1], [2], [3]]
        sessions = Sessions(engine)
        sessions.append("u", 7)
        assert [sessions.recommend("u", profile=own, k=1).items for own in people] == [[0], [1], [2], [3]]
        table = pa.table({"items": [[7]] * 4, "team": ["blue", "red"] * 2, "age": [22, 22, 66, None]})
        answers = engine.recommend_batch(table, k=1)["items"].to_pylist()
        assert answers[:3] == [[0], [1], [2]]
        assert answers[3] == engine.recommend([7], profile={"team": "red"}, k=1).items
        reason = engine.explain([7], [0], profile=people[0])[0]
        np.testing.assert_allclose(reason.score, engine.score([7], [0], profile=people[0])[0], rtol=1e-6)


def test_windows_carry_the_profile_of_their_user() -> None:
    for basket in (False, True):
        histories = histories_of(basket_log(users=9) if basket else cycle_log(users=9))
        codes = np.arange(18, dtype=np.int32).reshape(9, 2)
        kind: Any = BasketBatches if basket else EventBatches
        begin, end = histories.offsets[:-1], histories.offsets[1:]
        batches = kind(histories, begin, end, max_length=4, batch_events=16, profile=codes)
        owners = {
            tuple(histories.item[a:b].tolist()): u for u, (a, b) in enumerate(zip(begin, end, strict=True))
        }
        assert len(owners) == 9 or not basket
        seen = set()
        for batch in batches.epoch(0):
            assert batch.profile.shape == (len(batch), 2)
            for window, (a, b) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
                user = int(batch.profile[window, 0]) // 2
                seen.add(user)
                own = histories.item[begin[user] : end[user]]
                if basket:
                    a, b = batch.basket_offsets[[a, b]]
                assert set(batch.items[a:b].tolist()) <= set(own.tolist())
        assert seen == set(range(9))


def test_what_a_column_becomes() -> None:
    table = pa.table(
        {
            "text": pa.array(["b", None, "a", "b"]).dictionary_encode(),
            "whole": [3, 1, None, 3],
            "flag": [True, False, True, None],
            "number": [0.5, float("nan"), None, 2.5],
        }
    )
    profile = Profile.of_users(table, ["text", "whole", "flag", "number"])
    assert [column.values for column in profile.columns] == [["a", "b"], [1, 3], [False, True], []]
    codes = profile.codes_of_table(table)
    assert codes is not None
    assert codes[:, :3].T.tolist() == [[1, -1, 0, 1], [1, 0, -1, 1], [1, 0, 1, -1]]
    assert (codes[1:3, 3] == MISSING).all()
    assert codes[0, 3] < codes[3, 3]
    rows = [profile.codes_of(row) for row in table.to_pylist()]
    np.testing.assert_array_equal(np.concatenate([row for row in rows if row is not None]), codes)
    again = Profile.from_plain(profile.to_plain())
    np.testing.assert_array_equal(again.codes_of_table(table), codes)
    unknown = profile.codes_of({"text": "z", "whole": True, "flag": 1, "number": float("inf"), "hat": "red"})
    assert unknown is not None
    assert unknown.tolist() == [[MISSING] * 4]


def test_many_whole_numbers_are_cut_at_their_deciles() -> None:
    column = ProfileColumn.of(pa.table({"age": np.arange(1000)}), "age")
    codes = column.codes_of(pa.chunked_array([np.arange(1000)]))
    assert np.bincount(codes).tolist() == [100] * 10
    assert column.count == 10
    assert (column.code_of(-5), column.code_of(10**6)) == (0, 9)


def test_refusals() -> None:
    table = pa.table(
        {"user": [1, 2], "note": [f"{n}" for n in range(2)], "list": [[1], [2]], "none": [None] * 2}
    )
    with pytest.raises(DataError, match="no column 'nte'; did you mean 'note'"):
        Profile.of_users(table, ["nte"])
    with pytest.raises(DataError, match="list: wanted texts, numbers or bools, got list"):
        Profile.of_users(table, ["list"])
    with pytest.raises(DataError, match="none: wanted"):
        Profile.of_users(table, ["none"])
    with pytest.raises(DataError, match="wanted 1 to 1000 different values, got 2,000"):
        Profile.of_users(pa.table({"id": [f"{n}" for n in range(2000)]}), ["id"])
    profile = Profile([ProfileColumn("age", boundaries=[20.0]), ProfileColumn("team", values=["red"])])
    with pytest.raises(TypeError, match="profile: age: wanted a number, got '20'"):
        profile.codes_of({"age": "20"})
    with pytest.raises(TypeError, match="profile: team: wanted a text or a number"):
        profile.codes_of({"team": ["red"]})
    with pytest.raises(ConfigError, match="bert4rec has no state of a user"):
        config_of("model.kind=bert4rec", 'model.user_columns=["age"]')
    with pytest.raises(ConfigError, match=r"model.user_columns: wanted a list of texts, got \[1\]"):
        config_of("model.user_columns=[1]")
