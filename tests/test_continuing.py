"""Training that goes on from a model when its log has grown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from chronorec.artifact import Artifact
from chronorec.cli import main
from chronorec.data import Histories, prepare
from chronorec.engine import Engine, updated
from chronorec.models import SequenceModel
from chronorec.models.heads import BehaviourHead, StepsHead
from chronorec.training import load_config, train
from chronorec.training.config import ConfigError
from chronorec.training.continuing import start_from, trained_until
from chronorec.training.run import build_model
from tests.support.logs import DAY, cycle_log, histories_of


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """Overrides the one of conftest: training must be deterministic without torch's own switch."""


TEMPORAL = ["split.protocol=temporal-event", "split.validation_cut=1970-01-17", "split.cut=1970-01-19"]
LATER = ["split.validation_cut=1970-02-06", "split.cut=1970-02-08"]
SMALL = ["model.kind=gru4rec", "model.width=16", "model.hidden_size=16", "model.dropout=0"]
LONG = ["training.epochs=40", "training.patience=40"]
FAST = ["training.learning_rate=0.01", "training.warmup_steps=5", "training.batch_tokens=256"]


def grown_log() -> pa.Table:
    """The same users go on a month later, half of them round the circle, half round one of new items."""
    later = cycle_log(users=60, events=10, items=12, seed=1)
    items = later["item_id"].to_pylist()
    fresh = [later["user_id"][row].as_py() % 2 == 1 for row in range(len(items))]
    names = [
        f"fresh {int(item.split()[1]) % 6}" if new else item for item, new in zip(items, fresh, strict=True)
    ]
    time = later["timestamp"].cast(pa.int64()).to_numpy() + 30 * DAY
    return pa.table(
        {
            "user_id": later["user_id"],
            "item_id": names,
            "timestamp": pa.array(time, pa.timestamp("us")),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything by the commands that people use: histories, a model, more events."""
    folder = tmp_path_factory.mktemp("continuing")
    pq.write_table(cycle_log(), folder / "events.parquet")
    pq.write_table(grown_log(), folder / "new.parquet")
    prepare(folder / "events.parquet", folder / "histories")
    settings = [*TEMPORAL, *SMALL, *FAST, "training.epochs=25"]
    assert run(folder, "model", *settings) == 0
    prepare(folder / "new.parquet", folder / "histories", append=True)
    return folder


def run(folder: Path, name: str, *settings: str, start: str | None = None) -> int:
    overrides = [part for setting in settings for part in ("--set", setting)]
    begin = [] if start is None else ["--from", str(folder / start)]
    where = [str(folder / "histories"), "-o", str(folder / name)]
    return main(["train", *where, "--quiet", *begin, *overrides])


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[Artifact, Artifact]:
    assert run(folder, "model2", *LATER, *LONG, start="model") == 0
    return Artifact.load(folder / "model"), Artifact.load(folder / "model2")


def ids(artifact: Artifact) -> list[str]:
    return artifact.items.column("item").to_pylist()


CIRCLE = [f"item {number}" for number in range(12)]


def test_old_items_keep_their_codes_and_what_was_learned(models: tuple[Artifact, Artifact]) -> None:
    before, after = models
    assert ids(after)[: before.num_items] == ids(before)
    assert len(ids(after)) == before.num_items + 6
    engines = [Engine(model) for model in models]
    for number in range(12):
        history = [f"item {(number + step) % 12}" for step in range(5)]
        old, new = (engine.recommend(history, k=1, candidates=CIRCLE).items for engine in engines)
        assert old == new == [f"item {(number + 5) % 12}"]


def test_a_little_training_changes_little(folder: Path, models: tuple[Artifact, Artifact]) -> None:
    settings = [*TEMPORAL, *SMALL, *FAST, *LATER, "training.epochs=1", "training.learning_rate=1e-3"]
    histories = Histories.open(folder / "histories")
    config, history = load_config(overrides=settings), ["item 3", "item 4", "item 5"]
    near, far = (train(config, histories, start=start, quiet=True).artifact for start in (models[0], None))
    scores = [Engine(model).score(history, CIRCLE) for model in (models[0], near, far)]
    assert np.corrcoef(scores)[0, 1] > 0.98
    assert np.corrcoef(scores)[0, 2] < 0.8


def test_new_items_are_learned(models: tuple[Artifact, Artifact]) -> None:
    engine = Engine(models[1])
    for number in range(6):
        history = [f"fresh {(number + step) % 6}" for step in range(4)]
        assert engine.recommend(history, k=1).items == [f"fresh {(number + 4) % 6}"]


def test_where_it_comes_from_is_written_down(folder: Path, models: tuple[Artifact, Artifact]) -> None:
    before, after = models
    assert after.provenance["started_from"] == before.identity
    assert trained_until(before) == 15 * DAY
    assert trained_until(after) == 35 * DAY
    header = json.loads((folder / "model2" / "model.json").read_text())
    assert "started_from" in header["provenance"]
    config = load_config(overrides=[*TEMPORAL, *SMALL, *FAST, *LATER, *LONG])
    again = train(config, Histories.open(folder / "histories"), start=before, quiet=True)
    assert again.artifact.identity == after.identity  # bitwise
    other = train(config, Histories.open(folder / "histories"), quiet=True)
    assert other.artifact.identity != after.identity


def test_training_begins_with_the_very_weights(folder: Path, models: tuple[Artifact, Artifact]) -> None:
    """And the rows of new items are what they are in a new model."""
    histories, before = Histories.open(folder / "histories"), models[0]
    for settings in (SMALL, [*SMALL, "model.tied=false", "model.time_features=true"]):
        config = load_config(overrides=settings)
        torch.manual_seed(3)
        old = build_model(config.model, histories_of(cycle_log())).eval()
        start = dataclasses.replace(before, weights=old.export(before.items).weights)
        torch.manual_seed(4)
        model = build_model(config.model, histories)
        fresh = {name: value.clone() for name, value in model.state_dict().items()}
        start_from(model, start)
        for name, value in model.state_dict().items():
            wanted = start.weights[name]
            np.testing.assert_array_equal(value[: len(wanted)].numpy(), wanted)
            np.testing.assert_array_equal(value[len(wanted) :].numpy(), fresh[name][len(wanted) :].numpy())
        assert len(model.item_embedding) == before.num_items + 6


def test_heads_of_the_same_classes_go_on(folder: Path, models: tuple[Artifact, Artifact]) -> None:
    histories, before = Histories.open(folder / "histories"), models[0]
    config = load_config(overrides=SMALL)

    def built(num_items: int, behaviours: list[str]) -> SequenceModel:
        log = histories_of(cycle_log()) if num_items == 12 else histories
        model = build_model(config.model, log)
        sizes: dict[str, Any] = {"num_items": num_items, "width": 16, "weight": 1.0}
        shares = [1 / len(behaviours)] * len(behaviours)
        model.heads["behaviour"] = BehaviourHead(behaviours, shares=shares, **sizes)
        model.heads["steps"] = StepsHead(16, 3, 1.0)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model

    start = built(12, ["buy", "view"]).eval().export(before.items)
    item = "heads.behaviour.pair.item"
    for behaviours, goes_on in ((["buy", "view"], True), (["buy", "sell"], False)):
        model = built(histories.num_items, behaviours)
        start_from(model, start)
        weights = model.state_dict()
        same = np.array_equal(weights[item][:12].numpy(), start.weights[item])
        assert same == goes_on
        name = "heads.steps.ahead.weight"
        np.testing.assert_array_equal(weights[name].numpy(), start.weights[name])


def test_a_model_that_was_updated_goes_on(folder: Path, models: tuple[Artifact, Artifact]) -> None:
    """Told of items in the order in which an appended log has them, an update gives them the same codes."""
    log = pq.read_table(folder / "new.parquet")
    early = log.filter(pc.less(log["timestamp"], pa.scalar(33 * DAY).cast(pa.timestamp("us"))))
    events = early.rename_columns(["user", "item", "time"])
    histories = Histories.open(folder / "histories")

    def history_of(user: str | int) -> tuple[np.ndarray, np.ndarray]:
        code = histories.users.column("user").to_pylist().index(user)
        own = slice(int(histories.offsets[code]), int(histories.offsets[code]) + 20)
        return histories.item[own], histories.time[own]

    order = histories.items.select(["item"])
    start = updated(Engine(models[0]), events, order, history_of=history_of)[0].artifact
    assert trained_until(start) == 32 * DAY
    assert ids(start) == ids(models[1])
    config = load_config(overrides=[*TEMPORAL, *SMALL, *FAST, *LATER, "training.epochs=1"])
    assert train(config, histories, start=start, quiet=True).artifact.num_items == start.num_items


def test_unfit_beginnings_are_refused(
    folder: Path, models: tuple[Artifact, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*settings: str, start: str = "model") -> str:
        assert run(folder, "nothing", *settings, start=start) == 1
        assert not (folder / "nothing").exists()
        return capsys.readouterr().err

    error = refused("split.validation_cut=1970-01-10", "split.cut=1970-01-16")
    assert "split.validation_cut: wanted a time after 1970-01-16" in error
    assert "but split.protocol = 'temporal-event' is 1970-01-10" in error
    assert "'leave-one-out' has none" in refused("split.protocol=leave-one-out")
    assert "model.width: wanted 16 as in the model, got 32" in refused(*LATER, "model.width=32")
    assert "training.item2vec: wanted false beside --from" in refused(*LATER, "training.item2vec=true")
    other = load_config(overrides=[*TEMPORAL, *LATER, "model.kind=popularity"])
    with pytest.raises(ConfigError, match=r"model.kind: wanted 'gru4rec' as in the model, got 'popularity'"):
        train(other, Histories.open(folder / "histories"), start=models[0], quiet=True)
    turned = models[0].items.take(list(range(models[0].num_items))[::-1])
    dataclasses.replace(models[0], items=turned).save(folder / "turned")
    error = refused(*LATER, start="turned")
    assert f"item 0 is {ids(models[0])[0]}, in the model {ids(models[0])[-1]}" in error
    assert "prepare --append" in error
    dataclasses.replace(models[1], name="wide").save(folder / "wide")
    histories = histories_of(cycle_log())
    config = load_config(overrides=[*TEMPORAL, *SMALL])
    with pytest.raises(ConfigError, match="12 items, the model has 18, such as fresh"):
        train(config, histories, start=Artifact.load(folder / "wide"), quiet=True)
    silent = dataclasses.replace(models[0], fallback=[], provenance={})
    later = load_config(overrides=[*TEMPORAL, *SMALL, *LATER])
    with pytest.raises(ConfigError, match="does not say until when it was trained"):
        train(later, Histories.open(folder / "histories"), start=silent, quiet=True)
