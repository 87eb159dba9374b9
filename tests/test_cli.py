from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chronorec.cli import main
from tests.support.logs import cycle_log

TRAIN = [
    "--set",
    "training.epochs=3",
    "--set",
    "model.width=16",
    "--set",
    "training.batch_tokens=256",
    "--quiet",
]


def test_from_log_to_recommendation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, histories, model = (str(tmp_path / name) for name in ("log.parquet", "histories", "model"))
    pq.write_table(cycle_log(), log)
    assert main(["prepare", log, "-o", histories]) == 0
    assert "1,200" in capsys.readouterr().out
    assert main(["train", histories, "-o", model, *TRAIN]) == 0
    assert "next: chronorec evaluate" in capsys.readouterr().out
    page, result = str(tmp_path / "r.html"), str(tmp_path / "r.json")
    assert main(["evaluate", model, "--data", histories, "--slices", "--html", page, "--json", result]) == 0
    for picture in ("Learning curves", "Calibration", "how often it was next"):
        assert picture in Path(page).read_text()
    table = capsys.readouterr().out
    assert "markov (baseline)" in table
    assert {m["name"] for m in json.loads((tmp_path / "r.json").read_text())["models"]} >= {
        "sasrec",
        "markov",
    }
    assert main(["recommend", model, "--history", "item 3", "nothing", "-k", "3"]) == 0
    assert "1 of 2 events skipped" in capsys.readouterr().out
    assert main(["recommend", model, "--data", histories, "--user", "5", "--json", "-k", "4"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 4
    assert main(["recommend", model, "--history", "item 3", "--steps", "3", "-k", "2"]) == 0
    ways = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [way.count(">") for way in ways] == [2, 2]
    assert float(ways[0][0][:-1]) >= float(ways[1][0][:-1])
    assert main(["recommend", model, "--history", "item 3", "--steps", "3", "-k", "2", "--json"]) == 0
    assert [len(way["items"]) for way in json.loads(capsys.readouterr().out)] == [3, 3]
    assert main(["recommend", model, "--history", "item 3", "--behaviour", "buy"]) == 1
    assert "train with heads.behaviour above 0" in capsys.readouterr().err
    assert main(["recommend", model, "--data", histories, "--user", "nobody"]) == 1
    assert "whole numbers" in capsys.readouterr().err
    assert main(["recommend", model, "--data", histories, "--user", "500"]) == 1
    assert "not among the 60 users" in capsys.readouterr().err


def test_errors_are_one_line_and_name_the_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(tmp_path), "--history", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("chronorec recommend: ")
    assert "no model here" in error
    assert main(["train", str(tmp_path / "nothing"), "-o", str(tmp_path / "m")]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "recommend", "demo", "doctor"])
def test_every_command_shows_an_example(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chronorec", command, "--help"], capture_output=True, text=True, check=True
    )
    assert f"example:\n  chronorec {command}" in done.stdout.replace("CHRONOREC_ISA=avx2 ", "")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for what in ("chronorec", "instruction set", "threads", "torch", "triton", "CUDA module"):
        assert what in report
