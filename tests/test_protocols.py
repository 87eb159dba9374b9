from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chronorec.data.counts import event_counts
from chronorec.data.splits import Queries, leave_one_out, temporal_basket, temporal_event
from chronorec.evaluation import evaluate, evaluate_split
from tests.support.histories import make_histories, random_histories


class MatrixScorer:
    """Scores by how often the user took an item before, from a dense matrix: simple enough to trust."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def scores(self, histories: Any, queries: Queries, exclude_seen: bool) -> np.ndarray:
        scores = np.zeros((len(queries), histories.num_items))
        for q in range(len(queries)):
            history = histories.item[queries.begin[q] : queries.end[q]]
            np.add.at(scores[q], history, 1.0)
            if exclude_seen:
                scores[q, history] = -np.inf
        return scores

    def rank(self, histories: Any, queries: Queries, exclude_seen: bool) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(len(queries))
        scores = self.scores(histories, queries, exclude_seen)
        rows = np.repeat(np.arange(len(queries)), np.diff(queries.target_offsets))
        own = scores[rows, queries.targets][:, None]
        missed = np.isneginf(own[:, 0])
        greater = np.where(missed, histories.num_items, (scores[rows] > own).sum(axis=1))
        return greater, np.where(missed, 0, (scores[rows] == own).sum(axis=1) - 1)

    def topk(self, histories: Any, queries: Queries, k: int, exclude_seen: bool) -> np.ndarray:
        scores = self.scores(histories, queries, exclude_seen)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.full((len(queries), k), -1, np.int32)
        best[:, : order.shape[1]] = np.where(np.take_along_axis(scores, order, 1) == -np.inf, -1, order)
        return best


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunks_change_nothing_and_progress_is_told(chunk: int) -> None:
    histories = random_histories(0)
    split = temporal_basket(histories, 70, validation_cut=50)
    whole = evaluate_split(MatrixScorer(), histories, split, name="frequency")
    told: list[tuple[int, int]] = []
    scorer = MatrixScorer()
    parts = evaluate_split(
        scorer, histories, split, name="frequency", chunk=chunk, progress=lambda d, n: told.append((d, n))
    )
    assert parts.metrics == pytest.approx(whole.metrics)
    assert max(scorer.calls) <= chunk
    assert told[-1] == (len(split.test), len(split.test))
    assert [done for done, _ in told] == np.cumsum(scorer.calls).tolist()
    assert parts.num_queries == len(split.test)
    assert parts.num_targets == len(split.test.targets)
    assert np.array_equal(parts.user, split.test.user)


def test_without_lists_only_ranks_are_asked_for() -> None:
    histories = random_histories(0)
    split = temporal_basket(histories, 70, validation_cut=50)

    class RankScorer(MatrixScorer):
        def topk(self, *arguments: Any) -> np.ndarray:
            raise AssertionError("asked for lists")

    whole = evaluate_split(MatrixScorer(), histories, split, name="frequency").metrics
    ranks = evaluate_split(RankScorer(), histories, split, name="frequency", lists=False).metrics
    assert ranks == {name: whole[name] for name in ranks}
    assert set(whole) - set(ranks) == {f"{name}@{k}" for name in ("coverage", "novelty") for k in (10, 20)}


def test_a_scorer_that_can_answer_both_at_once_is_asked_once() -> None:
    histories = random_histories(0)
    split = temporal_basket(histories, 70, validation_cut=50)

    class JointScorer(MatrixScorer):
        def rank_and_topk(self, histories: Any, queries: Queries, k: int, exclude_seen: bool) -> Any:
            return *super().rank(histories, queries, exclude_seen), super().topk(
                histories, queries, k, exclude_seen
            )

        def topk(self, *arguments: Any) -> np.ndarray:
            raise AssertionError("asked apart")

    apart = evaluate_split(MatrixScorer(), histories, split, name="frequency").metrics
    assert evaluate_split(JointScorer(), histories, split, name="frequency").metrics == apart


def test_a_case_by_hand() -> None:
    histories = make_histories([[0, 0, 1, 0], [2, 2, 3, 1]], num_items=5)
    split = leave_one_out(histories, exclude_seen=False)
    result = evaluate_split(MatrixScorer(), histories, split, name="frequency", ks=(1, 2), seed=4)
    # User 0: item 0 is first. User 1: item 1 ties with 0 and 4 behind 2 and 3.
    assert result.metrics["recall@1"] == 0.5
    assert result.metrics["mrr"] == pytest.approx((1 + (1 / 3 + 1 / 4 + 1 / 5) / 3) / 2)
    assert result.metrics["coverage@1"] == 2 / 5
    assert result.per_query["recall@2"].tolist() == [1, 0]
    assert (result.name, result.protocol, result.part, result.seed) == (
        "frequency",
        "leave-one-out",
        "test",
        4,
    )
    assert result.split_hash == split.hash
    assert result.seconds > 0
    assert set(result.to_dict()) == {
        *(
            "name",
            "protocol",
            "part",
            "split_hash",
            "metrics",
            "num_queries",
            "num_targets",
            "seconds",
            "seed",
        )
    }
    seen = leave_one_out(histories, exclude_seen=True)
    excluded = evaluate_split(MatrixScorer(), histories, seen, name="frequency", ks=(3,))
    assert excluded.per_query["recall@3"].tolist() == [0, 1]  # user 0 repeats: a seen target is a miss
    assert excluded.per_query["mrr"][1] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_parts_and_popularity() -> None:
    histories = random_histories(1)
    split = temporal_event(histories, 70, validation_cut=50)
    validation = evaluate_split(MatrixScorer(), histories, split, name="f", part="validation")
    assert validation.num_queries == len(split.validation)
    assert validation.part == "validation"
    counts = event_counts(histories, split.begin, split.train_end)
    assert counts.sum() == (split.train_end - split.begin).sum()
    assert counts.tolist() == np.bincount(histories.item[histories.time < 50], minlength=30).tolist()
    with pytest.raises(ValueError, match="part: wanted 'validation' or 'test', got 'train'"):
        evaluate_split(MatrixScorer(), histories, split, name="f", part="train")  # type: ignore[arg-type]


def test_refusals() -> None:
    histories = make_histories([[0, 1, 2], [1, 2]])
    split = leave_one_out(histories, exclude_seen=False)
    counts = np.ones(3, np.int64)

    def run(queries: Queries = split.test, **changes: Any) -> None:
        settings: dict[str, Any] = {"exclude_seen": False, "popularity": counts, "ks": (2,)}
        evaluate(changes.pop("scorer", MatrixScorer()), histories, queries, **{**settings, **changes})

    with pytest.raises(ValueError, match="queries: wanted at least one query, got none"):
        run(split.test.select(slice(0, 0)))
    with pytest.raises(ValueError, match=r"ks: wanted cut-offs of at least 1, got \[0\]"):
        run(ks=(0,))
    with pytest.raises(ValueError, match="popularity: wanted counts of 3 items, got 2"):
        run(popularity=counts[:2])

    class WrongRank(MatrixScorer):
        def rank(self, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(5, int), np.zeros(1, int)

    class WrongList(MatrixScorer):
        def topk(self, *arguments: Any) -> np.ndarray:
            return np.zeros((1, 1), np.int32)

    with pytest.raises(ValueError, match=r"scorer.rank: wanted two arrays \[1\], got \[5\] and \[1\]"):
        run(scorer=WrongRank())
    with pytest.raises(ValueError, match=r"scorer.topk: wanted \[1, 2\], got \[1, 1\]"):
        run(scorer=WrongList())
