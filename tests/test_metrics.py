from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from math import comb, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec.evaluation.metrics import (
    Ranks,
    average_precision,
    averages,
    coverage,
    f1,
    hit_rate,
    ndcg,
    novelty,
    per_query,
    precision,
    recall,
    reciprocal_rank,
)


def ranks_of(scores: list[int], targets: list[int]) -> Ranks:
    greater = [sum(s > scores[t] for s in scores) for t in targets]
    equal = [sum(s == scores[t] for s in scores) - 1 for t in targets]
    return Ranks(np.array(greater), np.array(equal), np.array([0, len(targets)]))


def of_list(ranking: list[int], targets: set[int], k: int) -> dict[str, float]:
    """The metrics of one ranking without ties, straight from their definitions."""
    hits = [item in targets for item in ranking[:k]]
    n, found = len(targets), sum(hits)
    p, r = found / k, found / n
    positions = [i for i, hit in enumerate(hits) if hit]
    everywhere = [i for i, item in enumerate(ranking) if item in targets]
    return {
        f"recall@{k}": r,
        f"precision@{k}": p,
        f"f1@{k}": 2 * p * r / (p + r) if found else 0.0,
        f"hit_rate@{k}": float(found > 0),
        f"ndcg@{k}": sum(1 / log2(i + 2) for i in positions) / sum(1 / log2(i + 2) for i in range(min(k, n))),
        f"mrr@{k}": 1 / (positions[0] + 1) if positions else 0.0,
        f"map@{k}": sum(sum(hits[: i + 1]) / (i + 1) for i in positions) / min(k, n),
        "mrr": 1 / (everywhere[0] + 1),
    }


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_metric_is_the_mean_over_all_orders_of_ties(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 6))
    scores = data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items))
    targets = sorted(data.draw(st.sets(st.integers(0, items - 1), min_size=1)))
    k = data.draw(st.integers(1, 8))
    wanted: dict[str, float] = {}
    orders = list(permutations(range(items)))
    for order in orders:
        ranking = sorted(range(items), key=lambda item: (-scores[item], order[item]))
        for name, value in of_list(ranking, set(targets), k).items():
            wanted[name] = wanted.get(name, 0.0) + value / len(orders)
    got = averages(per_query(ranks_of(scores, targets), [k]))
    assert got == pytest.approx(wanted, abs=1e-12)


def test_queries_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    single = []
    for _ in range(50):
        scores = rng.integers(0, 6, 25).tolist()
        targets = rng.choice(25, rng.integers(1, 12), replace=False).tolist()
        single.append(ranks_of(scores, targets))
    together = Ranks(
        np.concatenate([r.greater for r in single]),
        np.concatenate([r.equal for r in single]),
        np.cumsum([0, *(len(r.greater) for r in single)]),
    )
    values = per_query(together, [1, 5, 20])
    for q, alone in enumerate(single):
        for name, array in per_query(alone, [1, 5, 20]).items():
            assert values[name][q] == pytest.approx(array[0], abs=1e-12), name
    assert averages(values)["map@5"] == pytest.approx(values["map@5"].mean())


def test_known_values_without_ties() -> None:
    ranks = Ranks(np.array([0, 3, 9, 10]), np.zeros(4, int), np.array([0, 1, 2, 3, 4]))
    assert recall(ranks, 10).tolist() == hit_rate(ranks, 10).tolist() == [1, 1, 1, 0]
    assert precision(ranks, 10).tolist() == [0.1, 0.1, 0.1, 0]
    assert ndcg(ranks, 10).tolist() == pytest.approx([1, 1 / log2(5), 1 / log2(11), 0])
    assert reciprocal_rank(ranks, 10).tolist() == pytest.approx([1, 1 / 4, 1 / 10, 0])
    assert reciprocal_rank(ranks).tolist() == pytest.approx([1, 1 / 4, 1 / 10, 1 / 11])
    assert average_precision(ranks, 10).tolist() == pytest.approx([1, 1 / 4, 1 / 10, 0])


def test_ideal_counts_at_most_k_targets() -> None:
    ranks = Ranks(np.arange(5), np.zeros(5, int), np.array([0, 5]))
    assert ndcg(ranks, 3)[0] == pytest.approx(1)
    assert average_precision(ranks, 3)[0] == pytest.approx(1)
    assert recall(ranks, 3)[0] == pytest.approx(3 / 5)
    assert f1(ranks, 3)[0] == pytest.approx(2 * 3 / 8)


def test_a_scorer_that_ties_everything_gets_what_chance_gives() -> None:
    items, targets, k = 50_000, 7, 10
    ranks = Ranks(np.zeros(targets, int), np.full(targets, items - 1), np.array([0, targets]))
    assert recall(ranks, k)[0] == pytest.approx(k / items)
    assert hit_rate(ranks, k)[0] == pytest.approx(1 - comb(items - targets, k) / comb(items, k))
    chance = comb(items - 1, targets - 1) / comb(items, targets)
    assert reciprocal_rank(ranks, 1)[0] == pytest.approx(chance)
    assert 0 < reciprocal_rank(ranks)[0] < 0.01


def test_a_miss_counts_as_one() -> None:
    ranks = Ranks(np.array([100, 100, 0]), np.zeros(3, int), np.array([0, 3]))
    assert recall(ranks, 10)[0] == pytest.approx(1 / 3)
    assert reciprocal_rank(ranks)[0] == 1
    missed = Ranks(np.array([100, 100]), np.zeros(2, int), np.array([0, 2]))
    assert all(np.isfinite(array).all() for array in per_query(missed, [10]).values())
    assert averages(per_query(missed, [10]))["hit_rate@10"] == 0


def test_many_queries_are_fast_enough_to_vectorise() -> None:
    rng = np.random.default_rng(1)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 20, 20_000))])
    greater, equal = rng.integers(0, 3000, offsets[-1]), rng.integers(0, 40, offsets[-1])
    values = per_query(Ranks(greater, equal, offsets), [10, 20])
    assert all(
        len(array) == 20_000 and (array >= 0).all() and (array <= 1).all() for array in values.values()
    )


def test_coverage_and_novelty() -> None:
    topk = np.array([[0, 1], [1, -1]], np.int32)
    assert coverage(topk, 4) == 0.5
    counts = np.array([3, 0, 0, 1])
    information = [-log2(4 / 8), -log2(1 / 8)]
    assert novelty(topk, counts).tolist() == pytest.approx([sum(information) / 2, information[1]])
    assert novelty(np.full((1, 3), -1), counts).tolist() == [0]


def test_errors() -> None:
    one = np.array([1])
    with pytest.raises(ValueError, match="target_offsets: wanted at least one target in every query"):
        Ranks(one, one, np.array([0, 0, 1]))
    with pytest.raises(ValueError, match=r"target_offsets: wanted 0 \.\. M"):
        Ranks(one, one, np.array([0, 2]))
    with pytest.raises(ValueError, match="greater, equal: wanted counts of 0 and more"):
        Ranks(-one, one, np.array([0, 1]))
    with pytest.raises(ValueError, match="greater: wanted integers"):
        Ranks(np.array([1.0]), one, np.array([0, 1]))
    metrics: list[Callable[[Ranks, int], object]] = [
        recall,
        precision,
        f1,
        hit_rate,
        ndcg,
        reciprocal_rank,
        average_precision,
    ]
    for metric in metrics:
        with pytest.raises(ValueError, match="k: wanted at least 1, got 0"):
            metric(Ranks(one, one, np.array([0, 1])), 0)
