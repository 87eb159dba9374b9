from __future__ import annotations

import dataclasses
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
from chronorec.data import Histories
from chronorec.data.splits import Queries, leave_one_out, temporal_basket, temporal_event
from chronorec.engine import Engine
from chronorec.models import GRU4Rec, Markov, PersonalFrequency, Popularity, SASRec
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


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_precision_changes_no_answer(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    histories = histories_of(cycle_log(users=100, items=3000, events=20))
    model = SASRec(histories.num_items, width=16, heads=2, max_length=10, item_bias=True).eval()
    artifact = model.export(histories.items)
    artifact.save(tmp_path / "model")
    exact, short = Engine(artifact), Engine.load(tmp_path / "model", precision=precision)
    history = histories.items.column("item").to_pylist()[:9]
    for k in (1, 7, 100):
        wanted, found = (one.recommend(history, k=k, exclude_seen=True) for one in (exact, short))
        assert wanted.items == found.items
        np.testing.assert_array_equal(wanted.scores, found.scores)
    with pytest.raises(ValueError, match="precision: wanted 'float32', 'bfloat16' or 'int8', got 'half'"):
        Engine(artifact, "half")


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


def test_ranks_and_lists_are_the_same_together_and_in_small_chunks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = histories_of(cycle_log(items=40, events=30))
    baskets = histories_of(basket_log())
    frequency = Engine(
        PersonalFrequency(5.0).fit(baskets, baskets.offsets[1:], basket=True, exclude_seen=False)
    )
    markov = Engine(Markov().fit(histories, histories.offsets[1:], basket=False, exclude_seen=False))
    rolling = temporal_event(histories, "1970-01-20", validation_cut="1970-01-15").test
    basket_queries = temporal_basket(baskets, "1970-01-11", validation_cut="1970-01-10").test
    for one, log, queries in (
        (engine, histories, rolling),
        (markov, histories, rolling),
        (frequency, baskets, basket_queries),
    ):
        for exclude_seen in (False, True):
            monkeypatch.setattr("chronorec.engine.engine.CHUNK", 1 << 20)
            greater, equal = one.rank(log, queries, exclude_seen)
            best = one.topk(log, queries, 50, exclude_seen)
            assert best.shape == (len(queries), 50)
            for chunk in (1, 100, 1 << 20):
                monkeypatch.setattr("chronorec.engine.engine.CHUNK", chunk)
                together = one.rank_and_topk(log, queries, 50, exclude_seen)
                for ours, expected in zip(together, (greater, equal, best), strict=True):
                    np.testing.assert_array_equal(ours, expected)


def test_recommend_batch_is_the_same_in_small_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = pa.table({"items": [[f"item {i}" for i in range(n)] for n in (0, 3, 30, 1, 7)]})
    for arguments in (
        {},
        {"candidates": ["item 3", "item 9"]},
        {"exclude": ["item 3"], "exclude_seen": True},
    ):
        whole = engine.recommend_batch(requests, **arguments)
        monkeypatch.setattr("chronorec.engine.engine.CHUNK", 16)
        assert engine.recommend_batch(requests, **arguments).equals(whole)
        monkeypatch.undo()


def test_histories_must_have_the_codes_of_the_model(engine: Engine) -> None:
    def queries_of(histories: Histories) -> Queries:
        return leave_one_out(histories, exclude_seen=False).test

    same = histories_of(cycle_log(items=40, events=30))
    engine.rank(same, queries_of(same), False)
    fewer = histories_of(cycle_log(items=7))
    with pytest.raises(ValueError, match="histories: wanted the 40 items of the model, got 7"):
        engine.rank(fewer, queries_of(fewer), False)
    other = histories_of(cycle_log(items=40, events=30, seed=1))
    with pytest.raises(ValueError, match=r"histories: item 0 is 'item \d+', in the model 'item \d+'"):
        engine.topk(other, queries_of(other), 3, False)
    ids = pa.table({"item": np.arange(40)})
    with pytest.raises(ValueError, match=r"histories: item 0 is '0'"):
        engine.topk(dataclasses.replace(same, items=ids), queries_of(same), 3, False)


def test_an_unusable_program_is_refused() -> None:
    artifact = Artifact(name="x", items=pa.table({"item": [1]}), program=[{"call": "teleport"}])
    with pytest.raises(ArtifactError, match="teleport"):
        Engine(artifact)


_WRONG_WEIGHTS = {
    "item_embedding": ("sasrec", (11, 16), r"'item_embedding': wanted float32 \[12, any\]"),
    "item_bias": ("sasrec", (2,), r"'item_bias': wanted float32 \[12\], got float32 \[2\]"),
    "position": ("sasrec", (9, 16), "position: wanted at least max_length = 10 rows, got 9"),
    "norm.weight": ("sasrec", (15,), r"'norm.weight': wanted float32 \[16\], got float32 \[15\]"),
    "blocks.0.expand.weight": ("sasrec", (64, 15), r"expand.weight': wanted float32 \[any, 16\]"),
    "blocks.0.expand.bias": ("sasrec", (63,), r"expand.bias': wanted float32 \[64\]"),
    "blocks.0.attention.query_key_value.weight": ("sasrec", (47, 16), r"query_key_value.bias': wanted"),
    "encoder.weight_ih_l0": ("gru4rec", (63, 16), r"weight_ih_l0': wanted float32 \[60, 16\], got"),
    "encoder.weight_hh_l0": ("gru4rec", (60, 19), r"weight_ih_l0': wanted float32 \[57, 16\], got"),
    "encoder.bias_hh_l0": ("gru4rec", (20,), r"bias_hh_l0': wanted float32 \[60\]"),
    "projection.weight": ("gru4rec", (17, 20), r"projection.bias': wanted float32 \[17\]"),
    "filler": ("markov", (3,), r"'filler': wanted float32 \[12\]"),
    "successor_offsets": ("markov", (12,), r"'successor_offsets': wanted int64 \[13\], got int64 \[12\]"),
    "successor_shares": ("markov", (1,), r"'successor_shares': wanted float32 \[12\]"),
}


def _artifact(name: str) -> Artifact:
    histories = histories_of(cycle_log())
    if name == "markov":
        return Markov().fit(histories, histories.offsets[1:], basket=False, exclude_seen=False)
    if name == "gru4rec":
        return GRU4Rec(12, width=16, hidden_size=20, max_length=10).export(histories.items)
    return SASRec(12, width=16, max_length=10, item_bias=True).export(histories.items)


@pytest.mark.parametrize("weight", _WRONG_WEIGHTS)
def test_a_weight_that_does_not_fit_is_named(weight: str) -> None:
    name, shape, message = _WRONG_WEIGHTS[weight]
    artifact = _artifact(name)
    right = artifact.weights[weight]
    artifact.weights[weight] = np.zeros(shape, right.dtype)
    with pytest.raises(ArtifactError, match=message):
        Engine(artifact)
    artifact.weights[weight] = right.astype(np.float64)
    with pytest.raises(ArtifactError, match=f"{weight}': wanted .*, got float64"):
        Engine(artifact)
    del artifact.weights[weight]
    with pytest.raises(ArtifactError, match=f"{weight}': wanted .*, got none of that name"):
        Engine(artifact)


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (1, {"in": "z"}, r"step 1 \(layer_norm\): reads register 'z', which no step before it writes"),
        (1, {"epsilon": "small"}, "epsilon: wanted a number, got 'small'"),
        (3, {"heads": 3}, "heads: wanted a divisor of 48 / 3"),
        (4, {"residual": "y", "in": "x"}, None),
        (6, {"residual": "x"}, "residual: wanted 64 columns per token, got 16 columns per token"),
        (6, {"activation": "swish"}, "wanted one of none, relu, .* got 'swish'"),
        (
            -2,
            {"call": "embed", "table": "item_embedding", "scale": 1.0},
            "per history in 'x', got 16 .* token",
        ),
        (-1, {"out": "q"}, None),
    ],
)
def test_a_step_that_does_not_fit_is_named(step: int, change: dict, message: str | None) -> None:
    artifact = _artifact("sasrec")
    artifact.program[step].update(change)
    if message is None:  # such a model is another one, but one that runs
        assert len(Engine(artifact).recommend(["item 1"], k=3).items) == 3
    else:
        with pytest.raises(ArtifactError, match=message):
            Engine(artifact)


def test_adjustments_that_cannot_be_made_are_refused() -> None:
    artifact = _artifact("markov")
    artifact.weights["successor_items"] = artifact.weights["successor_items"] + np.int32(1)
    with pytest.raises(ArtifactError, match="successor_items: wanted codes from 0 to 11, got 1 to 12"):
        Engine(artifact)
    artifact.weights["successor_offsets"] = np.flip(artifact.weights["successor_offsets"])
    with pytest.raises(ArtifactError, match="successor_offsets: wanted an ascent from 0 to 12"):
        Engine(artifact)
    artifact.adjustments[0]["kind"] = "miracle"
    with pytest.raises(ArtifactError, match="transition, neighbours, copy or rescore, got 'miracle'"):
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
