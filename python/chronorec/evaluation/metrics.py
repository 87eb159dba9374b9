"""Ranking metrics: ranks in, numbers out.

A rank is known as (greater, equal): how many candidates score strictly above the target, and how many
others score the same. The order of ties means nothing, so every metric here is the exact expectation over a
uniformly random order of each group of tied items (McSherry and Najork, "Computing information retrieval
performance measures efficiently in the presence of tied scores", ECIR 2008): a target among t tied items
stands at each of their positions with probability 1 / t. A model that gives all items one score gets what
chance gives.

Write g for ``greater``, t = ``equal`` + 1, n for the number of targets of a query, and position p from 0.
Recall, precision, F1, DCG and average precision are sums over targets or pairs of targets, so the expectation
is taken term by term; hit rate and reciprocal rank ask for the first target of a query, whose position among
tied items is that of the smallest of c random positions out of t (c targets in that group).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of the targets of Q queries.

    Attributes:
        greater: int64 [M], candidates that score strictly above the target.
        equal: int64 [M], candidates that score the same, the target not counted, other targets counted.
        target_offsets: int64 [Q + 1], targets of query q: target_offsets[q] .. target_offsets[q + 1] - 1.
    """

    greater: Int64s
    equal: Int64s
    target_offsets: Int64s

    def __post_init__(self) -> None:
        for name in ("greater", "equal", "target_offsets"):
            array = np.asarray(getattr(self, name))
            if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"{name}: wanted integers [M], got {array.dtype} {list(array.shape)}")
            object.__setattr__(self, name, array.astype(np.int64))
        offsets = self.target_offsets
        if len(offsets) == 0 or offsets[0] != 0 or not offsets[-1] == len(self.greater) == len(self.equal):
            raise ValueError(
                "target_offsets: wanted 0 .. M for greater [M] and equal [M], got "
                f"{offsets[:1]} .. {offsets[-1:]} for {len(self.greater)} and {len(self.equal)}"
            )
        if (np.diff(offsets) < 1).any():
            raise ValueError("target_offsets: wanted at least one target in every query")
        if len(self.greater) and min(int(self.greater.min()), int(self.equal.min())) < 0:
            raise ValueError("greater, equal: wanted counts of 0 and more, got a negative one")

    def __len__(self) -> int:
        return len(self.target_offsets) - 1

    @property
    def num_targets(self) -> Int64s:
        """n: int64 [Q]."""
        return np.diff(self.target_offsets)

    @cached_property
    def tied(self) -> Int64s:
        """t: int64 [M], the items of the target's tie group, itself included."""
        return np.maximum(self.equal + 1, self.targets_tied)

    @cached_property
    def targets_above(self) -> Int64s:
        """Targets of the same query that score strictly above: int64 [M]."""
        return self._groups[0]

    @cached_property
    def targets_tied(self) -> Int64s:
        """c: int64 [M], targets of the same query in the target's tie group, itself included."""
        return self._groups[1]

    @cached_property
    def first(self) -> Int64s:
        """For each query a target that no other scores above: int64 [Q], indices into the targets."""
        query = np.repeat(np.arange(len(self)), self.num_targets)
        return np.lexsort((self.greater, query))[self.target_offsets[:-1]]

    @cached_property
    def _groups(self) -> tuple[Int64s, Int64s]:
        query = np.repeat(np.arange(len(self)), self.num_targets)
        order = np.lexsort((self.greater, query))
        g, q = self.greater[order], query[order]
        starts = np.flatnonzero(np.concatenate([[True], (g[1:] != g[:-1]) | (q[1:] != q[:-1])])[: len(g)])
        sizes = np.diff(np.append(starts, len(g)))
        above, tied = np.empty_like(g), np.empty_like(g)
        above[order] = np.repeat(starts, sizes) - self.target_offsets[q]
        tied[order] = np.repeat(sizes, sizes)
        return above, tied

    def sum(self, values: npt.NDArray[Any]) -> Floats:
        """Sums ``values`` [M] over the targets of each query: float64 [Q]."""
        sums: Floats = np.add.reduceat(values.astype(np.float64), self.target_offsets[:-1])
        return sums


