from __future__ import annotations

import datetime
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.splits import leave_one_out, temporal_basket
from chronorec.engine import Engine
from chronorec.models import Markov, PersonalFrequency, Popularity, SASRec
from tests.support.logs import basket_log, cycle_log, histories_of

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    histories = histories_of(cycle_log(items=40, events=30))
    model = SASRec(histories.num_items, width=16, heads=2, max_length=10, item_bias=True).eval()
    with torch.no_grad():
        model.item_bias.copy_(torch.randn(histories.num_items))
    return Engine(model.export(histories.items))


def test_answers_are_sorted_known_and_as_many_as_asked(engine: Engine) -> None:
    answer = engine.recommend(["item 3", "item 4"], k=7)
    assert len(answer.items) == 7 == len(set(answer.items))
    assert (np.diff(answer.scores) <= 0).all()
    np.testing.assert_array_equal(answer.scores, engine.score(["item 3", "item 4"], answer.items))


def test_unknown_items_are_skipped_and_counted(engine: Engine) -> None:
    with_unknown = engine.recommend(["item 3", "nothing", "item 4", None])
    without = engine.recommend(["item 3", "item 4"])
    assert with_unknown.unknown_items == 2
    assert with_unknown.items == without.items
    assert np.isnan(engine.score([], ["item 1", "nothing"])).tolist() == [False, True]


def test_filters(engine: Engine) -> None:
    history = ["item 3", "item 4"]
    everything = engine.recommend(history, k=1000)
    assert len(everything.items) == engine.num_items
    unseen = engine.recommend(history, k=1000, exclude_seen=True)
    assert unseen.items == [item for item in everything.items if item not in history]
    blocked = engine.recommend(history, k=1000, exclude=[everything.items[0], "nothing"])
    assert blocked.items == everything.items[1:]
    chosen = engine.recommend(history, candidates=["item 9", "item 5", "nothing", "item 9", "item 4"], k=10)
    assert sorted(chosen.items) == ["item 4", "item 5", "item 9"]
    assert chosen.items == [item for item in everything.items if item in chosen.items]
    only_new = engine.recommend(history, candidates=["item 4", "item 5"], exclude_seen=True)
    assert only_new.items == ["item 5"]
    assert engine.recommend(history, candidates=[]).items == []


def test_an_empty_history_is_answered(engine: Engine) -> None:
    assert len(engine.recommend([], k=3).items) == 3


def test_batch_equals_single_requests(engine: Engine) -> None:
    histories = [["item 1"], [], ["item 5", "nothing", "item 7"], [f"item {i}" for i in range(25)]]
    table = engine.recommend_batch(pa.table({"items": histories}), k=6, exclude_seen=True)
    for row, history in zip(table.to_pylist(), histories, strict=True):
        single = engine.recommend(history, k=6, exclude_seen=True)
        assert row["items"] == single.items
        assert row["scores"] == single.scores.tolist()
        assert row["unknown_items"] == single.unknown_items


def test_batch_takes_other_libraries(engine: Engine) -> None:
    table = engine.recommend_batch(pl.DataFrame({"items": [["item 1", "item 2"]]}), k=2)
    assert table.to_pylist()[0]["items"] == engine.recommend(["item 1", "item 2"], k=2).items


