from __future__ import annotations

from pathlib import Path

import pytest

from chronorec.training.config import (
    ConfigError,
    GRU4RecConfig,
    config_from,
    config_from_text,
    load_config,
    to_toml,
)


def test_resolved_config_reads_back() -> None:
    config = load_config(overrides=["model.kind=gru4rec", "training.epochs=3", "split.cut=2017-12-01"])
    assert isinstance(config.model, GRU4RecConfig)
    assert config.training.epochs == 3
    assert config.split.cut == "2017-12-01"
    assert config_from_text(to_toml(config), "test") == config


def test_file_and_override(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 7\nlearning_rate = 1\n[model]\nkind = 'sasrec'\nwidth = 32\n")
    config = load_config(file, ["training.epochs=9"])
    assert (config.training.epochs, config.training.learning_rate, config.model.width) == (9, 1.0, 32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainin": {}}, "did you mean 'training'"),
        ({"training": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"training": {"epochs": "three"}}, "training.epochs: wanted int, got 'three'"),
        ({"training": {"epochs": True}}, "training.epochs: wanted int"),
        ({"training": {"precision": "fp16"}}, "wanted one of 'fp32', 'bf16'"),
        ({"model": {"kind": "sasrek"}}, "model.kind: wanted one of sasrec, bert4rec"),
        ({"model": {"kind": "gru4rec", "heads": 2}}, r"unknown key in \[model\] 'heads'"),
        ({"loss": 3}, "loss: wanted a section"),
        ({"training": {"epochs": 0}}, r"training\.epochs: wanted at least 1, got 0"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate: wanted 1e-12 to 10"),
        ({"training": {"clip_norm": float("inf")}}, "clip_norm: wanted"),
        ({"training": {"batch_tokens": 100}}, r"wanted at least model\.max_length = 200"),
    ],
)
def test_unusable_values(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from(values)


def test_unusable_sources(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[training")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(broken)
    with pytest.raises(ConfigError, match=r"wanted section\.key=value"):
        load_config(overrides=["epochs=3"])
