"""Several events ahead, fed back and by heads: against slow readings of the same, and beside baselines."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from chronorec.artifact import ArtifactError
from chronorec.data.splits import event_queries
from chronorec.engine import Engine, Predictor
from chronorec.evaluation.steps import evaluate_steps, most_steps
from chronorec.models import GRU4Rec, Markov, Popularity, SequenceModel, Sequences
from chronorec.models.heads import Examples, StepsHead
from chronorec.ops.item_cross_entropy import item_cross_entropy
from chronorec.ops.reference.gru import gru as reference_gru
from chronorec.training import Config, load_config, train
from chronorec.training.comparison import compare
from chronorec.training.config import ConfigError, HeadsConfig
from chronorec.training.heads import add_heads
from chronorec.training.splitting import make_split
from tests.support.budget import assert_within_budget
from tests.support.logs import DAY, cycle_log, histories_of

HISTORIES = histories_of(cycle_log(users=8, events=14, items=9))
IDS = HISTORIES.items.column("item").to_pylist()
STEPS = 4
DTYPES = (torch.float32, torch.float64)


def model_of(kind: type[SequenceModel] = GRU4Rec, **settings: Any) -> SequenceModel:
    """A model with heads for four steps, in which every weight matters."""
    torch.manual_seed(2)
    model = kind(len(IDS), width=16, max_length=9, item_bias=True, **settings)
    config = HeadsConfig(steps=STEPS)
    add_heads(model, config, HISTORIES, HISTORIES.offsets[:-1], HISTORIES.offsets[1:])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def direct(model: SequenceModel, codes: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Scores [steps, V] of the torch model."""
    twin = copy.deepcopy(model).to(dtype)
    sequences = Sequences(torch.tensor(codes), torch.tensor([0, len(codes)]))
    with torch.no_grad():
        state = twin.last_states(sequences)
        states = torch.cat([state, twin.heads["steps"](state)[0]])
        found: torch.Tensor = states @ twin.output_table.T + twin.item_bias
    return found


def test_heads_answer_in_the_engine_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("chronorec.nn.gru"), "gru", reference_gru)
    model = model_of()
    predictor, found = Predictor(Engine(model.export(HISTORIES.items))), []
    walks = [[place % 5 for place in range(length)] for length in (1, 2, 3, 9, 14)]
    for codes in walks:
        history = [IDS[code] for code in codes]
        answers = predictor.steps_ahead(history, k=len(IDS))
        assert len(answers) == STEPS
        scores = [dict(zip(answer.items, answer.scores.tolist(), strict=True)) for answer in answers]
        found.append([[row[item] for item in IDS] for row in scores])
        for answer in predictor.steps_ahead(history, exclude_seen=True):
            assert sorted([*answer.items, *set(history)]) == sorted(IDS)
    wanted = [torch.stack([direct(model, walk, dtype) for walk in walks]) for dtype in DTYPES]
    assert_within_budget(torch.tensor(found), *wanted)


TIMED = {"time_features": True, "request_time": True}


@pytest.mark.parametrize("settings", [{}, TIMED], ids=["plain", "timed"])
def test_a_beam_as_wide_as_all_ways_finds_the_best(settings: dict[str, Any]) -> None:
    """Every way of two steps, scored one after the other, with the times that are assumed."""
    engine = Engine(model_of(**settings).export(HISTORIES.items))
    history, times = IDS[:4], [0, DAY, 2 * DAY, 5 * DAY]
    at, gap = 7 * DAY, DAY

    def logs(more: list[str]) -> dict[str, float]:
        came = [at + gap * place for place in range(len(more))]
        request = {"times": [*times, *came], "at": at + gap * len(more)}
        scores = engine.score([*history, *more], IDS, **request).astype(np.float64)
        normal = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
        return dict(zip(IDS, normal.tolist(), strict=True))

    first = logs([])
    second = {one: logs([one]) for one in IDS}
    ways = {(a, b): first[a] + second[a][b] for a, b in itertools.product(IDS, IDS)}
    found = Predictor(engine).forecast(history, 2, beams=len(IDS), times=times, at=at)
    best = sorted(ways, key=lambda way: -ways[way])[: len(IDS)]
    assert [tuple(way.items) for way in found] == best
    np.testing.assert_allclose([way.log_probability for way in found], [ways[w] for w in best], rtol=1e-5)
    for way in found:
        assert way.times == [at, at + gap]
    greedy = Predictor(engine).forecast(history, 2, times=times, at=at)
    one = max(first, key=lambda item: first[item])
    assert [way.items for way in greedy] == [[one, max(second[one], key=lambda item: second[one][item])]]