def test_similar_items(engine: Engine) -> None:
    answer = engine.similar_items("item 3", k=5)
    vectors = engine.artifact.weights["item_embedding"].astype(np.float64)
    ids = engine.artifact.items.column("item").to_pylist()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[ids.index("item 3")]
    expected = [ids[i] for i in np.argsort(-cosine) if ids[i] != "item 3"][:5]
    assert answer.items == expected
    with pytest.raises(KeyError, match="does not know 'nothing'"):
        engine.similar_items("nothing")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: wanted a whole number from 1"),
        ({"times": [1]}, ValueError, "times: wanted one per event of the history"),
        ({"times": [2, 1]}, ValueError, "oldest event first"),
        ({"times": [1.5, 2]}, TypeError, "times: wanted a date"),
        ({"sessions": [1, 2, 3]}, ValueError, "sessions: wanted one per event"),
    ],
)
def test_unusable_requests(engine: Engine, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        engine.recommend(["item 1", "item 2"], **arguments)


def test_personal_frequency_by_hand() -> None:
    histories = histories_of(cycle_log(users=4, events=6, items=6))
    artifact = PersonalFrequency(2.0).fit(histories, histories.offsets[1:], basket=False, exclude_seen=False)
    engine = Engine(artifact)
    start = datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
    times = [start, start + datetime.timedelta(days=1), start + datetime.timedelta(days=3)]
    at = start + datetime.timedelta(days=3, hours=5)
    scores = engine.score(["item 0", "item 1", "item 0"], ["item 0", "item 1", "item 2"], times=times, at=at)
    assert scores[0] == pytest.approx(np.exp(-3 / 2) + 1, abs=2e-6)
    assert scores[1] == pytest.approx(np.exp(-2 / 2), abs=2e-6)
    assert 0 <= scores[2] <= 1e-6
    with pytest.raises(ValueError, match="needs the time of every event"):
        engine.recommend(["item 0"])


def test_markov_knows_the_cycle() -> None:
    histories = histories_of(cycle_log(items=12))
    engine = Engine(Markov().fit(histories, histories.offsets[1:], basket=False, exclude_seen=False))
    assert engine.recommend(["item 3", "item 11"], k=1).items == ["item 0"]
    assert engine.score(["item 5"], ["item 6"])[0] == pytest.approx(1, abs=2e-6)


def test_markov_counts_basket_pairs_like_a_plain_loop() -> None:
    histories = histories_of(basket_log(users=5, baskets=4, items=8))
    engine = Engine(Markov().fit(histories, histories.offsets[1:], basket=True, exclude_seen=False))
    pairs = np.zeros((histories.num_items, histories.num_items))
    session = histories.columns["session"]
    for begin, end in zip(histories.offsets[:-1], histories.offsets[1:], strict=True):
        order = list(dict.fromkeys(session[begin:end].tolist()))
        sets = [set(histories.item[begin:end][session[begin:end] == code].tolist()) for code in order]
        for a, b in pairwise(sets):
            for source in a:
                for successor in b:
                    pairs[source, successor] += 1
    ids = histories.items.column("item").to_pylist()
    shares = pairs[0] / pairs[0].sum()
    np.testing.assert_allclose(engine.score([ids[0]], ids), shares, atol=2e-6)


def test_popularity_counts_only_what_it_may_see() -> None:
    histories = histories_of(cycle_log(users=30))
    split = leave_one_out(histories, exclude_seen=False)
    engine = Engine(Popularity().fit(histories, split.train_end, basket=False, exclude_seen=False))
    counted = np.zeros(histories.num_items)
    for begin, end in zip(histories.offsets[:-1], split.train_end, strict=True):
        np.add.at(counted, histories.item[begin:end], 1)
    np.testing.assert_array_equal(engine.score([], histories.items.column("item").to_pylist()), counted)


def test_evaluation_ranks_are_those_of_recommend() -> None:
    histories = histories_of(basket_log())
    split = temporal_basket(histories, "1970-01-11", validation_cut="1970-01-10")
    engine = Engine(PersonalFrequency(5.0).fit(histories, split.refit_end, basket=True, exclude_seen=False))
    greater, equal = engine.rank(histories, split.test, False)
    ids = np.array(histories.items.column("item").to_pylist())
    for query in range(len(split.test)):
        events = slice(split.test.begin[query], split.test.end[query])
        answer = engine.recommend(
            ids[histories.item[events]].tolist(),
            times=histories.time[events].tolist(),
            sessions=histories.columns["session"][events].tolist(),
            at=int(split.test.at[query]),
            k=histories.num_items,
        )
        for m in range(split.test.target_offsets[query], split.test.target_offsets[query + 1]):
            place = answer.items.index(ids[split.test.targets[m]])
            assert greater[m] <= place <= greater[m] + equal[m]


def test_an_unusable_program_is_refused() -> None:
    artifact = Artifact(name="x", items=pa.table({"item": [1]}), program=[{"call": "teleport"}])
    with pytest.raises(ArtifactError, match="teleport"):
        Engine(artifact)


def test_the_engine_loads_no_torch(tmp_path: Path) -> None:
    histories = histories_of(cycle_log())
    folder = (
        SASRec(histories.num_items, width=16, max_length=10)
        .eval()
        .export(histories.items)
        .save(tmp_path / "m")
    )
    code = (
        "import sys; from chronorec import Engine;"
        f"print(len(Engine.load({str(folder)!r}).recommend(['item 1'], k=3).items));"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"
