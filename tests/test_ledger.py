"""The test events are read once: every evaluation is on record in the model folder, whatever happens."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chronorec.artifact import LEDGER, Artifact, ArtifactError
from chronorec.cli import main
from chronorec.data import Histories
from chronorec.evaluation.ledger import AlreadyTested, count_tests, read_ledger, record
from chronorec.training import load_config, train
from chronorec.training.comparison import compare
from tests.support.logs import basket_log, histories_of
from tests.test_artifact import small_artifact
from tests.test_report import result


@pytest.fixture(scope="module")
def histories() -> Histories:
    return histories_of(basket_log())


def markov(histories: Histories, folder: Path, successors: int = 500) -> Artifact:
    cuts = ["split.protocol=temporal-basket", "split.cut=1970-01-11", "split.validation_cut=1970-01-10"]
    config = load_config(
        overrides=[*cuts, "model.kind=markov", f"model.max_successors={successors}"],
    )
    return train(config, histories, output=folder, quiet=True).artifact


def test_a_second_test_evaluation_must_be_asked_for(tmp_path: Path, histories: Histories) -> None:
    model = markov(histories, tmp_path / "model")
    report = compare({"m": model}, histories)
    assert "on the test events, this one included: markov: 1." in re.sub(r"\s+", " ", report.text())
    with pytest.raises(
        AlreadyTested, match=r"m: its test events were read once already, last on 20.*--again"
    ):
        compare({"m": Artifact.load(tmp_path / "model")}, histories)
    again = compare({"m": Artifact.load(tmp_path / "model")}, histories, again=True)
    assert "markov: 2." in again.markdown()
    assert [row["tested"] for row in again.to_dict()["models"] if row["name"] == "markov"] == [
        [{"own": 2, "earlier": 0}]
    ]
    first, second = read_ledger(tmp_path / "model")
    assert first.metrics == second.metrics == again.to_dict()["models"][_place(again)]["metrics"]
    assert first.split == model.provenance["split"]
    assert first.part == "test"


def _place(report: object) -> int:
    names = [row["name"] for row in report.to_dict()["models"]]  # type: ignore[attr-defined]
    return names.index("markov")


def test_a_refused_evaluation_records_nothing(tmp_path: Path, histories: Histories) -> None:
    tested = markov(histories, tmp_path / "tested")
    fresh = markov(histories, tmp_path / "fresh", successors=3)
    compare({"tested": tested}, histories)
    with pytest.raises(AlreadyTested):
        compare({"fresh": fresh, "tested": tested}, histories)
    assert read_ledger(tmp_path / "fresh") == []


def test_the_same_model_trained_again_is_the_same_model(tmp_path: Path, histories: Histories) -> None:
    folder = tmp_path / "model"
    compare({"m": markov(histories, folder)}, histories)
    with pytest.raises(AlreadyTested):
        compare({"m": markov(histories, folder)}, histories)
    other = markov(histories, folder, successors=3)
    report = compare({"m": other}, histories)
    assert "markov: 1 (earlier models of its folder: 1)." in re.sub(r"\s+", " ", report.text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_model_in_no_folder_is_not_recorded(histories: Histories, tmp_path: Path) -> None:
    model = dataclasses.replace(markov(histories, tmp_path / "model"), folder=None)
    assert "markov: not recorded." in compare({"m": model}, histories).text()
    assert count_tests(model) is None


def test_validation_is_recorded_and_free(tmp_path: Path) -> None:
    model = Artifact.load(small_artifact().save(tmp_path / "model"))
    for _ in range(2):
        record(model, result("popularity", 0.2, part="validation"))
    assert count_tests(model).own == 0  # type: ignore[union-attr]
    assert [entry.part for entry in read_ledger(tmp_path / "model")] == ["validation"] * 2


def test_the_record_is_outside_of_the_hashed_content(tmp_path: Path) -> None:
    folder = small_artifact().save(tmp_path / "model")
    before = (folder / "model.json").read_bytes()
    record(Artifact.load(folder), result("popularity", 0.2))
    assert (folder / "model.json").read_bytes() == before
    assert Artifact.load(folder).identity == small_artifact().identity


def test_damaged_and_newer_records_are_refused(tmp_path: Path) -> None:
    file = tmp_path / LEDGER
    for content, why in (
        ("{", "damaged"),
        ("[]", "not a record"),
        (json.dumps({"kind": "chronorec.evaluations", "format": 9}), "format 9, this version reads up to 1"),
        (json.dumps({"kind": "chronorec.evaluations", "format": 1, "evaluations": [{}]}), "damaged"),
    ):
        file.write_text(content)
        with pytest.raises(ArtifactError, match=why):
            read_ledger(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, histories: Histories) -> None:
    model = markov(histories, tmp_path / "model")
    (tmp_path / "model").chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot be written to"):
        compare({"m": model}, histories)


def _record_many(folder: str, count: int) -> None:
    model = Artifact.load(folder)
    for _ in range(count):
        record(model, result("popularity", 0.2))


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    folder = str(small_artifact().save(tmp_path / "model"))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record_many, args=(folder, 10)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(read_ledger(folder)) == 30


_WRITE = """
import sys
sys.path.insert(0, {root!r})
from tests.test_ledger import _record_many
_record_many({folder!r}, 10**6)
"""


def test_a_kill_leaves_a_whole_record(tmp_path: Path) -> None:
    folder = str(small_artifact().save(tmp_path / "model"))
    code = _WRITE.format(root=str(Path(__file__).parents[1]), folder=folder)
    kept = 0
    for longer in (0.0, 0.0113, 0.0177):
        process = subprocess.Popen([sys.executable, "-c", code])
        while len(read_ledger(folder)) < kept + 3:  # reading beside a writer always finds a whole record
            time.sleep(0.001)
        time.sleep(longer)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = len(read_ledger(folder))
        record(Artifact.load(folder), result("popularity", 0.2))
        kept += 1
        assert len(read_ledger(folder)) == kept
    small_artifact().save(tmp_path / "model")  # what a kill may leave behind does not lock the folder
    assert len(read_ledger(folder)) == kept


def test_command_line(tmp_path: Path, histories: Histories, capsys: pytest.CaptureFixture[str]) -> None:
    histories.save(tmp_path / "histories")
    markov(histories, tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "histories")]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 1
    assert "read them again with --again" in capsys.readouterr().err
    assert main([*command, "--part", "validation"]) == 1  # a counted model is counted over validation too
    capsys.readouterr()
    assert main([*command, "--again"]) == 0
    assert "markov: 2." in re.sub(r"\s+", " ", capsys.readouterr().out)
