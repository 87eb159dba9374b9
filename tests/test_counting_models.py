"""Counting models in the engine are what a slow reading of their definition says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data import Histories
from chronorec.data.folds import user_folds
from chronorec.data.splits import Split, leave_one_out, temporal_basket, temporal_event
from chronorec.engine import Engine
from chronorec.engine.adjust import OTHER_HOURS
from chronorec.models import CountingModel, PersonalFrequency, UserNeighbours
from chronorec.training.baselines import fit_baselines
from tests.support.logs import DAY, basket_log, cycle_log, histories_of

HOUR = DAY // 24


def scores_of(model: Artifact, histories: Histories, user: int, end: int, at: int) -> np.ndarray:
    events = slice(int(histories.offsets[user]), end)
    items = histories.items.column("item").to_pylist()
    history = [items[code] for code in histories.item[events]]
    session = histories.columns.get("session")
    return Engine(model).score(
        history,
        items,
        times=histories.time[events].tolist(),
        sessions=None if session is None else session[events].tolist(),
        at=at,
    )


@pytest.fixture(scope="module")
def at_hours() -> Histories:
    """Random walks of few items at random hours."""
    import pyarrow as pa

    rng = np.random.default_rng(5)
    users, events = 8, 30
    times = np.sort(rng.integers(0, 60 * 24, (users, events)), axis=1) * HOUR
    return histories_of(
        pa.table(
            {
                "user_id": np.repeat(np.arange(users), events),
                "item_id": rng.integers(0, 6, users * events),
                "timestamp": pa.array(times.reshape(-1), pa.timestamp("us")),
            }
        )
    )


@pytest.mark.parametrize("decay", [None, 20.0])
@pytest.mark.parametrize("width", [None, 1.5])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_personal_frequency(
    at_hours: Histories, decay: float | None, width: float | None, weight: float
) -> None:
    histories = at_hours
    model = PersonalFrequency(decay, width, weight).fit(
        histories, histories.offsets[1:], basket=False, exclude_seen=False
    )
    for user, length in ((0, 30), (1, 1), (2, 17), (3, 2), (4, 0)):
        begin = int(histories.offsets[user])
        at = int(histories.time[begin + length - 1]) + 7 * HOUR if length else 0
        wanted = model.weights["filler"].astype(np.float64)
        item, time = histories.item[begin : begin + length], histories.time[begin : begin + length]
        for j in range(length):
            value = 1.0 if decay is None else np.exp(-((at - time[j]) // DAY) / decay)
            if width is not None:
                hours = abs(at % DAY - time[j] % DAY) / HOUR
                hours = min(hours, 24 - hours)
                value *= np.exp(-(hours**2) / (2 * width**2)) + OTHER_HOURS
            if j > 0 and item[j - 1] == item[-1]:
                value *= 1 + weight
            wanted[item[j]] += value
        found = scores_of(model, histories, user, begin + length, at)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_hour_of_the_request_changes_the_answer(at_hours: Histories) -> None:
    model = PersonalFrequency(None, 1.0).fit(at_hours, at_hours.offsets[1:], basket=False, exclude_seen=False)
    morning, night = (
        scores_of(model, at_hours, 0, 30, 100 * DAY + hour * HOUR).argsort().tolist() for hour in (8, 20)
    )
    assert morning != night
    with pytest.raises(ValueError, match="needs the time of every event"):
        Engine(model).recommend([1])


def slow_neighbours(
    histories: Histories, end: np.ndarray, model: UserNeighbours, history: slice, at: int
) -> np.ndarray:
    """The definition over dense matrices, all float64."""
    users, items = histories.num_users, histories.num_items

    def counts(events: slice, until: int) -> np.ndarray:
        vector = np.zeros(items)
        for item, time in zip(histories.item[events], histories.time[events], strict=True):
            days = (until - time) // DAY
            vector[item] += 1.0 if model.decay_days is None else np.exp(-days / model.decay_days)
        return vector

    matrix = np.zeros((users, items))
    for b in range(users):
        events = slice(int(histories.offsets[b]), int(end[b]))
        if events.stop > events.start:
            matrix[b] = counts(events, int(histories.time[events.stop - 1]))
    known = matrix.sum(axis=1) > 0
    idf = np.log(known.sum() / np.maximum((matrix > 0).sum(axis=0), 1))
    own = counts(history, at)
    weighted = matrix * idf
    cosine = np.zeros(users)
    norms = np.linalg.norm(weighted, axis=1) * max(np.linalg.norm(own * idf), 1e-300)
    some = norms > 0
    cosine[some] = (weighted @ (own * idf))[some] / norms[some]
    near = [b for b in np.argsort(-cosine, kind="stable")[: model.count] if cosine[b] > 0]
    scores = (1 - model.share) * own / max(own.sum(), 1e-300)
    if near:
        rates = matrix[near] / matrix[near].sum(axis=1, keepdims=True)
        scores += model.share * np.average(rates, axis=0, weights=cosine[near])
    return scores


@pytest.mark.parametrize("settings", [(None, 200, 0.5), (4.0, 3, 0.7), (2.0, 1, 1.0), (30.0, 10, 0.0)])
def test_user_neighbours(tmp_path: Path, settings: tuple[float | None, int, float]) -> None:
    histories = histories_of(basket_log(users=20, items=60))
    split = temporal_basket(histories, 8 * DAY, validation_cut=6 * DAY)
    end = split.refit_end.copy()
    end[3] = split.begin[3]  # a user without training events
    model = UserNeighbours(*settings)
    artifact = model.fit(histories, end, basket=True, exclude_seen=False)
    artifact = Artifact.load(artifact.save(tmp_path / "model"))
    for user in (0, 3, 7):
        history = slice(int(histories.offsets[user]), int(split.test.end[user]))
        at = int(split.test.at[user])
        wanted = slow_neighbours(histories, end, model, history, at) + artifact.weights["filler"]
        found = scores_of(artifact, histories, user, history.stop, at)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
    nobody = Engine(artifact).recommend([], times=[], at=0, k=3)
    np.testing.assert_allclose(nobody.scores, np.sort(artifact.weights["filler"])[::-1][:3])


@pytest.mark.parametrize("basket", [False, True])
def test_one_by_one_and_together_agree(at_hours: Histories, basket: bool) -> None:
    if basket:
        histories = histories_of(basket_log(users=30))
        split = temporal_basket(histories, 10 * DAY, validation_cut=9 * DAY)
        model: CountingModel = UserNeighbours(5.0, 7, 0.5)
    else:
        histories, split = at_hours, temporal_event(at_hours, 50 * DAY, validation_cut=40 * DAY)
        model = PersonalFrequency(20.0, 1.5, 3.0)
    artifact = model.fit(histories, split.refit_end, basket=basket, exclude_seen=False)
    engine = Engine(artifact)
    greater, equal, items = engine.rank_and_topk(histories, split.test, 5, False)
    for q in range(len(split.test)):
        alone = split.test.select(slice(q, q + 1))
        one_greater, one_equal, one_items = engine.rank_and_topk(histories, alone, 5, False)
        targets = slice(*split.test.target_offsets[q : q + 2].tolist())
        assert one_greater.tolist() == greater[targets].tolist()
        assert one_equal.tolist() == equal[targets].tolist()
        assert one_items[0].tolist() == items[q].tolist()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"count": 0}, "wanted a count from 1"),
        ({"share": 1.5}, "a share from 0 to 1"),
        ({"decay_days": -1}, "decay_days: wanted a number above 0"),
        ({"weights": "other"}, "other_offsets"),
        ({"kind": "friends"}, "transition, neighbours, copy or rescore, got 'friends'"),
        ({"kind": "frequency", "hour_width": 0}, "hour_width: wanted a number above 0"),
        ({"kind": "frequency", "transition_weight": 2}, "events of a basket have no order"),
    ],
)
def test_damaged_specifications_are_refused(change: dict[str, object], why: str) -> None:
    histories = histories_of(basket_log(users=5))
    artifact = UserNeighbours(5.0).fit(histories, histories.offsets[1:], basket=True, exclude_seen=False)
    artifact = dataclasses.replace(artifact, adjustments=[{**artifact.adjustments[0], **change}])
    with pytest.raises(ArtifactError, match=why):
        Engine(artifact)


def test_rows_out_of_range_are_refused() -> None:
    histories = histories_of(basket_log(users=5))
    artifact = UserNeighbours(5.0).fit(histories, histories.offsets[1:], basket=True, exclude_seen=False)
    for name, value in (("neighbour_item_users", 5), ("neighbour_items", histories.num_items)):
        codes = artifact.weights[name].copy()
        codes[0] = value
        with pytest.raises(ArtifactError, match=f"{name}: wanted codes from 0 to"):
            Engine(dataclasses.replace(artifact, weights={**artifact.weights, name: codes}))
    with pytest.raises(ValueError, match="transition_weight: events of a basket"):
        PersonalFrequency(transition_weight=1.0).fit(
            histories, histories.offsets[1:], basket=True, exclude_seen=False
        )


def kinds(histories: Histories, split: Split) -> list[str]:
    return [model.name.partition(",")[0] for model in fit_baselines(histories, split, part="test")]


def test_which_baselines_stand_beside_a_split(at_hours: Histories) -> None:
    baskets = histories_of(basket_log(users=12))
    split = temporal_basket(baskets, 10 * DAY, validation_cut=9 * DAY)
    assert kinds(baskets, split) == ["popularity", "markov", "personal frequency", "user neighbours"]
    split = temporal_event(at_hours, 50 * DAY, validation_cut=40 * DAY)
    wanted = ["popularity", "markov", "personal frequency", "personal frequency by hour"]
    assert kinds(at_hours, split) == wanted
    assert kinds(at_hours, user_folds(at_hours, 4)[0]) == wanted
    cycle = histories_of(cycle_log(users=8))
    assert kinds(cycle, leave_one_out(cycle, exclude_seen=True)) == ["popularity", "markov"]


def test_settings_come_from_validation_alone(at_hours: Histories) -> None:
    """What happens after the cut changes no setting of a baseline."""
    split = temporal_event(at_hours, 50 * DAY, validation_cut=40 * DAY)
    changed = dataclasses.replace(at_hours, item=at_hours.item.copy(), _content_hash=None)
    after = at_hours.time >= 50 * DAY
    changed.item[after] = (changed.item[after] + 1) % 6
    again = temporal_event(changed, 50 * DAY, validation_cut=40 * DAY)
    names = [
        [m.name for m in fit_baselines(h, s, part="test")] for h, s in ((at_hours, split), (changed, again))
    ]
    assert names[0] == names[1]