def recall(ranks: Ranks, k: int) -> Floats:
    """recall@k = hits among the first k / n: float64 [Q]."""
    return _hits(ranks, k) / ranks.num_targets


def precision(ranks: Ranks, k: int) -> Floats:
    """precision@k = hits among the first k / k, also where fewer than k items can be recommended: [Q]."""
    return _hits(ranks, k) / k


def f1(ranks: Ranks, k: int) -> Floats:
    """f1@k, the harmonic mean of precision and recall of one list = 2 hits / (k + n), linear in hits: [Q]."""
    return 2 * _hits(ranks, k) / (k + ranks.num_targets)


def hit_rate(ranks: Ranks, k: int) -> Floats:
    """hit_rate@k, the probability that at least one target is among the first k: [Q].

    If no target is there for sure, those that may be stand in the one tie group that crosses position k, with
    m = k - g places left: no hit has probability C(t - c, m) / C(t, m) (hypergeometric).
    """
    _check_k(k)
    room = np.clip(k - ranks.greater, 0, ranks.tied)
    crosses = (room > 0) & (room < ranks.tied)
    starts = ranks.target_offsets[:-1]
    count = ranks.sum(crosses)
    tied = np.maximum.reduceat(np.where(crosses, ranks.tied, 0), starts)
    places = np.maximum.reduceat(np.where(crosses, room, 0), starts)
    miss = np.ones(len(ranks))
    for j in range(int(count.max(initial=0))):
        some = np.flatnonzero(count > j)
        miss[some] *= np.maximum(tied[some] - places[some] - j, 0) / (tied[some] - j)
    return np.where(ranks.sum((room == ranks.tied) & (room > 0)) > 0, 1.0, 1.0 - miss)


def ndcg(ranks: Ranks, k: int) -> Floats:
    """ndcg@k with binary gain and discount 1 / log2(p + 2), over the ideal of min(k, n) hits: [Q].

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """
    _check_k(k)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    first, last = np.minimum(ranks.greater, k), np.minimum(ranks.greater + ranks.tied, k)
    gains = (discounts[last] - discounts[first]) / ranks.tied
    result: Floats = ranks.sum(gains) / discounts[np.minimum(k, ranks.num_targets)]
    return result


def reciprocal_rank(ranks: Ranks, k: int | None = None) -> Floats:
    """1 / (1 + position of the first target), 0 where it is not among the first k (None: no limit): [Q].

    Its mean is MRR (Voorhees, TREC-8 1999). The first target stands in the best tie group; with c targets in
    it, its position p there has probability C(t - 1 - p, c - 1) / C(t, c).
    """
    if k is not None:
        _check_k(k)
    first = ranks.first
    greater, tied, count = ranks.greater[first], ranks.tied[first], ranks.targets_tied[first]
    limit = int((greater + tied).max(initial=0)) if k is None else k
    places = np.clip(limit - greater, 0, tied)
    start = np.minimum(greater, limit)
    harmonic = _harmonic(limit)
    result: Floats = (harmonic[start + places] - harmonic[start]) / tied
    several = np.flatnonzero(count > 1)
    result[several] = _first_of_several(greater[several], tied[several], count[several], places[several])
    return result


