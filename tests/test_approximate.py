"""Search through a faiss index: exact where it covers everything, within every filter always, measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from chronorec.artifact import INDEX_FILES, Artifact
from chronorec.cli import main
from chronorec.engine import Engine, Precisions, Rules, Search, Sessions, measure_search, save_index
from chronorec.engine import approximate as approximate_module
from chronorec.models import GRU4Rec
from chronorec.server.service import Service
from tests.support.logs import cycle_log, histories_of

pytest.importorskip("faiss")

ITEMS = 20_000
EVERYTHING = Search("ivf", 10**6)


def make_artifact(items: int = ITEMS, bias: bool = True) -> Artifact:
    """Item vectors in 200 bunches, as learned ones lie."""
    torch.manual_seed(0)
    model = GRU4Rec(items, width=16, hidden_size=16, item_bias=bias).eval()
    with torch.no_grad():
        bunches = torch.randn(200, 16)
        model.item_embedding.copy_(bunches[torch.arange(items) % 200] + 0.3 * torch.randn(items, 16))
        if bias:
            model.item_bias.copy_(torch.randn(items))
    kind = ["tea" if code % 3 else "coffee" for code in range(items)]
    rare = ["yes" if code % 1000 == 7 else "no" for code in range(items)]
    return model.export(pa.table({"item": np.arange(items), "kind": kind, "rare": rare}))


ARTIFACT = make_artifact()
EXACT = Engine(ARTIFACT)
HISTORIES = [np.random.default_rng(seed).integers(0, ITEMS, 8).tolist() for seed in range(20)]
REQUESTS: list[dict[str, Any]] = [
    {},
    {"k": 100},
    {"exclude_seen": True},
    {"rules": Rules(allow={"kind": ["coffee"]})},
    {"rules": Rules(deny={"kind": ["coffee"]}), "k": 3, "exclude": [1, 2]},
    {"rules": Rules(allow={"rare": ["yes"]}), "k": 15},  # fewer than a twentieth is left
    {"rules": Rules(allow={"rare": ["yes"]}), "k": 30},  # and fewer than are wanted
    {"rules": Rules(boost=[(77, 9.0), (78, -9.0)])},
    {"rules": Rules(boost_category=[("kind", "coffee", 2.0)])},
    {"rules": Rules(diversity=0.3, min_score=0.0)},
    {"candidates": [5, 6, 7]},
    {"k": ITEMS},
]


@pytest.fixture(scope="module", params=[EVERYTHING, Search("hnsw", 256)], ids=["ivf", "hnsw"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(ARTIFACT, search=request.param)


def assert_same(found: Any, wanted: Any) -> None:
    assert found.items == wanted.items
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.fixture(scope="module")
def covering() -> Engine:
    return Engine(ARTIFACT, "int8", EVERYTHING)


@pytest.mark.parametrize("how", REQUESTS, ids=str)
def test_lists_that_are_all_read_find_what_the_exact_search_finds(
    covering: Engine, how: dict[str, Any]
) -> None:
    for history in HISTORIES[:5]:
        assert_same(covering.recommend(history, **how), EXACT.recommend(history, **how))
    requests = pa.table({"items": HISTORIES})
    assert covering.recommend_batch(requests, **how).equals(EXACT.recommend_batch(requests, **how))


@pytest.mark.parametrize("how", REQUESTS, ids=str)
def test_filters_hold_and_scores_are_exact(engine: Engine, how: dict[str, Any]) -> None:
    found_at_all = 0
    for history in HISTORIES:
        found, wanted = engine.recommend(history, **how), EXACT.recommend(history, **how)
        assert len(found.items) == len(wanted.items)
        found_at_all += len(set(found.items) & set(wanted.items)) / max(len(wanted.items), 1)
        if not (how.get("rules") or Rules()).arranges and "rules" not in how:
            np.testing.assert_array_equal(found.scores, EXACT.score(history, found.items))
        for allow, rule in (("kind", "coffee"), ("rare", "yes")):
            if (how.get("rules") or Rules()).allow.get(allow):
                kinds = ARTIFACT.items.column(allow).to_pylist()
                assert {kinds[item] for item in found.items} == {rule}
        assert not set(found.items) & set(how.get("exclude", ()))
        if how.get("exclude_seen"):
            assert not set(found.items) & set(history)
    assert found_at_all / len(HISTORIES) > 0.9


def test_sessions_search_as_the_engine(engine: Engine) -> None:
    sessions = Sessions(engine)
    for user, history in enumerate(HISTORIES):
        sessions.extend(user, history, list(range(8)))
        found, wanted = sessions.recommend(user, at=10), engine.recommend(history)
        assert found.items == wanted.items
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_fewer_probes_find_less_and_are_measured() -> None:
    log = cycle_log(users=60, items=ITEMS, events=40)
    histories = histories_of(log)
    artifact = make_artifact(histories.num_items)
    artifact = Artifact(**{**vars(artifact), "items": histories.items})
    reports = [
        measure_search(Engine(artifact, search=Search("ivf", probes)), histories, requests=40)
        for probes in (1, 8, 10**6)
    ]
    assert reports[0].recall < reports[1].recall < reports[2].recall == 1
    assert reports[0].requests == 40
    assert "1 probes: recall@10 0." in str(reports[0])


def test_models_without_a_bias_and_small_ones() -> None:
    artifact = make_artifact(3000, bias=False)
    exact, found = Engine(artifact), Engine(artifact, search=EVERYTHING)
    tiny = make_artifact(20)
    for history in HISTORIES:
        own = [item % 3000 for item in history]
        assert_same(found.recommend(own, k=10), exact.recommend(own, k=10))
        own = [item % 20 for item in history]
        assert_same(Engine(tiny, search="hnsw").recommend(own), Engine(tiny).recommend(own))


# --- kept beside the model ------------------------------------------------------------------------------


def test_an_index_in_the_folder_is_used_while_it_is_of_this_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_artifact(3000).save(tmp_path / "model")
    made: list[str] = []
    build = approximate_module._build
    monkeypatch.setattr(approximate_module, "_build", lambda *given: made.append("") or build(*given))
    engine = Engine.load(folder, search=Search("ivf", 4))
    assert save_index(engine).name == INDEX_FILES["ivf"]
    again = Engine.load(folder, search=Search("ivf", 4))
    assert len(made) == 1
    for history in HISTORIES:
        own = [item % 3000 for item in history]
        assert_same(again.recommend(own), engine.recommend(own))
    content = (folder / INDEX_FILES["ivf"]).read_bytes()
    for damaged in (content[:-1], content[:50], b"", content.replace(b'"format": 1', b'"format": 2')):
        (folder / INDEX_FILES["ivf"]).write_bytes(damaged)
        Engine.load(folder, search=Search("ivf", 4))
    assert len(made) == 5
    (folder / INDEX_FILES["ivf"]).write_bytes(content)
    make_artifact(3000, bias=False).save(folder)  # another model takes the folder: its index is gone
    assert not (folder / INDEX_FILES["ivf"]).exists()
    (folder / INDEX_FILES["ivf"]).write_bytes(content)
    Engine.load(folder, search=Search("ivf", 4))  # and is not used if it comes back
    assert len(made) == 6


def test_the_command_keeps_an_index_and_says_what_it_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    histories = histories_of(cycle_log(users=20, items=3000, events=200))
    artifact = make_artifact(histories.num_items)
    folder = Artifact(**{**vars(artifact), "items": histories.items}).save(tmp_path / "model")
    histories.save(tmp_path / "histories")
    command = ["index", str(folder), "--search", "ivf", "--data", str(tmp_path / "histories")]
    for probes, recall in (("100000", "1.0000"), ("1", "0.")):
        assert main([*command, "--probes", probes, "--requests", "9"]) == 0
        said = capsys.readouterr().out
        assert f"recall@10 {recall}" in said
        assert str(folder / INDEX_FILES["ivf"]) in said
    with pytest.raises(ValueError, match="wanted one with an approximate search"):
        save_index(Engine.load(folder))


def test_a_server_reloads_with_the_search_and_precisions_that_it_was_given(tmp_path: Path) -> None:
    folder = make_artifact(3000).save(tmp_path / "model")
    held = Precisions("int8", "int8", "bfloat16")
    service = Service({"model": folder}, search=EVERYTHING, precision=held)
    before = service.variants["model"].engine
    service.reload()
    after = service.variants["model"].engine
    assert after is not before
    for engine in (before, after):
        assert (engine.search, engine.precisions) == (EVERYTHING, held)


# --- what is refused ------------------------------------------------------------------------------------


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValueError, match="search: wanted 'exact', 'hnsw' or 'ivf', got 'annoy'"):
        Engine(ARTIFACT, search="annoy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probes: wanted a whole number from 1, got 0"):
        Engine(ARTIFACT, search=Search("hnsw", 0))
    without = Artifact("popularity", ARTIFACT.items)
    with pytest.raises(ValueError, match="search: popularity has no item vectors"):
        Engine(without, search="hnsw")


def test_without_faiss_an_error_says_what_to_install(tmp_path: Path) -> None:
    folder = make_artifact(100).save(tmp_path / "model")
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from chronorec import Engine\n"
        f"Engine.load({str(folder)!r}).recommend([1])\n"
        f"Engine.load({str(folder)!r}, search='hnsw')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: search: 'hnsw' needs faiss; pip install 'chronorec[ann]'" in done.stderr


def test_the_engine_loads_no_faiss(tmp_path: Path) -> None:
    folder = make_artifact(100).save(tmp_path / "model")
    code = f"import sys\nfrom chronorec import Engine\nEngine.load({str(folder)!r}).recommend([1])\n"
    done = subprocess.run([sys.executable, "-c", f"{code}assert 'faiss' not in sys.modules"], check=False)
    assert done.returncode == 0
