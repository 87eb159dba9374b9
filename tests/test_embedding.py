"""The C++ example, which loads a model folder without Python, against the Python engine."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from chronorec.engine import Engine, Sessions
from tests.test_sessions import ENGINES, OTHERS, STREAMING

DAY = 86_400_000_000
WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def example(pytestconfig: pytest.Config) -> Path:
    build: Path | None = pytestconfig.getoption("--build-dir")
    if build is None or not (build / "chronorec_recommend").is_file():
        pytest.skip("needs --build-dir of a build with -DCHRONOREC_EXAMPLE=ON")
    return build / "chronorec_recommend"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ENGINES["gru"].artifact.save(tmp_path_factory.mktemp("embedding") / "gru")


def run(example: Path, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [example, *map(str, arguments)], capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("kind", STREAMING)
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_example_answers_like_python(
    example: Path, tmp_path: Path, kind: str, exclude_seen: bool
) -> None:
    artifact = dataclasses.replace(ENGINES[kind].artifact, exclude_seen=exclude_seen)
    engine, at = Engine(artifact), 40 * DAY
    generator = np.random.default_rng(3)
    for count in (0, 1, 30):
        sessions, codes = Sessions(engine), generator.integers(0, engine.num_items, count)
        times = np.sort(generator.integers(0, at, count))
        types = generator.integers(-1, max(len(engine.event_types.names), 1), count)
        told = engine.event_types.names_of(types) if engine.event_types else None
        sessions.extend("u", engine.vocabulary.names(codes), times.tolist(), told)
        wanted = sessions.recommend("u", at=at, k=engine.num_items)
        events = [f"{code}:{time}:{kind}" for code, time, kind in zip(codes, times, types, strict=True)]
        path = artifact.save(tmp_path / "model")
        status, out, error = run(example, path, engine.num_items, at, *events)
        assert (status, error) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert [engine.vocabulary.names(np.array([int(code)]))[0] for code, _ in lines] == wanted.items
        assert np.array([score for _, score in lines], np.float32).tolist() == wanted.scores.tolist()


def test_models_without_a_state_are_refused(example: Path, tmp_path: Path) -> None:
    for kind in (*OTHERS, "frequency"):
        path = ENGINES[kind].artifact.save(tmp_path / "model")
        status, _, error = run(example, path, 3, DAY)
        assert status == 1
        assert "model.json: this model keeps no state from event to event" in error


def broken(content: bytes) -> dict[str, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = next(iter(header))

    def changed(**fields: object) -> bytes:
        text = json.dumps(header | {name: header[name] | fields}).encode()
        return struct.pack("<Q", len(text)) + text + data

    return {
        "too short": content[:5],
        "the header leaves the file": struct.pack("<Q", 2**63) + content[8:],
        "data_offsets leave the file": content[:-8],
        "data_offsets do not fit the shape": changed(data_offsets=[0, 4]),
        "wanted a weight of F32, I32 or I64, got BF16": changed(dtype="BF16"),
        "bad shape": changed(shape=[-1, 4]),
        "wanted a shape of at most 4": changed(shape=[1] * 5),
        "parse error": content[:8] + b"\xff" * length + data,
        "type must be array": changed(shape="wide"),
    }


def test_damaged_files_are_refused(example: Path, folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    header = (folder / "model.json").read_text()
    try:
        for reason, damaged in broken(content).items():
            (folder / WEIGHTS).write_bytes(damaged)
            status, _, error = run(example, folder, 3, DAY, "1:5")
            assert status == 1
            assert f"{folder}/{WEIGHTS}: " in error
            assert reason in error
        (folder / WEIGHTS).write_bytes(content)  # as it was
        for old, new, reason in (
            ("{", "", "parse error"),
            ('"chronorec.model"', '"other"', "not a chronorec model"),
            ('"format": 1', '"format": 2', "of a newer format"),
            ('"num_items": 40', '"num_items": 41', "table: wanted"),
            ('"in": ', '"from": ', "in: wanted a text, got none"),
            ('"call": "gru"', '"call": "tcn"', "call: wanted one that goes on"),
            ('"weight_hh": "', '"weight_hh": "x', "of that name"),
        ):
            assert old in header
            (folder / "model.json").write_text(header.replace(old, new, 1))
            status, _, error = run(example, folder, 3, DAY, "1:5")
            assert status == 1
            assert "model.json: " in error
            assert reason in error
    finally:
        (folder / WEIGHTS).write_bytes(content)
        (folder / "model.json").write_text(header)
    assert run(example, folder, 3, DAY, "1:5")[0] == 0


def test_bad_arguments(example: Path, folder: Path) -> None:
    for arguments, reason in (
        ((folder, 0, 0), "K: wanted"),
        ((folder, 3, 0, "1:1:-2"), "types: wanted codes of the model"),
        ((folder, 3, 0, "40:1"), "wanted ITEM:TIME[:TYPE] with an item of the model"),
        ((folder, 3, 0, "x"), "stoll"),
        ((folder / "nowhere", 3, 0), "cannot be opened"),
    ):
        status, _, error = run(example, *arguments)
        assert status == 1
        assert reason in error
    assert run(example, folder)[0] == 2