def test_no_item_comes_twice_where_seen_ones_are_left_out() -> None:
    predictor = Predictor(Engine(model_of().export(HISTORIES.items)))
    ways = predictor.forecast(IDS[:3], 20, beams=3, exclude_seen=True)
    assert len(ways) == 3
    for way in ways:
        assert sorted([*way.items, *IDS[:3]]) == sorted(IDS)  # and then there are none left
        assert way.times is None


def test_what_cannot_look_ahead_says_so() -> None:
    plain = GRU4Rec(len(IDS), width=8).eval().export(HISTORIES.items)
    with pytest.raises(ValueError, match=r"trained for the next event alone; see heads\.steps"):
        Predictor(Engine(plain)).steps_ahead(IDS[:2])
    baskets = GRU4Rec(len(IDS), width=8).eval().export(HISTORIES.items, basket=True)
    with pytest.raises(ValueError, match="predicts baskets"):
        Predictor(Engine(baskets)).forecast(IDS[:2])
    with pytest.raises(ValueError, match="steps: wanted a whole number from 1, got 0"):
        Predictor(Engine(plain)).forecast(IDS[:2], 0)
    spec = {"kind": "steps", "weights": "heads.steps", "steps": 7}
    with pytest.raises(ArtifactError, match=r"heads\.steps\.ahead\.weight"):
        Engine(dataclasses.replace(model_of().export(HISTORIES.items), heads=[spec]))


