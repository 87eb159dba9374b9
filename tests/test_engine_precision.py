"""Short weights and short states: within the error of their precision, and the same whatever happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings

from chronorec.artifact import Artifact
from chronorec.engine import Engine, Precisions, Sessions
from chronorec.models import GRU4Rec
from chronorec.ops.reference._recurrent import rounded_weight
from tests.test_sessions import (
    ENGINES,
    EVENTS,
    ITEMS,
    MICROS,
    PROFILES,
    STREAMING,
    assert_same,
    expected,
    tell,
)

Doubles = npt.NDArray[np.float64]
RECURRENT = ["gru", "lstm", "rnn"]


def short_engine(kind: str, **parts: Any) -> Engine:
    return Engine(ENGINES[kind].artifact, Precisions(**parts))


def assert_equal(found: Any, wanted: Any) -> None:
    assert found.items == wanted.items
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("kind", STREAMING)
@pytest.mark.parametrize("memory", ["1G", "20K"])  # little: states, then sessions, are given up
@settings(deadline=None, max_examples=15)
@given(story=EVENTS)
def test_rounded_states_are_those_of_whole_histories_bitwise(
    kind: str, memory: str, story: list[tuple[int, int, int, str, str | None]]
) -> None:
    engine = short_engine(kind, states="bfloat16", weights="int8" if kind in RECURRENT else "float32")
    sessions = Sessions(engine, memory=memory)
    log: dict[str, list[tuple[int, str, str | None]]] = {}
    for number, code, seconds, action, event in story:
        user, item, at = f"user {number}", f"item {code}", seconds * MICROS
        events = log.setdefault(user, [])
        if user not in sessions:
            events.clear()  # it was given up
        if action == "append":
            sessions.append(user, item, at=at, event=event)
            if code < ITEMS:
                tell(engine, (at, item, event), events)
        elif action == "forget":
            sessions.forget(user)
            events.clear()
        else:
            asked = at if action == "past" else 10**9 * MICROS
            how = {"k": ITEMS, "exclude_seen": number % 2 == 0, "profile": PROFILES[(code + seconds) % 3]}
            assert_equal(sessions.recommend(user, at=asked, **how), expected(engine, events, asked, **how))


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_sessions_and_batches_have_the_same_weights(kind: str, weights: str) -> None:
    engine, exact = short_engine(kind, weights=weights), ENGINES[kind]
    sessions, rng = Sessions(engine), np.random.default_rng(0)
    items = [f"item {code}" for code in rng.integers(0, ITEMS, 60)]
    times = list(range(0, 60 * MICROS, MICROS))
    sessions.extend("u", items, times)
    how: dict[str, Any] = {"at": 100 * MICROS, "k": ITEMS}
    found = sessions.recommend("u", **how)
    assert_same(found, engine.recommend(items, times=times, **how))
    assert not np.array_equal(found.scores, exact.recommend(items, times=times, **how).scores)


# --- the error of a precision: a GRU in NumPy -------------------------------------------------------------


def rounded(values: Doubles, precision: str = "bfloat16") -> Doubles:
    return rounded_weight(torch.from_numpy(values).float(), precision).double().numpy()


def reference(artifact: Artifact, items: list[int], precisions: Precisions) -> Doubles:
    """Scores [V] after a history, in float64 but for what the precision rounds."""
    weights = {name: value.astype(np.float64) for name, value in artifact.weights.items()}
    meets = rounded if precisions.weights == "bfloat16" else lambda value: value
    keeps = rounded if precisions.states == "bfloat16" else lambda value: value
    table, scale = weights["item_embedding"], artifact.program[0]["scale"]
    ih, hh = (
        rounded(weights[f"encoder.{name}_l0"], precisions.weights) for name in ("weight_ih", "weight_hh")
    )
    bias_ih, bias_hh = (weights[f"encoder.{name}_l0"] for name in ("bias_ih", "bias_hh"))
    state = np.zeros(hh.shape[1])
    for item in items:
        r, z, n = np.split(ih @ meets(scale * table[item]) + bias_ih, 3)
        own_r, own_z, own_n = np.split(hh @ meets(state) + bias_hh, 3)
        reset, update = 1 / (1 + np.exp(-r - own_r)), 1 / (1 + np.exp(-z - own_z))
        new = np.tanh(n + reset * own_n)
        state = keeps(new + update * (state - new))
    answer = weights["projection.weight"] @ state + weights["projection.bias"]
    scores: Doubles = table @ answer
    return scores


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("states", ["float32", "bfloat16"])
def test_answers_are_within_the_error_of_their_precision(weights: Any, states: Any) -> None:
    torch.manual_seed(0)
    model = GRU4Rec(ITEMS, width=16, hidden_size=40).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    artifact = model.export(pa.table({"item": np.arange(ITEMS)}))
    precisions = Precisions(weights=weights, states=states)
    sessions, rng = Sessions(Engine(artifact, precisions)), np.random.default_rng(0)
    errors, budgets = [], []
    for user in range(20):
        items = rng.integers(0, ITEMS, 50).tolist()
        sessions.extend(user, items, list(range(50)))
        answer = sessions.recommend(user, k=ITEMS, exclude_seen=False)
        truth = reference(artifact, items, Precisions())
        errors.append(np.abs(answer.scores - truth[answer.items]))
        budgets.append(np.abs(reference(artifact, items, precisions) - truth))
    epsilon = 100 * float(np.finfo(np.float32).eps * np.abs(truth).max())
    assert np.max(errors) <= 2 * np.max(budgets) + epsilon
    assert np.mean(errors) <= 2 * np.mean(budgets) + epsilon
    if precisions != Precisions():
        assert np.max(budgets) > 0


# --- states are kept, counted, told and dropped -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gru", "lstm", "hstu"])
def test_snapshot_and_restore_are_bitwise(kind: str, tmp_path: Path) -> None:
    sessions, rng = Sessions(short_engine(kind, states="bfloat16")), np.random.default_rng(0)
    for user in range(5):
        for at in range(20):
            sessions.append(user, f"item {rng.integers(ITEMS)}", at=at)
            sessions.recommend(user)
    sessions.snapshot(tmp_path / "sessions.arrow")
    again = Sessions(sessions.engine)
    again.restore(tmp_path / "sessions.arrow")
    for user in range(5):
        assert_equal(again.recommend(user, at=30, k=ITEMS), sessions.recommend(user, at=30, k=ITEMS))


def test_a_state_is_never_mixed_between_precisions() -> None:
    """Precisions come and go under the same sessions; each answers as if it had been there all the time."""
    engines = [
        short_engine("gru", states=states, weights=weights)
        for states in ("bfloat16", "float32")
        for weights in ("float32", "int8")
    ]
    sessions, rng = Sessions(engines[0]), np.random.default_rng(0)
    items: list[str] = []
    for at in range(40):
        items.append(f"item {rng.integers(ITEMS)}")
        sessions.append("u", items[-1], at=at)
        engine = engines[int(rng.integers(len(engines)))]
        sessions.reload(engine)
        fresh = Sessions(engine)
        fresh.extend("u", items, list(range(at + 1)))
        assert_equal(sessions.recommend("u", at=50, k=ITEMS), fresh.recommend("u", at=50, k=ITEMS))


@pytest.mark.parametrize(("states", "most"), [("float32", 400), ("bfloat16", 220)])
def test_memory_of_an_idle_session(states: Any, most: int) -> None:
    model = GRU4Rec(10, width=16, hidden_size=64).eval()
    engine = Engine(model.export(pa.table({"item": np.arange(10)})), Precisions(states=states))
    sessions = Sessions(engine, memory="1G")
    for user in range(20_000):
        sessions.append(user, user % 10, at=1)
        sessions.recommend(user, k=1)
    counts = sessions.counts()
    assert counts["states"] == 20_000
    assert counts["state_bytes"] == 20_000 * (64 * (4 if states == "float32" else 2) + 16)
    assert counts["state_bytes"] + counts["index_bytes"] < 20_000 * most
    for user in range(20_000):
        sessions.forget(user)
    assert sessions.counts()["state_bytes"] == 0


# --- what is refused ------------------------------------------------------------------------------------


def test_what_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="weights: hstu has no recurrent layer that could be int8"):
        short_engine("hstu", weights="int8")
    with pytest.raises(ValueError, match="states: sasrec keeps no state from event to event"):
        short_engine("absolute", states="bfloat16")
    with pytest.raises(ValueError, match="states: wanted 'float32' or 'bfloat16', got 'int8'"):
        short_engine("gru", states="int8")
    with pytest.raises(ValueError, match="weights: wanted 'float32', 'bfloat16' or 'int8', got 'half'"):
        short_engine("gru", weights="half")


def test_precisions_in_text() -> None:
    assert Precisions.parse("int8") == Precisions("int8")
    assert Precisions.parse("states=bfloat16,weights=int8") == Precisions("float32", "int8", "bfloat16")
    for wrong in ("int4", "weights=int4", "weights:int8,table=int8", "state=bfloat16", "table=int8,,"):
        with pytest.raises(ValueError, match="wanted"):
            Precisions.parse(wrong)
