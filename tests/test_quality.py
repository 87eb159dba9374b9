"""The table of quality: a row runs, is recorded, is not read twice, and stands beside published figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("benchmarks.quality", reason="the benchmarks are not part of a source distribution")

from benchmarks.quality.__main__ import main
from benchmarks.quality.rows import HERE, read_histories, read_row
from benchmarks.quality.table import read_records, table, tomllib
from chronorec.training import ConfigError

TINY = """
[row]
seeds = [0, 1]
[split]
protocol = "leave-one-out"
exclude_seen = true
[model]
kind = "sasrec"
width = 8
max_length = 20
[training]
epochs = 2
batch_tokens = 256
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log in the place of MovieLens-1M: users walk round 12 items; one more item is rare."""
    users, events = 40, 15
    start = np.random.default_rng(0).integers(0, 12, users)
    item = (start[:, None] + np.arange(events)) % 12
    item[0, :3] = 99
    (tmp_path / "logs/ml-1m").mkdir(parents=True)
    columns = {
        "user_id": np.repeat(np.arange(users), events),
        "item_id": item.reshape(-1),
        "position": np.tile(np.arange(events), users),
    }
    pq.write_table(pa.table(columns), tmp_path / "logs/ml-1m/interactions.parquet")
    (tmp_path / "ml1m_tiny.toml").write_text(TINY)
    return tmp_path


def test_a_row_of_two_seeds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, records = str(folder / "ml1m_tiny.toml"), folder / "records.jsonl"
    common = [row, "--data", str(folder / "logs"), "--records", str(records)]
    assert main([*common, "--output", str(folder / "models")]) == 0  # a process for each seed
    found = read_records(records)
    assert [record["seed"] for record in found] == [0, 1]
    assert (folder / "models/ml1m_tiny-1/evaluations.json").exists()
    for record in found:
        assert record["part"] == "test"
        assert record["split"] == found[0]["split"]
        assert record["peak_mib"] > 0
        assert 0 < record["seconds_per_epoch"] < record["total_seconds"]
        assert record["events_per_second"] == pytest.approx(40 * 13 / record["seconds_per_epoch"], rel=0.1)
        assert set(record["baselines"]) == {"popularity", "markov"}
    capsys.readouterr()
    assert main([*common, "--seed", "1"]) == 1
    assert "seed 1: its test events were read 1 times already" in capsys.readouterr().err
    assert main([*common, "--seed", "1", "--part", "validation"]) == 0
    assert main([*common, "--seed", "1", "--set", "training.epochs=1"]) == 0  # another configuration
    assert len(read_records(records)) == 4
    capsys.readouterr()
    assert main(["--table", "--records", str(records)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("### ml1m: leave-one-out, test") == 1
    assert printed.count("### ml1m: leave-one-out, validation") == 1
    assert ", 2 seeds** | " in printed
    assert "±" in printed
    assert "| SASRec, full cross entropy (Turning Dross into Gold) (published) | 0.3152 | 0.1821 |" in printed
    assert "markov (baseline)" in printed


def test_a_peer_stands_beside_its_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python, records = folder / "python", folder / "records.jsonl"
    python.write_text('#!/bin/sh\necho "epoch 1: 12.5 s"\necho "peak memory above imports: 900 MiB"\n')
    python.chmod(0o755)
    row = str(folder / "ml1m_tiny.toml")
    common = [row, "--data", str(folder / "logs"), "--records", str(records)]
    assert main([*common, "--peer", f"rectools={python}"]) == 0
    machine = {"cpu": "x", "cores": 2, "config": "c", "data": "ml1m", "protocol": "leave-one-out"}
    run = {"row": "ml1m_tiny", "part": "test", "split": "s" * 64, "seed": 0, "queries": 5, "baselines": {}}
    cost = {"seconds_per_epoch": 2.5, "peak_mib": 100.0}
    with records.open("a") as file:
        file.write(json.dumps(machine | run | cost | {"metrics": {"recall@10": 0.3, "ndcg@10": 0.2}}) + "\n")
    printed = table(read_records(records))
    assert "rectools s/epoch" in printed
    assert "12.5, 5.0 x, 9.0 x the memory" in printed
    with pytest.raises(SystemExit, match=r"--peer nobody: needs --data and nobody_sasrec\.py"):
        main([*common, "--peer", "nobody=python"])


def test_rows_and_logs(folder: Path) -> None:
    row = read_row(folder / "ml1m_tiny.toml", ["training.seed=7"])
    assert (row.data, row.seeds, row.config.training.seed) == ("ml1m", [0, 1], 7)
    histories = read_histories(row.log, folder / "logs")
    assert histories.num_items == 12  # the rare one is gone
    assert histories.content_hash == read_histories(row.log, folder / "logs/ml-1m").content_hash
    (folder / "unknown_x.toml").write_text("")
    with pytest.raises(ConfigError, match="wanted a name that begins with ml1m"):
        read_row(folder / "unknown_x.toml", [])
    (folder / "ml1m_bad.toml").write_text("[row]\nseed = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key in \[row\]: seed"):
        read_row(folder / "ml1m_bad.toml", [])


def test_given_users_come_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "diginetica-sessions").mkdir()
    log = {"user_id": [1, 1, 2, 2], "item_id": [5, 6, 5, 7], "position": [0, 1, 0, 1]}
    table_ = pa.table({**log, "split": pa.array(["train", "train", "test", "test"]).dictionary_encode()})
    pq.write_table(table_, tmp_path / "diginetica-sessions/interactions.parquet")
    logs = tomllib.loads((HERE / "data.toml").read_text())
    histories = read_histories(logs["diginetica"], tmp_path)
    assert histories.users.column("split").to_pylist() == ["train", "test"]


@pytest.mark.parametrize("path", sorted(HERE.glob("*_*.toml")), ids=lambda path: path.stem)
def test_every_row_can_be_read(path: Path) -> None:
    assert read_row(path, []).seeds


def test_published_figures_name_known_logs() -> None:
    logs = tomllib.loads((HERE / "data.toml").read_text())
    for figure in tomllib.loads((HERE / "published.toml").read_text())["figure"]:
        assert figure["data"] in logs
        assert figure["metrics"]
