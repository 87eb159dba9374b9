from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from chronorec.artifact import Artifact, ArtifactError, _digest, check_target


def small_artifact() -> Artifact:
    return Artifact(
        name="popularity",
        items=pa.table({"item": ["a", "b", "c"], "title": ["A", None, "C"]}),
        weights={"popularity": np.array([3, 1, 2], np.float32)},
        bias="popularity",
        provenance={"seed": 7},
        config="[split]\n",
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = small_artifact()
    loaded = Artifact.load(saved.save(tmp_path / "model"))
    assert loaded.items.equals(saved.items)
    np.testing.assert_array_equal(loaded.weights["popularity"], saved.weights["popularity"])
    for name in ("name", "bias", "provenance", "config", "program", "adjustments", "max_length"):
        assert getattr(loaded, name) == getattr(saved, name)


def test_saving_again_replaces_the_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    small_artifact().save(tmp_path / "model")
    small_artifact().save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"other files, such as 'thesis.tex'; choose another folder"):
        small_artifact().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    model = small_artifact().save(tmp_path / "model")
    (model / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"such as 'notes.txt'"):
        check_target(model)


def test_a_target_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target, why in (
        (tmp_path / "file", "a file of this name"),
        (tmp_path / "file/model", "file is not a folder"),
        (tmp_path / "file/more/model", "file is not a folder"),
    ):
        for refused in (check_target, small_artifact().save):
            with pytest.raises(ArtifactError, match=why):
                refused(target)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/model.json").write_text('{"format": "layers-model"}')
    with pytest.raises(ArtifactError, match=r"has no model.json that says 'chronorec.model'"):
        check_target(tmp_path / "foreign")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/below"):
        assert check_target(tmp_path / name) == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "foreign"]


def test_no_pickle_and_no_surprise_files(tmp_path: Path) -> None:
    folder = small_artifact().save(tmp_path / "model")
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.json", "weights.safetensors", "items.arrow", "config.toml"}


@pytest.mark.parametrize("name", ["weights.safetensors", "items.arrow", "config.toml"])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = small_artifact().save(tmp_path / "model")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name}: damaged"):
        Artifact.load(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: cannot be read"):
        Artifact.load(folder)


def test_foreign_and_newer_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model here"):
        Artifact.load(tmp_path)
    folder = small_artifact().save(tmp_path / "model")
    header = json.loads((folder / "model.json").read_text())
    del header["header_sha256"]
    for change, message in (
        ({"format": 99}, "format 99, this version reads up to"),
        ({"kind": "other"}, "not a chronorec model"),
        ({"num_items": 4}, "items.arrow has 3 rows, model.json says 4"),
        ({"sha256": {"../../etc/passwd": ""}}, "sha256 must list"),
    ):
        changed = {**header, **change}
        (folder / "model.json").write_text(json.dumps({**changed, "header_sha256": _digest(changed)}))
        with pytest.raises(ArtifactError, match=message):
            Artifact.load(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        Artifact.load(folder)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    file = small_artifact().save(tmp_path / "model") / "model.json"
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text), sort_keys=True))  # other spaces, the same content
    Artifact.load(tmp_path / "model")
    for changed in (
        text.replace('"seed": 7', '"seed": 8'),
        text.replace('"max_length": 200', '"max_length": 201'),
        json.dumps({k: v for k, v in json.loads(text).items() if k != "header_sha256"}),
    ):
        file.write_text(changed)
        with pytest.raises(ArtifactError, match=r"model.json: damaged: its content differs"):
            Artifact.load(tmp_path / "model")
