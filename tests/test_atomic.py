"""Folders that are replaced in one step, whatever ends the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chronorec import atomic
from chronorec.artifact import Artifact
from chronorec.data import Histories

SAVER = """
import sys, numpy as np, pyarrow as pa
from chronorec.artifact import Artifact
from chronorec.data import EventLog
folder, number = sys.argv[1], 0
while True:
    number += 1
    weights = {"w": np.full(999, number, np.float32)}
    Artifact("m", pa.table({"item": [number]}), weights).save(folder + "/model")
    log = pa.table({"user_id": [number] * 3, "item_id": [1, 2, 3], "position": [1, 2, 3]})
    EventLog.read(log, order="position").histories().save(folder + "/histories")
    print("saved", flush=True)
"""


def test_a_kill_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        saved = Artifact.load(tmp_path / "model")
        assert (saved.weights["w"] == saved.items["item"][0].as_py()).all()
        assert Histories.open(tmp_path / "histories", verify=True).num_events == 3


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from chronorec import atomic
left = int(sys.argv[2])
def step(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
with atomic.new_folder(Path(sys.argv[1])) as work:
    for name in "ab":
        (work / name).write_text("new")
"""


def test_a_kill_before_any_step_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    """Every file operation of a replacement is once the one before which the process dies."""
    if not exchanges(tmp_path / "try"):
        pytest.skip("the file system has no exchange")
    place, seen = tmp_path / "place", []
    for step in range(1, 50):
        with atomic.new_folder(place) as work:
            for name in "ab":
                (work / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED_AT, str(place), str(step)], check=False)
        (text,) = {(place / name).read_text() for name in "ab"}
        seen.append(text)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == "old"
    assert seen[-3:] == ["new"] * 3  # the old folder is deleted after the exchange


def write(folder: Path, text: str) -> None:
    with atomic.new_folder(folder) as work:
        (work / "file").write_text(text)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("place")
    for name, text in (("place", "one"), ("place", "two"), ("link", "three")):
        write(tmp_path / name, text)
        assert (tmp_path / "place/file").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "place"]
    assert (tmp_path / "link").is_symlink()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.usefixtures("way")
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "place", "old")
    with pytest.raises(FileNotFoundError), atomic.new_folder(tmp_path / "place") as work:
        (work / "missing").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place/file").read_text() == "old"
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if "old" not in source.name and target == tmp_path / "place":
            raise OSError("full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "place", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place/file").read_text() == "old"


def exchanges(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / name).touch()
    return atomic._exchange(folder / "a", folder / "b")


def test_this_system_exchanges_names(tmp_path: Path) -> None:
    if not exchanges(tmp_path):
        pytest.skip("the file system has no exchange")
    assert (tmp_path / "a/b").exists()
    assert (tmp_path / "b/a").exists()
