"""What precisions cost: one row each, float32 first, one look at the test events for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chronorec.artifact import Artifact, ArtifactError
from chronorec.cli import main
from chronorec.data import Histories
from chronorec.engine import Engine, Precisions
from chronorec.evaluation.ledger import AlreadyTested, read_ledger
from chronorec.evaluation.protocols import evaluate_split
from chronorec.training import load_config, train
from chronorec.training.config import config_from_text
from chronorec.training.precisions import compare_precisions
from chronorec.training.splitting import make_split
from tests.support.logs import cycle_log, histories_of


@pytest.fixture(scope="module")
def histories() -> Histories:
    return histories_of(cycle_log(users=200, items=1500))


@pytest.fixture(scope="module")
def folder(histories: Histories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "gru"
    settings = ["model.kind=gru4rec", "model.width=16", "training.epochs=1", "training.validate_every=1"]
    train(load_config(overrides=settings), histories, output=folder, quiet=True)
    return folder


def test_every_precision_is_a_row_of_what_evaluation_says(folder: Path, histories: Histories) -> None:
    model = Artifact.load(folder)
    report = compare_precisions("gru", model, histories, part="validation")
    rows = {row.precisions: row for row in report.rows}
    assert next(iter(rows)) == Precisions()
    assert len(rows) == len(report.rows) == 8
    assert {own.weights for own in rows} == {own.table for own in rows} == {"float32", "bfloat16", "int8"}
    split = make_split(config_from_text(model.config, "gru").split, histories)
    for own, row in rows.items():
        again = evaluate_split(Engine(model, own), histories, split, name="", part="validation", ks=(10,))
        assert row.metrics == again.metrics
        if own.weights == own.states == "float32":  # the table's precision changes no answer
            assert row.metrics == rows[Precisions()].metrics
            assert row.same_items == 1
            assert row.change.mean == 0
        assert 0 <= row.same_items <= 1
    assert min(row.same_items for row in report.rows) < 1
    text = report.text()
    assert f"{rows[Precisions()].metrics['ndcg@10']:.4f}" in text
    assert "same top 10" in text


def test_the_table_is_one_look_at_the_test_events(
    folder: Path, tmp_path: Path, histories: Histories, capsys: pytest.CaptureFixture[str]
) -> None:
    histories.save(tmp_path / "histories")
    command = ["evaluate", str(folder), "--data", str(tmp_path / "histories"), "--precisions"]
    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0
    assert "this table included as one: 1." in capsys.readouterr().out
    tests = [entry for entry in read_ledger(folder) if entry.part == "test"]
    assert len(tests) == 1
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["rows"][0]["precisions"] == {"table": "float32", "weights": "float32", "states": "float32"}
    assert said["rows"][0]["metrics"] == tests[0].metrics
    assert main(command) == 1
    assert "read once already" in capsys.readouterr().err
    with pytest.raises(AlreadyTested):
        compare_precisions("gru", Artifact.load(folder), histories)
    assert main([*command, "--again"]) == 0
    assert main([*command, "--slices"]) == 1
    assert "--precisions: wanted one MODEL" in capsys.readouterr().err


def test_other_data_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="another split"):
        compare_precisions("gru", Artifact.load(folder), histories_of(cycle_log(users=30, seed=1)))
