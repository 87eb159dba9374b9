"""Model folders that are damaged, or exchanged again and again while requests are answered."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np

from benchmarks.faults.models import event, make_models, server
from chronorec.artifact import ArtifactError
from chronorec.engine import Engine
from chronorec.server import Service
from chronorec.server.schemas import Request

CLIENTS = 3


def corrupt_models(count: int, seed: int) -> dict[str, int]:
    """Damages of single bits, cuts and losses of files: each is refused, and the model before goes on."""
    rng = np.random.default_rng(seed)
    kinds = {"bits flipped": 0, "files cut short": 0, "files gone": 0}
    with tempfile.TemporaryDirectory() as work:
        good = make_models(Path(work), "a")["a"]
        folder = Path(work) / "served"
        shutil.copytree(good, folder)
        files = sorted(path.name for path in folder.iterdir() if path.stat().st_size > 0)
        service = Service({"m": folder})
        wanted = service.recommend(Request(history=[1, 2, 3]))
        for _ in range(count):
            kind, path = str(rng.choice(list(kinds))), folder / str(rng.choice(files))
            _damage(path, kind, rng)
            kinds[kind] += 1
            refusal = _refusal(service)
            assert str(folder) in refusal, f"{path}: {kind}, and the model was taken"
            assert service.recommend(Request(history=[1, 2, 3])) == wanted
            shutil.copy(good / path.name, path)
        assert service.reload() == ["m"]
        assert service.recommend(Request(history=[1, 2, 3])) == wanted
    return {**kinds, "taken": 0}


def _refusal(service: Service) -> str:
    """Why the models cannot be read; empty if they can."""
    try:
        service.reload()
    except ArtifactError as error:
        return str(error)
    return ""


def _damage(path: Path, kind: str, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if kind == "bits flipped":
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif kind == "files cut short":
        path.write_bytes(content[: rng.integers(len(content))])
    else:
        path.unlink()


def reload_storm(count: int, seed: int) -> dict[str, int]:
    """Reloads between two models while clients tell, ask and forget: every answer is one of one model."""
    with tempfile.TemporaryDirectory() as work:
        models, link = make_models(Path(work)), Path(work) / "link"
        link.symlink_to(models["a"])
        history = [3, 1, 4, 1, 5]
        right = {name: Engine.load(path).recommend(history) for name, path in models.items()}
        answers, stop, failures = [0] * CLIENTS, threading.Event(), list[str]()
        with server(link) as (client, _):
            told = [{"user": 100, "item": item, "at": at} for at, item in enumerate(history)]
            client.post("/v1/events", json={"events": told}).raise_for_status()

            def ask(number: int) -> None:
                rng = np.random.default_rng([seed, number])
                with httpx.Client(base_url=client.base_url, timeout=30) as own:
                    while not stop.is_set() and not failures:
                        try:
                            _check(own, rng, right, number)
                        except (AssertionError, httpx.HTTPError) as error:
                            failures.append(repr(error))
                        answers[number] += 1

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for turn in range(count):
                fresh = Path(work) / f"link-{turn}"
                fresh.symlink_to(models["ba"[turn % 2]])
                os.replace(fresh, link)
                client.post("/v1/reload").raise_for_status()
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures, failures[0]
    return {"reloads": count, "rounds of requests meanwhile": sum(answers), "dropped": 0, "mixed": 0}


def _check(client: httpx.Client, rng: np.random.Generator, right: dict[str, Any], number: int) -> None:
    """An answer of one model, under its name; and what was forgotten stays forgotten."""
    answer = client.post("/v1/recommend", json={"user": 100}).raise_for_status().json()
    wanted = right[answer["model"]]
    assert answer["items"] == wanted.items, answer
    assert np.allclose(answer["scores"], wanted.scores, rtol=1e-5), answer
    own = 10 + number  # of this client alone
    for at in range(3):
        told = event(rng, at) | {"user": own}
        client.post("/v1/events", json={"events": [told]}).raise_for_status()
    assert client.get(f"/v1/users/number/{own}").raise_for_status().json()["total"] == 3
    assert client.delete(f"/v1/users/number/{own}").raise_for_status().json() == {"forgotten": True}
    assert client.get(f"/v1/users/number/{own}").raise_for_status().json()["total"] == 0
