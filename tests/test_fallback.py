"""Who answers when nothing is known of a user, and what they were allowed to know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chronorec.artifact import HEADER, Artifact, ArtifactError, _digest
from chronorec.data import Histories
from chronorec.engine import Engine, Rules, Sessions
from chronorec.engine.fallback import with_popularity
from chronorec.training import load_config, train
from chronorec.training.splitting import make_split
from tests.support.logs import DAY, histories_of

TREND = 200  # the day on which taste changes


def trend_log(users: int = 40, events: int = 10) -> pa.Table:
    """Many users took old items long ago, few took new ones lately; the last event is secret."""
    rows = []
    for user in range(users):
        late = user >= users - 10
        for event in range(events):
            day = (TREND + event) if late else event
            item = f"{'new' if late else 'old'} {(user + event) % 5}"
            rows.append((user, "secret" if event == events - 1 else item, day * DAY))
    user, item, time = zip(*rows, strict=True)
    return pa.table({"user_id": user, "item_id": item, "timestamp": pa.array(time, pa.timestamp("us"))})


@pytest.fixture(scope="module")
def histories() -> Histories:
    return histories_of(trend_log())


@pytest.fixture(scope="module", params=["gru4rec", "markov"])
def trained(request: pytest.FixtureRequest, histories: Histories) -> Artifact:
    settings = [f"model.kind={request.param}", "training.epochs=1", "training.recent_days=20"]
    if request.param == "gru4rec":
        settings += ["model.width=8", "model.hidden_size=8"]
    return train(load_config(overrides=settings), histories, quiet=True).artifact


SOON = (TREND + 12) * DAY


def kinds(items: list[str]) -> set[str]:
    return {item.split()[0] for item in items}


def test_each_link_speaks_in_its_turn(trained: Artifact) -> None:
    engine = Engine(trained)
    known = engine.recommend(["old 1", "nothing"], at=SOON, k=5)
    assert (known.source, known.unknown_items) == ("history", 1)
    recent = engine.recommend([], at=SOON, k=5)
    assert (recent.source, kinds(recent.items)) == ("recent popularity", {"new"})
    assert recent.reason.startswith("no event is known; what was taken most in about 20 days before 1970-07")
    much_later = engine.recommend([], at=SOON + 100 * DAY, k=5)
    assert (much_later.source, kinds(much_later.items)) == ("popularity", {"old"})
    unknown = engine.recommend(["nothing", "never"], at=SOON, k=5)
    assert (unknown.source, unknown.items, unknown.unknown_items) == (recent.source, recent.items, 2)
    assert unknown.reason.startswith("the model knows no item of the history; ")
    before = engine.recommend(["old 1"], times=[SOON], at=SOON, k=5)
    assert (before.source, before.items, before.unknown_items) == (recent.source, recent.items, 0)


def test_counts_are_of_training_events_and_of_no_later_ones(trained: Artifact, histories: Histories) -> None:
    """The last event of every user is the test's, the one before it validation's unless it is a refit."""
    config = load_config(overrides=["model.kind=markov"])
    split = make_split(config.split, histories)
    refit = trained.name.startswith("markov")
    end = split.refit_end if refit else split.train_end
    counts = trained.weights["popularity.ever"]
    assert counts.sum() == (end - split.begin).sum()
    secret = trained.items.column("item").to_pylist().index("secret")
    assert counts[secret] == trained.weights["popularity.recent"][secret] == 0
    newest = max(int(histories.time[last - 1]) for last in end)
    assert trained.fallback[0] == {
        "source": "recent popularity",
        "counts": "popularity.recent",
        "days": 20.0,
        "until": newest,
    }
    ages = [(newest - histories.time[b:e]) / DAY for b, e in zip(split.begin, end, strict=True)]
    expected = sum(float(np.exp(-age / 20).sum()) for age in ages)
    assert trained.weights["popularity.recent"].sum() == pytest.approx(expected, rel=1e-5)


def test_exclusions_and_rules_hold_for_whoever_speaks(trained: Artifact) -> None:
    engine = Engine(trained)
    every = engine.recommend([], at=SOON, k=100)
    assert len(every.items) == engine.num_items
    best, *_ = every.items
    assert best not in engine.recommend([], at=SOON, exclude=[best]).items
    old = engine.recommend([], at=SOON, candidates=["old 3", "old 4", "nothing"])
    assert sorted(old.items) == ["old 3", "old 4"]
    secret = engine.recommend([], at=SOON, candidates=["secret"])
    assert (secret.items, secret.source) == (["secret"], "popularity")
    pinned = engine.recommend([], at=SOON, k=3, rules=Rules(pin=[(1, "secret")], boost=[("old 2", 100.0)]))
    assert pinned.items[:2] == ["secret", "old 2"]
    nobody = engine.recommend([], at=SOON, exclude=every.items)
    assert (nobody.items, nobody.source) == ([], "popularity")
    assert engine.recommend(["old 1"], at=SOON, exclude=every.items).items == []


def test_a_batch_says_the_same(trained: Artifact) -> None:
    engine = Engine(trained)
    requests = [([], SOON), (["old 1"], SOON), (["nothing"], SOON + 100 * DAY), ([], SOON + 100 * DAY)]
    table = pa.table({"items": [items for items, _ in requests], "at": [at for _, at in requests]})
    for row, (items, at) in zip(engine.recommend_batch(table, k=4).to_pylist(), requests, strict=True):
        alone = engine.recommend(items, at=at, k=4)
        assert row == dataclasses.asdict(alone) | {"scores": alone.scores.tolist()}


def test_sessions_fall_back_until_the_first_event(trained: Artifact) -> None:
    sessions = Sessions(Engine(trained))
    cold = sessions.recommend("me", at=SOON, k=5)
    assert (cold.source, kinds(cold.items)) == ("recent popularity", {"new"})
    sessions.append("me", "old 1", at=SOON)
    for rules in (None, Rules(deny={"item": ["old 1"]})):
        assert sessions.recommend("me", at=SOON, k=5).items == cold.items
        warm = sessions.recommend("me", at=SOON + 1, k=5, rules=rules)
        assert (warm.source, warm.reason) == ("session", "the model knows events of the user")
    assert sessions.recommend("me").source == "session"
    sessions.forget("me")
    assert sessions.recommend("me", at=SOON + 1, k=5).items == cold.items


def test_saved_and_loaded(trained: Artifact, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = Engine.load(tmp_path / "model")
    assert loaded.artifact.identity == trained.identity
    wanted, found = (engine.recommend([], at=SOON, k=9) for engine in (Engine(trained), loaded))
    assert dataclasses.asdict(found) | {"scores": found.scores.tolist()} == (
        dataclasses.asdict(wanted) | {"scores": wanted.scores.tolist()}
    )


def test_a_folder_without_popularity_answers_and_says_so(trained: Artifact, tmp_path: Path) -> None:
    weights = {name: value for name, value in trained.weights.items() if "popularity" not in name}
    plain = dataclasses.replace(trained, weights=weights, fallback=[])
    folder = plain.save(tmp_path / "model")
    header = json.loads((folder / HEADER).read_text())
    del header["fallback"], header["header_sha256"]  # as an older version wrote it
    (folder / HEADER).write_text(json.dumps(header | {"header_sha256": _digest(header)}))
    found = Engine.load(folder).recommend([], k=3)
    assert (found.source, len(found.items)) == ("model", 3)
    assert "no popularity to fall back on" in found.reason
    assert Artifact.load(folder).identity == plain.identity != trained.identity


@pytest.mark.parametrize(
    "link", [{"source": "popularity"}, {"source": "popularity", "counts": "nothing"}, None]
)
def test_a_chain_that_is_none_is_refused(trained: Artifact, link: Any) -> None:
    with pytest.raises(ArtifactError, match=r"fallback: wanted source|weight 'nothing': wanted"):
        Engine(dataclasses.replace(trained, fallback=[link]))


def test_logs_without_times_have_no_recent_past(histories: Histories, trained: Artifact) -> None:
    timeless = dataclasses.replace(histories, time=None, columns={"position": histories.time})
    bare = dataclasses.replace(trained, fallback=[])
    chain = with_popularity(bare, timeless, timeless.offsets[:-1], timeless.offsets[1:], 20).fallback
    assert [link["source"] for link in chain] == ["popularity"]