def average_precision(ranks: Ranks, k: int) -> Floats:
    """Average precision of the first k, over min(k, n); its mean is map@k: [Q].

    AP@k = sum over targets at a position p < k of (targets at positions <= p) / (p + 1), / min(k, n). A
    target at place j of its group has all targets above, itself, and on average (c - 1) j / (t - 1) of its
    tied fellows before it; summed over j this is closed, so the expectation is exact. (Some libraries divide
    by n or by k instead.)
    """
    _check_k(k)
    start = np.minimum(ranks.greater, k)
    places = np.clip(k - ranks.greater, 0, ranks.tied)
    harmonic = _harmonic(k)
    inverse = harmonic[start + places] - harmonic[start]
    fellows = (ranks.targets_tied - 1) / np.maximum(ranks.tied - 1, 1)
    terms = (ranks.targets_above + 1) * inverse + fellows * (places - (ranks.greater + 1) * inverse)
    return ranks.sum(terms / ranks.tied) / np.minimum(k, ranks.num_targets)


def per_query(ranks: Ranks, ks: Sequence[int]) -> dict[str, Floats]:
    """Every metric of every query, "recall@10" and so on, and "mrr" over the whole list: float64 [Q] each.

    What papers on sessions call P@20 is, with one target, ``hit_rate@20`` (and ``recall@20``), and MRR@20 is
    ``mrr@20``; ``precision@20`` is hits / 20.

    The means of these arrays are the metrics; slices of them are the metrics of a slice.
    """
    values: dict[str, Floats] = {}
    for k in ks:
        values[f"recall@{k}"] = recall(ranks, k)
        values[f"precision@{k}"] = precision(ranks, k)
        values[f"f1@{k}"] = f1(ranks, k)
        values[f"hit_rate@{k}"] = hit_rate(ranks, k)
        values[f"ndcg@{k}"] = ndcg(ranks, k)
        values[f"mrr@{k}"] = reciprocal_rank(ranks, k)
        values[f"map@{k}"] = average_precision(ranks, k)
    values["mrr"] = reciprocal_rank(ranks)
    return values


def averages(values: Mapping[str, Floats]) -> dict[str, float]:
    """The mean over the queries of each array."""
    return {name: float(array.mean()) for name, array in values.items()}


def coverage(topk: npt.NDArray[np.integer], num_items: int) -> float:
    """Share of the catalogue that stands in at least one list.

    Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy", RecSys 2010 (catalogue coverage).

    Args:
        topk: item codes [Q, k]; -1 where a list has fewer than k items.
    """
    return len(np.unique(topk[topk >= 0])) / num_items


def novelty(topk: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> Floats:
    """Mean self-information of the items of each list in bits: float64 [Q], 0 for an empty list.

    The self-information of an item is -log2 p(item) (Zhou et al., "Solving the apparent diversity-accuracy
    dilemma of recommender systems", PNAS 2010), with p its share of the training events. One is added to
    every count, so that an item that nobody took has a finite value.

    Args:
        topk: item codes [Q, k]; -1 where a list has fewer than k items.
        counts: training events of each item [V].
    """
    information = np.log2(counts.sum() + len(counts)) - np.log2(counts + 1.0)
    known = topk >= 0
    bits: Floats = np.where(known, information[np.where(known, topk, 0)], 0.0).sum(axis=1)
    result: Floats = bits / np.maximum(known.sum(axis=1), 1)
    return result


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k: wanted at least 1, got {k}")


def _hits(ranks: Ranks, k: int) -> Floats:
    """Expected number of targets among the first k: [Q]."""
    _check_k(k)
    return ranks.sum(np.clip(k - ranks.greater, 0, ranks.tied) / ranks.tied)


def _harmonic(n: int) -> Floats:
    """The harmonic numbers H(0) .. H(n)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])


def _first_of_several(greater: Int64s, tied: Int64s, count: Int64s, places: Int64s) -> Floats:
    """Sum over p < places of P(the first of ``count`` targets stands at p) / (greater + p + 1)."""
    result = np.zeros(len(greater))
    probability = count / tied
    last = np.minimum(places, tied - count + 1)
    for p in range(int(last.max(initial=0))):
        some = np.flatnonzero(last > p)
        result[some] += probability[some] / (greater[some] + p + 1)
        probability[some] *= (tied[some] - p - count[some]) / np.maximum(tied[some] - 1 - p, 1)
    return result
