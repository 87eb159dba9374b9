"""What happened since the training, taken in at once: popularity, new items, sessions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from chronorec.artifact import Artifact
from chronorec.data import Histories
from chronorec.engine import Engine, Sessions, updated
from chronorec.engine.content import Content
from chronorec.engine.fallback import with_popularity
from chronorec.engine.neighbours import NEIGHBOURS, Mixes, Told, _Past, _scale, _two_of_each
from chronorec.engine.update import CONTENT_EVENTS
from chronorec.models import GRU4Rec, Markov, PersonalFrequency
from chronorec.models.heads import BehaviourHead, StepsHead
from tests.support.logs import DAY, cycle_log, histories_of

ITEMS, NOW = 12, 30 * DAY
KINDS = ["red tea", "red wine", "green tea", "black coffee"]


def features(histories: Histories) -> pa.Table:
    kind = [KINDS[int(item.split()[1]) % 4] for item in histories.items.column("item").to_pylist()]
    return histories.items.append_column("kind", pa.array(kind))


@pytest.fixture(scope="module")
def histories() -> Histories:
    found = histories_of(cycle_log(items=ITEMS))
    return dataclasses.replace(found, items=features(found))


def counted(artifact: Artifact, histories: Histories) -> Artifact:
    return with_popularity(artifact, histories, histories.offsets[:-1], histories.offsets[1:], 30)


@pytest.fixture(scope="module")
def walker(histories: Histories) -> Engine:
    """Knows the circle by construction: after item i it expects item i + 1, and nothing else."""
    number = np.array([int(item.split()[1]) for item in histories.items.column("item").to_pylist()])
    after = np.eye(ITEMS, dtype=np.float32)[number]
    program = [
        {"call": "embed", "table": "inputs", "scale": 1.0, "out": "x"},
        {"call": "last", "in": "x", "out": "x"},
    ]
    weights = {"inputs": after, "outputs": 20 * after[:, np.r_[1:ITEMS, 0]]}
    artifact = Artifact("walker", histories.items, weights, program, "outputs")
    return Engine(counted(artifact, histories))


def table(*events: tuple[Any, str, int]) -> pa.Table:
    user, item, time = zip(*events, strict=True)
    return pa.table({"user": user, "item": item, "time": pa.array(time, pa.timestamp("us"))})


def test_a_new_item_stands_where_it_was_taken(walker: Engine) -> None:
    events = table(*((u, f"item {i}", NOW + i) for u in range(3) for i in (5, 6)), (1, "new", NOW + 7))
    engine, found = updated(walker, events)
    assert (found.events, found.new_items, found.unknown_items) == (7, ["new"], [])
    assert sorted(engine.recommend(["item 6"], k=2).items) == ["item 7", "new"]
    assert sorted(engine.recommend(["item 3", "new"], k=1).items) == ["item 8"]  # as after item 7
    assert engine.score(["item 8"], ["new"])[0] < 1
    assert walker.recommend(["item 6"], k=2).items[0] == "item 7"
    assert walker.num_items == ITEMS
    assert walker.vocabulary.code_of("new") == -1


def test_what_is_counted_is_not_yet_trained(walker: Engine) -> None:
    """An untrained item stays so, also where its first event is of a user without a past."""
    weights = dict(walker.artifact.weights)
    [ever] = [link["counts"] for link in walker.artifact.fallback if link["source"] == "popularity"]
    weights[ever] = weights[ever].copy()
    weights[ever][code(walker, "item 9")] = 0  # never taken in training
    bare = dataclasses.replace(walker.artifact, items=walker.artifact.items.select(["item"]), weights=weights)
    once, found = updated(Engine(bare), table((1, "item 9", NOW)))
    assert (found.events, found.refreshed_items) == (1, [])
    again, found = updated(once, table((2, "item 5", NOW + 1), (2, "item 9", NOW + 2)))
    assert found.refreshed_items == ["item 9"]
    assert "item 9" in again.recommend(["item 5"], k=2).items


def test_of_the_past_of_a_user_only_what_came_before(walker: Engine) -> None:
    """What the taker did at the same time or later says nothing of why the item was taken."""
    events = table((1, "item 6", NOW), (1, "new", NOW + 1), (1, "item 2", NOW + 1), (1, "item 3", NOW + 2))
    engine, _ = updated(walker, events)
    row = engine.artifact.weights["outputs"][-1]
    np.testing.assert_allclose(row, walker.artifact.weights["outputs"][code(walker, "item 7")], atol=1e-4)
    other, _ = updated(walker, events.slice(0, 2))
    np.testing.assert_array_equal(row, other.artifact.weights["outputs"][-1])


def code(engine: Engine, item: str) -> int:
    return engine.vocabulary.code_of(item)


def test_a_new_item_by_its_content(walker: Engine) -> None:
    tea = pa.table({"item": ["matcha", "stone"], "kind": ["Green Tea", "granite"], "colour": ["x", "y"]})
    engine, found = updated(walker, items=tea)
    assert (found.new_items, found.unknown_items) == (["matcha"], ["stone"])
    row, old = engine.artifact.weights["outputs"][-1], walker.artifact.weights["outputs"]
    likeness = {kind: len({"green", "tea"} & set(kind.split())) for kind in KINDS}
    kinds = walker.artifact.items.column("kind").to_pylist()
    near = old[[likeness[kind] == 2 for kind in kinds]].mean(axis=0)
    far = old[[likeness[kind] == 0 for kind in kinds]]
    assert (row @ near) > 2 * max(0.0, *(far @ row)) > -1
    assert engine.artifact.items.schema == walker.artifact.items.schema
    assert engine.artifact.items.column("kind").to_pylist()[-1] == "Green Tea"
    again, second = updated(engine, items=tea)
    assert second.new_items == second.refreshed_items == []
    assert again.table is engine.table


def test_content_counts_as_some_events_and_every_event_moves_the_mean(walker: Engine) -> None:
    tea = pa.table({"item": ["matcha"], "kind": ["black coffee"]})
    taken = [(user, "matcha", NOW + 1) for user in range(4)]
    before = [(user, "item 6", NOW) for user in range(4)]
    content = updated(walker, items=tea)[0].artifact.weights["outputs"][-1]
    expected = walker.artifact.weights["outputs"][code(walker, "item 7")]
    both = (CONTENT_EVENTS * content + 4 * expected) / (CONTENT_EVENTS + 4)
    at_once = updated(walker, table(*before, *taken), tea)[0]
    np.testing.assert_allclose(at_once.artifact.weights["outputs"][-1], both, rtol=1e-4, atol=1e-3)
    engine = updated(walker, items=tea)[0]
    for user in range(4):
        engine, found = updated(engine, table(before[user], taken[user]))
        assert found.refreshed_items == ["matcha"]
    np.testing.assert_allclose(engine.artifact.weights["outputs"][-1], both, rtol=1e-4, atol=1e-3)
    assert np.array_equal(engine.artifact.weights["outputs"][:ITEMS], walker.artifact.weights["outputs"])


def test_popularity_is_counted_on_exactly(histories: Histories) -> None:
    """In two parts as at once, in whatever order they come, and as if it had been counted with the rest."""
    log = cycle_log(items=ITEMS)
    late = pa.concat_tables([log.slice(0, 7), log.slice(40, 3)])
    days = pa.array([25, 24, 30, 27, 22, 21, 28, 29, 20, 26])
    time = pa.array((days.to_numpy() * DAY), pa.timestamp("us"))
    late = late.set_column(2, "timestamp", time)
    together = pa.concat_tables([log, late])
    events = pa.table({"user": late["user_id"], "item": late["item_id"], "time": time})
    engine = Engine(
        counted(Markov().fit(histories, histories.offsets[1:], basket=False, exclude_seen=False), histories)
    )
    wanted = histories_of(together)
    whole = counted(Markov().fit(wanted, wanted.offsets[1:], basket=False, exclude_seen=False), wanted)
    once = updated(engine, events)[0].artifact
    twice = updated(updated(engine, events.slice(0, 4))[0], events.slice(4))[0].artifact
    for name in ("popularity.ever", "popularity.recent"):
        np.testing.assert_allclose(once.weights[name], whole.weights[name], rtol=1e-5)
        np.testing.assert_allclose(twice.weights[name], whole.weights[name], rtol=1e-5)
    assert once.fallback == twice.fallback == whole.fallback
    assert Engine(once).recommend([], at=NOW, k=12).items == Engine(whole).recommend([], at=NOW, k=12).items


def test_sessions_know_at_once(walker: Engine) -> None:
    sessions = Sessions(walker)
    sessions.append("me", "item 6", at=NOW)
    sessions.append("other", "item 1", at=NOW)
    assert not sessions.append("me", "new", at=NOW + 1)
    known = table(("other", "item 2", NOW + 2), ("other", "item 1", NOW))
    found = sessions.update(known)
    assert (found.events, found.new_items) == (2, [])
    assert sessions.history("other")[0] == ["item 1", "item 2"]
    assert sessions.recommend("other", k=1).items == ["item 3"]
    found = sessions.update(table(("me", "new", NOW + 1), ("third", "item 6", NOW + 1)))
    assert found.new_items == ["new"]
    assert sorted(sessions.recommend("third", k=2).items) == ["item 7", "new"]
    assert sessions.history("me")[0] == ["item 6", "new"]
    assert sessions.recommend("me", k=1).items == ["item 8"]
    assert sessions.append("me", "new", at=NOW + 5)
    assert len(sessions) == 3
    first = sessions.recommend("nobody", at=NOW, k=1)
    assert first.source == "recent popularity"


def test_what_is_popular_changes_at_once(walker: Engine) -> None:
    sessions = Sessions(walker)
    item = sessions.recommend("nobody", at=NOW, k=ITEMS).items[-1]
    store = sessions._live.store
    sessions.update(table(*((user, item, NOW) for user in range(500))))
    assert sessions.recommend("nobody", at=NOW, k=1).items == [item]
    assert sessions._live.store is store  # which costs nothing where there is no vector to make


@pytest.mark.parametrize("kind", ["gru", "frequency", "markov"])
def test_the_updated_model_is_a_model(kind: str, histories: Histories, tmp_path: Path) -> None:
    torch.manual_seed(0)
    end = histories.offsets[1:]
    if kind == "gru":
        untied = GRU4Rec(ITEMS, width=8, hidden_size=8, tied=False, copy=True)
        sizes: dict[str, Any] = {"num_items": ITEMS, "width": 8, "weight": 1.0}
        untied.heads["behaviour"] = BehaviourHead(["buy", "view"], shares=[0.5, 0.5], **sizes)
        untied.heads["steps"] = StepsHead(8, 3, 1.0)
        artifact = untied.eval().export(histories.items)
    else:
        model = Markov() if kind == "markov" else PersonalFrequency(3.0)
        artifact = model.fit(histories, end, basket=False, exclude_seen=False)
    start = Engine(counted(artifact, histories), "int8")
    events = table((1, "item 6", NOW), (1, "new", NOW + 1), (2, "item 6", NOW + 1), (2, "new", NOW + 2))
    engine, found = updated(start, events)
    assert found.new_items == ["new"]
    engine.artifact.save(tmp_path / "model")
    loaded = Engine.load(tmp_path / "model", precision=engine.precisions)
    history = {"history": ["item 3", "new"], "times": [1, 2 * DAY], "at": NOW}
    answers = [one.recommend(**history, k=ITEMS + 1) for one in (engine, loaded)]
    assert answers[0].items == answers[1].items
    assert answers[0].scores.tobytes() == answers[1].scores.tobytes()
    old = histories.items.column("item").to_pylist()
    known = {"history": ["item 3", "item 4"], "times": [1, 2], "at": NOW}
    np.testing.assert_array_equal(start.score(items=old, **known), engine.score(items=old, **known))
    if kind == "frequency":
        assert engine.recommend(**history, k=2).items == ["new", "item 3"]


def test_new_rows_are_what_the_model_expected(histories: Histories) -> None:
    """The formula, written out, for every array with a row per item."""
    torch.manual_seed(1)
    many = histories_of(cycle_log(users=200, items=60))
    model = GRU4Rec(60, width=8, hidden_size=8, tied=False, item_bias=True).eval()
    with torch.no_grad():
        for weight in (model.item_embedding, model.output_embedding, model.item_bias):
            weight.normal_()
    start = Engine(counted(model.export(many.items), many))
    engine, _ = updated(start, table((1, "item 6", NOW), (1, "item 9", NOW + 1), (1, "new", NOW + 2)))
    answer = start.recommend(["item 6", "item 9"], k=NEIGHBOURS)
    shares = np.exp(answer.scores - answer.scores.max())
    shares /= shares.sum()
    near = start.vocabulary.codes_of(answer.items, "items")
    for name in ("item_embedding", "output_embedding", "item_bias"):
        wanted = np.tensordot(shares, start.artifact.weights[name][near], axes=1)
        np.testing.assert_allclose(engine.artifact.weights[name][-1], wanted, rtol=1e-4, atol=1e-6)


def test_untrained_items_of_the_vocabulary_count_as_new(histories: Histories, walker: Engine) -> None:
    fewer = histories.offsets[:-1] + 1  # one event of each user was counted, and none of item 7
    codes = histories.items.column("item").to_pylist()
    kept = histories.item[histories.offsets[:-1]] != codes.index("item 7")
    end = np.where(kept, fewer, histories.offsets[:-1])
    bare = dataclasses.replace(walker.artifact, fallback=[])
    start = Engine(with_popularity(bare, histories, histories.offsets[:-1], end, 30))
    engine, found = updated(start, items=pa.table({"item": ["x"], "kind": ["granite"]}))
    assert (found.new_items, found.refreshed_items, found.unknown_items) == ([], ["item 7"], ["x"])
    old, new = (one.artifact.weights["outputs"] for one in (start, engine))
    changed = np.flatnonzero((old != new).any(axis=1))
    assert [codes[row] for row in changed] == ["item 7"]


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        ({"user": [1], "item": ["x"]}, None, "wanted columns user, item and time.*missing: time"),
        ({"user": [1], "item": [None], "time": [1]}, None, "wanted a value in every row of item"),
        ({"user": [1], "item": ["x"], "time": [None]}, None, "time: wanted a time everywhere"),
        ({"user": [1], "item": [3], "time": [1]}, None, "wanted items of type string"),
        (None, {"kind": ["tea"]}, "wanted a column 'item', got kind"),
        (None, {"item": ["x", "x"]}, "items: wanted each item once"),
        (None, {"item": ["x"], "kind": [[1]]}, "kind: wanted string, as in the model"),
    ],
)
def test_unusable_updates(walker: Engine, events: Any, items: Any, message: str) -> None:
    as_table = {"events": None if events is None else pa.table(events)}
    with pytest.raises(ValueError, match=message):
        updated(walker, **as_table, items=None if items is None else pa.table(items))


def test_likeness_by_hand() -> None:
    names = ["Green tea", "green  TEA", "black tea", None, "wine", ""]
    kinds = [["hot"], ["hot", "cold"], ["hot"], [], None, ["red"]]
    vector = pa.array([[1.0, 0], None, None, None, [3.0, 4.0], None], pa.list_(pa.float32()))
    content = Content(pa.table({"item": range(6), "name": names, "kind": kinds, "v": vector, "p": [0.5] * 6}))
    squares = {
        word: (np.log(7 / (1 + count)) + 1) ** 2
        for word, count in {
            "green": 2,
            "tea": 3,
            "black": 1,
            "wine": 1,
            "hot": 3,
            "cold": 1,
            "red": 1,
        }.items()
    }
    words = [
        {"green", "tea", "hot"},
        {"green", "tea", "hot", "cold"},
        {"black", "tea", "hot"},
        set(),
        {"wine"},
        {"red"},
    ]
    size = [np.sqrt(sum(squares[word] for word in own)) for own in words]
    codes, likeness = content.nearest(0, np.arange(1, 6, dtype=np.int32), 9)
    expected = {
        1: sum(squares[w] for w in words[0]) / size[0] / size[1],
        2: (squares["tea"] + squares["hot"]) / size[0] / size[2],
        4: 0.6,
    }
    assert dict(zip(codes.tolist(), likeness.tolist(), strict=True)) == pytest.approx(expected)
    assert (np.diff(likeness) <= 0).all()
    assert len(content.nearest(3, np.arange(3, dtype=np.int32), 9)[0]) == 0


def test_means_are_scaled_to_fit_the_vectors_of_trained_items() -> None:
    """Observations are a third of an item's vector, and noise: what brings them back is known."""
    generator = np.random.default_rng(0)
    users, items, width, spread = 6, 3000, 4, 0.5
    vectors = generator.normal(size=(items, width))
    own = np.repeat(np.arange(items), users)
    seen = vectors[own] / 3 + spread * generator.normal(size=(len(own), width))
    weights = {"v": np.concatenate([vectors, seen]).astype(np.float32)}
    mixes = Mixes(own, (items + np.arange(len(own), dtype=np.int32))[:, None], np.ones((len(own), 1)))
    model = Artifact("model", pa.table({"item": range(len(weights["v"]))}), weights, table="v")
    scale = _scale(model, mixes)
    assert scale is not None
    assert scale.factors["v"] == pytest.approx(3, rel=0.05)
    assert scale.kappa == pytest.approx(spread**2 * 9, rel=0.1)
    for count in (1, 2, users):  # the best that a multiple of the mean can do
        mean = seen.reshape(items, users, width)[:, :count].mean(axis=1)
        best = (mean * vectors).sum() / (mean * mean).sum()
        assert scale.factors["v"] * count / (count + scale.kappa) == pytest.approx(best, rel=0.05)
    few = own < 29
    assert _scale(model, Mixes(own[few], mixes.codes[few], mixes.shares[few])) is None


def test_a_scale_is_learned_from_two_events_of_each_item() -> None:
    """Drawn as they are taken, none of untrained items, and none that was its user's first."""
    generator = np.random.default_rng(0)
    taken = {user: np.minimum(generator.geometric(0.01, 50), 999).astype(np.int32) for user in range(100)}
    times = np.arange(50, dtype=np.int64) // 2  # the first two at once

    def history_of(user: str | int) -> tuple[np.ndarray, np.ndarray]:
        return taken[int(user)], times

    none = Told([], [], np.empty(0, np.int64), [])
    untrained = np.arange(1000) % 10 == 0
    past = _Past(1000, none, np.empty(0, np.int32), history_of)
    events = _two_of_each(past, list(taken), untrained)
    items, count = np.unique([item for item, _, _ in events], return_counts=True)
    assert (count == 2).all()
    assert len(set(events)) == len(events) > 300
    assert not untrained[items].any()
    for item, user, at in events:
        assert at > 0
        assert item in taken[int(user)][times == at]
    every = np.unique(np.concatenate([items[2:] for items in taken.values()]))
    assert items.mean() < every.mean()
