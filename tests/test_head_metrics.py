"""Metrics of heads against hand-made examples and slow loops; calibration where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from chronorec.data.splits import leave_one_out, temporal_basket
from chronorec.engine import Engine
from chronorec.evaluation.confidence import best_item_calibration
from chronorec.evaluation.head_metrics import (
    calibration,
    classification,
    confusion,
    per_class,
    regression,
)
from chronorec.models import Markov, Popularity
from tests.support.logs import DAY, basket_log, cycle_log, histories_of


def test_regression() -> None:
    found = regression(np.array([1.0, 2.0, 5.0, 9.0]), np.array([2.0, 2.0, 2.0, np.nan], np.float32))
    assert found == pytest.approx({"mse": 10 / 3, "rmse": (10 / 3) ** 0.5, "mae": 4 / 3})
    with pytest.raises(ValueError, match="at least one known number"):
        regression(np.array([1.0]), np.array([np.nan]))
    with pytest.raises(ValueError, match="predicted: wanted finite numbers"):
        regression(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"wanted two arrays \[N\], got \[2\] and \[1\]"):
        regression(np.zeros(2), np.zeros(1))


def test_classification_by_hand() -> None:
    target = np.array([0, 0, 0, 1, 1, 2, -1])
    predicted = np.array([0, 0, 1, 1, 0, 0, 2])
    assert confusion(predicted, target, 3).tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    found = per_class(confusion(predicted, target, 3))
    assert found["precision"].tolist() == [0.5, 0.5, 0.0]
    assert found["recall"] == pytest.approx([2 / 3, 0.5, 0.0])
    assert found["f1"] == pytest.approx([4 / 7, 0.5, 0.0])
    macro = classification(predicted, target, 5)
    assert macro == pytest.approx(
        {"accuracy": 0.5, "precision": 1 / 3, "recall": 7 / 18, "f1": (4 / 7 + 0.5) / 3}
    )
    one = classification(predicted, target, 3, positive=1)
    assert one == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5})


@pytest.mark.parametrize("seed", range(3))
def test_classification_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    found = per_class(confusion(predicted, target, 4))
    for c in range(4):
        hits = sum(1 for p, t in zip(predicted, target, strict=True) if p == t == c)
        precision, recall = hits / sum(predicted == c), hits / sum(target == c)
        assert found["precision"][c] == pytest.approx(precision)
        assert found["recall"][c] == pytest.approx(recall)
        assert found["f1"][c] == pytest.approx(2 * precision * recall / (precision + recall))
    assert classification(predicted, target, 4)["accuracy"] == pytest.approx((predicted == target).mean())


def test_classification_errors() -> None:
    with pytest.raises(ValueError, match="predicted: wanted classes from 0 to 1, got 0 to 2"):
        confusion(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="at least one known class"):
        classification(np.array([0]), np.array([-1]), 2)


def test_calibration_finds_the_truth() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(40_000)
    honest = calibration(probability, rng.random(40_000) < probability)
    boastful = calibration(probability, rng.random(40_000) < probability**2)
    assert honest.count.tolist() == [4000] * 10
    assert honest.error < 0.01
    assert boastful.error == pytest.approx(1 / 6, abs=0.01)
    np.testing.assert_allclose(boastful.observed, boastful.predicted**2, atol=0.03)


def test_calibration_of_ties_and_its_errors() -> None:
    found = calibration(np.full(9, 0.25), np.arange(9) < 3)
    assert (found.predicted.tolist(), found.count.tolist()) == ([0.25], [9])
    assert found.error == pytest.approx(1 / 3 - 0.25)
    with pytest.raises(ValueError, match="at least one case"):
        calibration(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="wanted numbers from 0 to 1"):
        calibration(np.array([1.5]), np.array([True]))


def test_the_best_item_is_as_probable_as_its_softmax() -> None:
    histories = histories_of(cycle_log())
    split = leave_one_out(histories, exclude_seen=False)
    model = Markov().fit(histories, split.refit_end, basket=False, exclude_seen=False)
    found = best_item_calibration(Engine(model), histories, split.test, exclude_seen=False)
    wanted = np.e / (np.e + histories.num_items - 1)  # the successor scores 1, all others about 0
    np.testing.assert_allclose(found.predicted, wanted, rtol=1e-4)
    assert (found.observed == 1.0).all()
    assert found.count.sum() == len(split.test)


def test_all_scores_are_those_of_single_requests() -> None:
    histories = histories_of(cycle_log(users=30))
    split = leave_one_out(histories, exclude_seen=True)
    engine = Engine(Popularity().fit(histories, split.refit_end, basket=False, exclude_seen=True))
    scores = engine.score_all(histories, split.test, True)
    items = histories.items.column("item").to_pylist()
    for q in range(3):
        events = slice(int(split.test.begin[q]), int(split.test.end[q]))
        own = engine.score([items[i] for i in histories.item[events]], items)
        seen = np.isin(np.arange(len(items)), histories.item[events])
        assert (scores[q][seen] == -np.inf).all()
        assert np.array_equal(scores[q][~seen], own[~seen])


def test_a_basket_is_no_class() -> None:
    histories = histories_of(basket_log())
    split = temporal_basket(histories, 10 * DAY, validation_cut=9 * DAY)
    model = Popularity().fit(histories, split.refit_end, basket=True, exclude_seen=False)
    with pytest.raises(ValueError, match="queries: wanted one target each, got baskets"):
        best_item_calibration(Engine(model), histories, split.test, exclude_seen=False)
