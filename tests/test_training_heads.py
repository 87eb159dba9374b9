"""Training and evaluation of what is predicted beside the next item."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chronorec.artifact import Artifact
from chronorec.data import Histories
from chronorec.data.batches import EventBatches
from chronorec.data.jagged import ranges
from chronorec.engine import Engine, Predictor, Rules
from chronorec.evaluation import read_ledger
from chronorec.evaluation.heads import ITEM_SHRINKAGE, USER_SHRINKAGE, evaluate_heads
from chronorec.evaluation.html import html_report
from chronorec.training import Config, load_config, train
from chronorec.training.checkpoint import save_checkpoint
from chronorec.training.comparison import compare
from chronorec.training.config import ConfigError
from chronorec.training.splitting import make_split
from tests.support.labels import labelled, labelled_log, model_with_heads
from tests.support.logs import basket_log, cycle_log, histories_of


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """Overrides the one of conftest: training must be deterministic without torch's own switch."""


SMALL = ["training.batch_tokens=256", "training.warmup_steps=5", "model.width=16", "model.dropout=0"]
BOTH = ["heads.behaviour=1", "heads.value=1"]


def config_of(*overrides: str) -> Config:
    return load_config(overrides=[*SMALL, "model.kind=gru4rec", "training.learning_rate=0.01", *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with both heads, trained on a log in which items, types and values can be known."""
    folder = tmp_path_factory.mktemp("models") / "model"
    settings = ["training.epochs=60", "training.patience=60", "training.validate_every=10"]
    train(config_of(*BOTH, *settings, "heads.value_as=class"), labelled(), output=folder, quiet=True)
    return folder


def test_learns_what_comes_how_and_with_which_value(trained: Path) -> None:
    histories = labelled()
    report = compare({"model": Artifact.load(trained)}, histories).to_dict()
    assert report["models"][0]["name"] == "gru4rec"
    assert report["models"][0]["metrics"]["ndcg@10"] > 0.95
    found = {what: table["rows"] for what, table in report["heads"]["model"].items()}
    assert list(found) == ["behaviour, given the item", "behaviour, of any item", "class of value", "value"]
    for what in list(found)[:3]:
        model, *baselines = found[what].values()
        assert model["accuracy"] > 0.95, what
        assert model["f1"] > max(row["f1"] for row in baselines) + 0.1, what
    model, *baselines = found["value"].values()
    assert model["rmse"] < min(row["rmse"] for row in baselines) / 2

    predictor = Predictor(Engine.load(trained))
    for step, behaviour in ((1, "buy"), (5, "cart")):
        walk = [f"item {step * place % 12}" for place in range(9)]
        coming = f"item {step * 9 % 12}"
        assert predictor.behaviours[int(predictor.overall_behaviour(walk).argmax())] == behaviour
        assert predictor.behaviour(walk, [coming])[0].max() > 0.9
        np.testing.assert_allclose(predictor.value(walk, [coming]), {1: 2, 5: 3}[step], atol=0.3)
        assert Engine.load(trained).recommend(walk, k=1, rules=Rules(behaviour=behaviour)).items == [coming]


def test_what_heads_reached_is_recorded_and_shown(trained: Path, tmp_path: Path) -> None:
    folder = Artifact.load(trained).save(tmp_path / "copy")
    report = compare({"model": Artifact.load(folder)}, labelled(), part="validation")
    recorded = read_ledger(folder)[-1]
    rows = report.to_dict()["heads"]["model"]["value"]["rows"]
    assert recorded.metrics["value: rmse"] == rows["gru4rec"]["rmse"]
    assert "behaviour, given the item: f1" in recorded.metrics
    text, page = report.text(), html_report(report)
    for shown in (text, page):
        assert "next event&#x27;s value" in shown or "next event's value" in shown
        assert "item and user means" in shown
        assert f"{rows['gru4rec']['rmse']:.4f}" in shown
    json.loads(report.json())


@pytest.mark.parametrize("value_as", ["number", "class"])
def test_training_reads_no_label_behind_its_range(value_as: str) -> None:
    """Other labels of held-out events give the same weights, another one of a training event others."""
    histories, config = labelled(), config_of(*BOTH, f"heads.value_as={value_as}", "training.epochs=2")
    split = make_split(config.split, histories)

    def weights(events: Any) -> dict[str, np.ndarray]:
        kind, value = (histories.columns[name].copy() for name in ("event_type", "value"))
        kind[events] = (kind[events] + 1) % 3
        value[events] = 5 - value[events]
        changed = dataclasses.replace(histories, columns={"event_type": kind, "value": value})
        return train(config, changed, split=split, quiet=True).artifact.weights

    held_out = ranges(split.train_end, histories.offsets[1:] - split.train_end)
    same, other = weights(held_out), weights([int(split.begin[3]) + 5])
    for name, found in weights([]).items():
        assert np.array_equal(found, same[name]), name
    assert any(not np.array_equal(other[name], found) for name, found in same.items())


@pytest.mark.parametrize(
    "settings",
    [
        ["model.kind=gru4rec", "training.precision=bf16"],
        ["model.kind=sasrec", "model.copy=true"],
        ["model.kind=hstu", "model.memory=true"],
    ],
)
def test_heads_train_beside_other_options(settings: list[str]) -> None:
    """What was zero at the start has learned something."""
    config = load_config(overrides=[*SMALL, *BOTH, "heads.steps=2", "training.epochs=2", *settings])
    run = train(config, labelled(), quiet=True)
    for name in ("behaviour.pair.query.weight", "value.pair.item", "steps.ahead.weight"):
        weight = run.artifact.weights[f"heads.{name}"]
        assert np.isfinite(weight).all()
        assert np.abs(weight).max() > 1e-4, name


def test_a_stopped_run_goes_on_with_its_heads(tmp_path: Path) -> None:
    config = config_of(*BOTH, "heads.steps=2", "training.epochs=4", "training.checkpoint_seconds=0")
    whole = train(config, labelled(), quiet=True).artifact.weights

    class Stop(Exception):
        pass

    saves = []

    def save(*arguments: Any) -> None:
        saves.append(save_checkpoint(*arguments))
        if len(saves) == 7:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chronorec.training.loop.save_checkpoint", save)
        with pytest.raises(Stop):
            train(config, labelled(), output=tmp_path / "model", quiet=True)
    again = train(config, labelled(), output=tmp_path / "model", quiet=True).artifact.weights
    for name, weight in whole.items():
        np.testing.assert_array_equal(again[name], weight, err_msg=name)


def test_labels_are_those_of_the_targets() -> None:
    histories = labelled()
    begin, end = histories.offsets[:-1], histories.offsets[1:] - 2
    names = ("event_type", "value")
    batches = EventBatches(histories, begin, end, max_length=5, batch_events=64, labels=names)
    assert histories.time is not None
    rows = {
        (int(histories.item[e]), int(histories.time[e]), *(float(histories.columns[n][e]) for n in names))
        for a, b in zip(begin, end, strict=True)
        for e in range(a + 1, b)
    }
    seen = set()
    for batch in batches.epoch(0):
        assert batch.asked is not None
        labels = [batch.labels[name].tolist() for name in names]
        seen |= set(zip(batch.targets.tolist(), batch.asked.tolist(), *labels, strict=True))
    assert seen == rows


# --- evaluation -------------------------------------------------------------------------------------------


def gappy() -> Histories:
    """Labels of which some are missing."""
    table, generator = labelled_log(users=20, events=12), np.random.default_rng(0)
    for name in ("event", "rating"):
        gone = generator.random(len(table)) < 0.3
        values = [None if g else v for g, v in zip(gone, table[name].to_pylist(), strict=True)]
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return labelled(table)


def known(histories: Histories, split: Any, name: str) -> list[tuple[int, int, int, Any]]:
    """(event, user, item, label) of the training events whose label is known."""
    column = histories.columns[name]
    return [
        (event, user, int(histories.item[event]), column[event].item())
        for user in range(histories.num_users)
        for event in range(split.begin[user], split.train_end[user])
        if not (np.isnan(column[event]) or (name == "event_type" and column[event] < 0))
    ]


def test_baselines_are_those_counted_by_hand() -> None:
    histories = gappy()
    split = make_split(load_config().split, histories)
    engine = Engine(model_with_heads(histories).export(histories.items))
    tables = {
        table.what: table
        for table in evaluate_heads(
            engine, histories, split.test, split.train_end, name="model", exclude_seen=False
        )
    }
    values = known(histories, split, "value")
    mean = float(np.mean([value for *_, value in values]))

    def bias(of: int, where: int, shrinkage: float, left: dict[int, float]) -> float:
        rest = [row[3] - mean - left.get(row[2], 0.0) for row in values if row[where] == of]
        return sum(rest) / (len(rest) + shrinkage)

    items = {item: bias(item, 2, ITEM_SHRINKAGE, {}) for item in range(histories.num_items)}
    users = {user: bias(user, 1, USER_SHRINKAGE, items) for user in range(histories.num_users)}
    asked = [
        (user, item, histories.columns["value"][event].item())
        for user, item, event in zip(split.test.user, split.test.targets, split.test.end, strict=True)
        if not np.isnan(histories.columns["value"][event])
    ]
    errors = [mean + items[item] + users[user] - value for user, item, value in asked]
    table = tables["value"]
    assert table.events == len(asked) < len(split.test)
    np.testing.assert_allclose(table.rows["item and user means"]["mse"], np.mean(np.square(errors)))

    kinds = known(histories, split, "event_type")
    share = Counter(kind for *_, kind in kinds)
    code = {event: kind for event, _, _, kind in kinds}

    def best(counts: Counter[int]) -> int:
        return max(range(len(share)), key=lambda kind: (counts[kind], share[kind]))

    of_item = {i: best(Counter(k for *_, j, k in kinds if j == i)) for i in items}
    after = {
        last: best(Counter(k for e, u, _, k in kinds if e > split.begin[u] and code.get(e - 1, -1) == last))
        for last in range(-1, len(share))
    }
    column = histories.columns["event_type"]
    right: dict[str, list[bool]] = {"most frequent of the item": [], "most frequent after the last": []}
    for item, event in zip(split.test.targets.tolist(), split.test.end.tolist(), strict=True):
        if column[event] >= 0:
            right["most frequent of the item"].append(of_item[item] == column[event])
            right["most frequent after the last"].append(after[int(column[event - 1])] == column[event])
    for label, hits in right.items():
        row = tables["behaviour, given the item"].rows[label]
        np.testing.assert_allclose(row["accuracy"], np.mean(hits), err_msg=label)


def test_labels_of_targets_change_no_prediction() -> None:
    """Only what predictions are compared with: a constant added to all of them adds to every error."""
    histories = gappy()
    split = make_split(load_config().split, histories)
    engine = Engine(model_with_heads(histories).export(histories.items))
    value = histories.columns["value"].copy()
    value[split.test.end] += 100
    changed = dataclasses.replace(histories, columns=histories.columns | {"value": value})
    for log, least, most in ((histories, 0, 20), (changed, 80, 110)):
        table = evaluate_heads(engine, log, split.test, split.train_end, name="model", exclude_seen=False)[-1]
        assert all(least < row["mae"] < most for row in table.rows.values())


def test_a_query_that_is_no_next_event_is_refused() -> None:
    histories = gappy()
    engine = Engine(model_with_heads(histories).export(histories.items))
    queries = make_split(load_config().split, histories).test
    other = dataclasses.replace(queries, end=queries.end - 1)
    with pytest.raises(ValueError, match="wanted the event after each history"):
        evaluate_heads(engine, histories, other, queries.end, name="model", exclude_seen=False)


# --- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.kind=bert4rec"], "heads: bert4rec has none"),
        (["model.kind=popularity"], "heads: popularity has none"),
        (["split.protocol=temporal-basket"], "they are of next events"),
        (["loss.kind=bpr"], "loss.kind: wanted 'full' or 'sampled' beside heads.behaviour"),
        (["heads.value_as=stars"], "heads.value_as: wanted one of"),
    ],
)
def test_settings_that_do_not_go_together(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=["heads.behaviour=1", *settings])


def test_a_log_without_labels_is_refused() -> None:
    plain = histories_of(cycle_log())
    with pytest.raises(ConfigError, match=r"heads\.behaviour: this log has no column 'event_type'"):
        train(config_of("heads.behaviour=1"), plain, quiet=True)
    with pytest.raises(ConfigError, match=r"heads\.value: this log has no column 'value'"):
        train(config_of("heads.value=1"), plain, quiet=True)
    unknown = labelled().columns | {"value": np.full(labelled().num_events, np.nan, np.float32)}
    with pytest.raises(ConfigError, match="no training event has a known 'value'"):
        train(config_of("heads.value=1"), dataclasses.replace(labelled(), columns=unknown), quiet=True)
    many = labelled().columns | {"value": np.arange(labelled().num_events, dtype=np.float32)}
    with pytest.raises(ConfigError, match="wanted at most 20 distinct values as classes, got 1,080"):
        train(
            config_of("heads.value=1", "heads.value_as=class"),
            dataclasses.replace(labelled(), columns=many),
            quiet=True,
        )


def test_baskets_train_as_before() -> None:
    settings = ["split.protocol=temporal-basket", "split.cut=1970-01-11", "split.validation_cut=1970-01-10"]
    run = train(config_of(*settings, "training.epochs=1"), histories_of(basket_log()), quiet=True)
    assert run.artifact.heads == []