# --- training -------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_targets_in_the_window() -> None:
    torch.manual_seed(0)
    head = StepsHead(6, 3, 1.0)
    torch.nn.init.normal_(head.ahead.weight)
    states, table = torch.randn(6, 6), torch.randn(8, 6)
    targets = torch.tensor([1, 2, 3, 4, 5, 6])

    def item_loss(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return item_cross_entropy(hidden, table, wanted)

    offsets = torch.tensor([0, 2, 2, 5, 6])
    found = head.loss(Examples(states, offsets, targets, {}, table, item_loss))
    ahead = head(states)
    wanted = []
    for later, pairs in ((1, [(0, 2), (2, 4), (3, 5)]), (2, [(2, 5)])):
        logits = torch.stack([ahead[token, later - 1] @ table.T for token, _ in pairs])
        wanted.append(F.cross_entropy(logits, torch.tensor([target for _, target in pairs])))
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    alone = Examples(states[:1], torch.tensor([0, 1]), targets[:1], {}, table, item_loss)
    assert head.loss(alone).item() == 0


def config_of(*overrides: str) -> Config:
    small = ["training.batch_tokens=256", "training.warmup_steps=5", "model.width=16", "model.dropout=0"]
    return load_config(overrides=[*small, "model.kind=gru4rec", "training.learning_rate=0.01", *overrides])


TEMPORAL = [
    "split.protocol=temporal-event",
    "split.cut=1970-01-15",
    "split.validation_cut=1970-01-13",
]


def paired_log(users: int = 60, events: int = 20, items: int = 12, seed: int = 0) -> pa.Table:
    """A walk in steps of one, in which every second event is any item: two ahead is better known than one."""
    table, generator = cycle_log(users, events, items), np.random.default_rng(seed)
    noise = generator.integers(0, items, users * events)
    walk = table["item_id"].to_pylist()
    item = [f"item {noise[place]}" if place % 2 else name for place, name in enumerate(walk)]
    return table.set_column(table.column_names.index("item_id"), "item_id", pa.array(item))


def test_learns_to_look_past_noise_and_says_so_beside_baselines() -> None:
    histories = histories_of(paired_log())
    config = config_of(*TEMPORAL, "heads.steps=3", "heads.steps_weight=1", "training.epochs=40")
    run = train(config, histories, quiet=True)
    report = compare({"model": run.artifact}, histories)
    found = report.to_dict()["heads"]["model"]["item by steps ahead"]
    rows = found["rows"]
    assert found["events"] == 60 * 4  # of six test events each the last two have no two after them
    own = [rows.pop(f"gru4rec, {way}") for way in ("heads", "fed back")]
    assert {name.partition(",")[0] for name in rows} <= {
        "popularity",
        "markov",
        "personal frequency",
        "personal frequency by hour",
    }
    for answer in own:
        assert answer["ndcg@10 +2"] > max(row["ndcg@10 +2"] for row in rows.values()) + 0.1


@pytest.mark.parametrize("loss", ["full", "sampled", "gbce"])
def test_trains_under_every_loss(loss: str) -> None:
    settings = [f"loss.kind={loss}", "loss.negatives=4", "training.epochs=2", "heads.steps=3"]
    run = train(config_of(*settings), histories_of(cycle_log(users=20)), quiet=True)
    weight = run.artifact.weights["heads.steps.ahead.weight"]
    assert weight.shape == (32, 16)
    assert np.abs(weight).max() > 1e-3


def test_training_reads_no_item_behind_its_range() -> None:
    histories, config = histories_of(cycle_log(users=20)), config_of("heads.steps=3", "training.epochs=2")
    split = make_split(config.split, histories)
    item = histories.item.copy()
    item[split.train_end] = (item[split.train_end] + 5) % 12
    item[split.train_end + 1] = (item[split.train_end + 1] + 7) % 12
    changed = dataclasses.replace(histories, item=item)
    weights = [train(config, log, split=split, quiet=True).artifact.weights for log in (histories, changed)]
    assert weights[0]["heads.steps.ahead.weight"].any()
    for name, found in weights[0].items():
        np.testing.assert_array_equal(found, weights[1][name], err_msg=name)


def test_baskets_and_bert_have_no_steps() -> None:
    for setting in ("split.protocol=temporal-basket", "model.kind=bert4rec"):
        with pytest.raises(ConfigError, match="heads: "):
            load_config(overrides=["heads.steps=3", setting])


# --- evaluation -------------------------------------------------------------------------------------------


def slow_scores(engine: Engine, history: list[str], times: list[int], at: int, step: int) -> np.ndarray:
    """After feeding back the best item ``step`` times."""
    gap = int(np.median(np.diff(times))) if len(times) > 1 else 0
    for _ in range(step):
        best = IDS[int(engine.score(history, IDS, times=times, at=at).argmax())]
        history, times, at = [*history, best], [*times, at], at + gap
    return engine.score(history, IDS, times=times, at=at)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("held", [None, 3], ids=["one part", "several parts"])
def test_ranks_of_steps_are_those_read_slowly(
    steps: int, held: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if held:
        monkeypatch.setattr("chronorec.evaluation.steps._SCORES", held * len(IDS))
    histories = histories_of(cycle_log(users=8, events=17, items=9))
    split = make_split(config_of(*TEMPORAL).split, histories)
    assert histories.time is not None
    engine = Engine(model_of(**TIMED).export(histories.items))
    assert most_steps(histories, split.test) == 3
    rows, count = evaluate_steps({"m": engine}, histories, split.test, steps, exclude_seen=False)
    assert count == 8 * (4 - steps)
    ids = histories.items.column("item").to_pylist()
    assert ids == IDS
    labels = ("m, heads", "m, fed back")
    ranks: dict[str, list[list[int]]] = {label: [[] for _ in range(steps)] for label in labels}
    for begin, end in zip(histories.offsets[:-1], histories.offsets[1:], strict=True):
        for origin in range(end - 3, end - steps + 1):
            history = [ids[code] for code in histories.item[begin:origin]]
            times, at = histories.time[begin:origin].tolist(), int(histories.time[origin])
            answers = Predictor(engine).steps_ahead(history, k=len(ids), times=times, at=at)
            for step in range(steps):
                target = histories.item[origin + step]
                scores = slow_scores(engine, history, times, at, step)
                ranks["m, fed back"][step].append(int((scores > scores[target]).sum()))
                ranks["m, heads"][step].append(answers[step].items.index(ids[target]))
    for label, of_steps in ranks.items():
        for step, own in enumerate(of_steps):
            ndcg = np.mean([1 / np.log2(rank + 2) for rank in own])
            np.testing.assert_allclose(rows[label][f"ndcg@10 +{step + 1}"], ndcg, err_msg=f"{label} {step}")
            assert rows[label][f"recall@10 +{step + 1}"] == 1  # of nine items


def test_steps_end_with_the_events_of_a_user() -> None:
    """Even where the first event of the next user is asked for too."""
    user, target = np.array([0, 1]), HISTORIES.offsets[1] - np.array([1, 0])
    assert most_steps(HISTORIES, event_queries(HISTORIES, user, target)) == 1


def test_baselines_walk_ahead_too() -> None:
    """On a walk round the items Markov chains know all that comes; popularity knows nothing of it."""
    histories = histories_of(cycle_log(users=60, events=20, items=30))
    split = make_split(config_of(*TEMPORAL).split, histories)
    fields = {"basket": False, "exclude_seen": False}
    counted = [model.fit(histories, split.refit_end, **fields) for model in (Markov(), Popularity())]
    engines = {artifact.name: Engine(artifact) for artifact in counted}
    rows, _ = evaluate_steps(engines, histories, split.test, 5, exclude_seen=False)
    assert [rows["markov, fed back"][f"ndcg@10 +{step}"] for step in range(1, 6)] == [1] * 5
    assert rows["popularity, fed back"]["ndcg@10 +5"] < 0.5
    with pytest.raises(ValueError, match="steps: wanted at most 6 for these queries, got 7"):
        evaluate_steps(engines, histories, split.test, 7, exclude_seen=False)
