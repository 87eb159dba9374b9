"""Two encoders and two stages: what features tell, and what attention by candidate adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from chronorec.artifact import ArtifactError
from chronorec.data import EventLog, Histories
from chronorec.data.errors import DataError
from chronorec.data.splits import leave_one_out
from chronorec.engine import Engine, Sessions
from chronorec.engine.rescore import first_stage
from chronorec.models import DualEncoder
from chronorec.training import Config, load_config, train
from chronorec.training.comparison import compare
from chronorec.training.config import ConfigError
from tests.support.logs import DAY, basket_log, cycle_log, histories_of


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """Overrides the one of conftest: training must be deterministic without torch's own switch."""


def log_of(items: np.ndarray) -> pa.Table:
    """Rows of item codes as users' events, one a day."""
    users, events = items.shape
    return pa.table(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": items.reshape(-1),
            "timestamp": pa.array(np.tile(np.arange(events) * DAY, users), pa.timestamp("us")),
        }
    )


def config_of(*more: str) -> Config:
    common = [
        *("model.kind=dual-encoder", "model.width=16", "model.max_length=20", "model.dropout=0"),
        *("training.batch_tokens=512", "training.warmup_steps=5", "training.learning_rate=0.01"),
    ]
    return load_config(overrides=[*common, *more])


def styles(shuffled: bool) -> Histories:
    """Kinds of items follow each other, a user's style stays; which item it is, is chance."""
    generator = np.random.default_rng(0)
    kinds, tastes, each = 5, 4, 10
    kind = (generator.integers(0, kinds, (120, 1)) + np.arange(10)) % kinds
    items = (kind * tastes + generator.integers(0, tastes, (120, 1))) * each
    items = items + generator.integers(0, each, items.shape)
    code = np.arange(kinds * tastes * each)
    told = generator.permutation(code) if shuffled else code
    features = pa.table(
        {
            "item": code,
            "kind": [f"kind {c // (tastes * each)}" for c in told],
            "style": [f"style {c // each % tastes}" for c in told],
        }
    )
    return EventLog.read(log_of(items)).histories(items=features)


def test_features_tell_what_few_events_cannot() -> None:
    """Ten items are as likely as each other; knowing which ten is worth .454."""
    config = config_of("training.epochs=25", "training.patience=25", "model.candidates=50")
    told, shuffled = (train(config, styles(mixed), quiet=True).validation for mixed in (False, True))
    assert told > 0.42
    assert told > shuffled + 0.1


def six_ago() -> Histories:
    """The next item is that of six events ago."""
    items = np.tile(np.random.default_rng(0).integers(0, 20, (200, 6)), 4)
    words = pa.table({"item": np.arange(20), "size": np.arange(20.0)})
    return EventLog.read(log_of(items)).histories(items=words)


def test_the_second_stage_finds_what_the_first_cannot() -> None:
    """States of one number hold no six items; the report shows both stages."""
    histories = six_ago()
    settings = ["model.hidden_size=1", "model.candidates=12", "training.epochs=80", "training.patience=80"]
    run = train(config_of(*settings), histories, quiet=True)
    report = compare({"model": run.artifact}, histories)
    rows = {row["name"]: row["metrics"] for row in report.to_dict()["models"]}
    both, first = rows["dual-encoder"], rows["dual-encoder, first stage"]
    assert both["ndcg@10"] > first["ndcg@10"] + 0.05
    assert both["recall@12"] == first["recall@12"] > 0.9
    assert "dual-encoder, first stage" in report.text()
    assert "recall@12" in report.text()


def model_of(histories: Histories, **more: Any) -> DualEncoder:
    """A model in which every weight matters; the gains of its second stage are large, and losses too."""
    torch.manual_seed(0)
    features = np.random.default_rng(0).normal(size=(histories.num_items, 3)).astype(np.float32)
    model = DualEncoder(
        histories.num_items, features=features, width=8, max_length=6, hidden_size=7, candidates=5, **more
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return model.eval()


@pytest.mark.parametrize("basket", [False, True], ids=["event", "basket"])
def test_candidates_change_their_places_and_no_others(basket: bool) -> None:
    histories = histories_of(basket_log(users=30) if basket else cycle_log(items=20))
    artifact = model_of(histories).export(histories.items, basket=basket)
    queries = leave_one_out(histories, exclude_seen=False).test
    found = first_stage(artifact)
    assert found is not None
    first, count = found
    before, after = (
        Engine(x).topk(histories, queries, histories.num_items, False) for x in (first, artifact)
    )
    assert np.array_equal(np.sort(before[:, :count]), np.sort(after[:, :count]))
    assert np.array_equal(before[:, count:], after[:, count:])
    assert (before[:, :count] != after[:, :count]).any(axis=1).mean() > 0.5


def test_sessions_answer_as_whole_histories_do() -> None:
    histories = histories_of(cycle_log(items=20))
    engine = Engine(model_of(histories).export(histories.items))
    sessions = Sessions(engine)
    history, times = [f"item {code * 7 % 20}" for code in range(15)], list(range(15))
    for item, time in zip(history, times, strict=True):
        sessions.append("user", item, at=time)
    found, wanted = sessions.recommend("user", at=20, k=8), engine.recommend(history, times=times, at=20, k=8)
    assert found.items == wanted.items
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_needs_features() -> None:
    with pytest.raises(DataError, match="wanted a table with features beside the ids"):
        train(config_of(), histories_of(cycle_log()), quiet=True)


@pytest.mark.parametrize("count", [0, "all"])
def test_a_broken_second_stage_is_refused(count: Any) -> None:
    histories = histories_of(cycle_log())
    artifact = model_of(histories).export(histories.items)
    artifact.adjustments[-1]["count"] = count
    with pytest.raises(ArtifactError, match="rescore: count: wanted a whole number from 1"):
        Engine(artifact)


def test_does_not_go_on_from_a_model() -> None:
    """Of a grown item table the same column of numbers may mean something else."""
    histories = six_ago()
    start = train(config_of("training.epochs=1"), histories, quiet=True).artifact
    with pytest.raises(
        ConfigError, match="does not go on from a model, since item features are encoded anew"
    ):
        train(config_of("training.epochs=1"), histories, start=start, quiet=True)
