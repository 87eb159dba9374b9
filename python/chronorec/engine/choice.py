"""The best items for states under what a request asks: candidates, exclusions and rules."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

from chronorec.artifact import Artifact
from chronorec.data.jagged import Int32s, Int64s
from chronorec.engine.adjust import Adjustment
from chronorec.engine.catalogue import Catalogue, Mask
from chronorec.engine.heads import Heads
from chronorec.engine.item_table import ItemTable, score_lists, topk
from chronorec.engine.program import Floats
from chronorec.engine.rules import Rules
from chronorec.engine.vocabulary import Vocabulary, known

_NO_RULES = Rules()
_MOST_SCORES = 1 << 20  # held at a time where every item has a score


class Choice:
    """What requests ask of their answers, in codes; made once for all requests of a call.

    Args:
        k: how many items.
        exclude, candidates, rules: as in ``Engine.recommend``.

    Attributes:
        k: columns of the answers: at most as many as there are candidates.
        depth: how many items are looked at per request.
    """

    def __init__(
        self,
        artifact: Artifact,
        vocabulary: Vocabulary,
        catalogue: Catalogue,
        table: ItemTable,
        bias: Floats | None,
        heads: Heads,
        k: int,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
        rules: Rules | None,
    ) -> None:
        self._artifact, self._vocabulary, self._catalogue = artifact, vocabulary, catalogue
        self._table, self._rules = table, rules or _NO_RULES
        self._ranking = heads.ranking_by(self._rules.behaviour)
        blocked = known(vocabulary.codes_of(exclude, "exclude"))
        self._chosen: Int32s | None = None
        if candidates is not None:
            self._chosen = np.setdiff1d(known(vocabulary.codes_of(candidates, "candidates")), blocked)
        self._windows = catalogue.windows() if self._rules.available else None
        self._allow = self._filters(blocked)
        self._bias = self._boosted(bias)
        self._pin_places, self._pins = self._pinned(k)
        if self._rules.diversity > 0 and artifact.table is None:
            raise ValueError(f"diversity: {artifact.name} has no item vectors; take a sequence model")
        most = table.num_items if self._chosen is None else len(self._chosen)
        self.k = min(k, most)
        self._pool = reach = self.k
        if self._rules.diversity > 0:
            self._pool = max(self.k, self._rules.pool)
            reach = self._pool + len(self._pins)  # which are not of the pool
        self.depth = most if self._chosen is not None else min(reach, most)

    def scored_by(self, table: ItemTable, bias: Floats) -> Choice:
        """The same choice among scores ``state . table + bias`` of a model that knows no behaviours."""
        other = copy.copy(self)
        other._table, other._bias, other._ranking = table, other._boosted(bias), None
        return other

    def best(self, states: Floats, adjustment: Adjustment | None, at: Int64s | None) -> tuple[Int32s, Floats]:
        """Codes and scores [B, k]; the score is -inf where candidates ran out.

        Args:
            states: [B, D].
            adjustment: what is added to the scores of each.
            at: time of each request, by default now.
        """
        codes = np.full((len(states), self.k), -1, np.int32)
        scores = np.full((len(states), self.k), -np.inf, np.float32)
        if self.k == 0:
            return codes, scores
        for rows, allow in self._parts(len(states), at):
            own = None if adjustment is None else adjustment.rows(rows.start, rows.stop)
            if self._ranking is not None:
                own = self._ranking(states[rows], own)
            codes[rows], scores[rows] = self._best(states[rows], own, allow)
        return codes, scores

    # --- before scores are known ----------------------------------------------------------------------

    def _filters(self, blocked: Int32s) -> Mask | None:
        """uint8 [V], 1 for the items that the same filters leave to every request; None: all."""
        rules, num_items = self._rules, self._table.num_items
        if not (len(blocked) or rules.allow or rules.deny or rules.near):
            return None
        allow = np.ones(num_items, np.uint8)
        for column, values in rules.allow.items():
            allow &= _mask(self._catalogue.having(column, values, "allow"), num_items)
        if rules.near is not None:
            allow &= _mask(self._catalogue.within(rules.near), num_items)
        for column, values in rules.deny.items():
            allow[self._catalogue.having(column, values, "deny")] = 0
        allow[blocked] = 0
        return allow

    def _boosted(self, bias: Floats | None) -> Floats | None:
        rules = self._rules
        if not (rules.boost or rules.boost_category):
            return bias
        boosted = np.zeros(self._table.num_items, np.float32) if bias is None else bias.copy()
        for item, number in rules.boost:
            code = self._vocabulary.code_of(item)
            if code >= 0:
                boosted[code] += number
        for column, value, number in rules.boost_category:
            boosted[self._catalogue.having(column, [value], "boost_category")] += np.float32(number)
        return boosted

    def _pinned(self, k: int) -> tuple[Int64s, Int32s]:
        """Places from 0, ascending, and the items."""
        places = np.array([place for place, _ in self._rules.pin], np.int64)
        codes = self._vocabulary.codes_of([item for _, item in self._rules.pin], "pin")
        if len(places) and places.max() > k:
            raise ValueError(f"pin: wanted places from 1 to k = {k}, got {places.max()}")
        left = codes >= 0 if self._chosen is None else np.isin(codes, self._chosen)
        order = np.argsort(places[left])
        return places[left][order] - 1, codes[left][order]

    # --- the best -------------------------------------------------------------------------------------

    def _parts(self, num_requests: int, at: Int64s | None) -> Iterator[tuple[slice, Mask | None]]:
        """Runs of requests to which the same items are left; short ones where each has a score per item."""
        most = num_requests
        if self._ranking is not None:
            most = max(1, _MOST_SCORES // self._table.num_items)
        for rows, mask in self._runs(num_requests, at):
            for first in range(rows.start, rows.stop, max(most, 1)):
                yield slice(first, min(first + most, rows.stop)), mask

    def _runs(self, num_requests: int, at: Int64s | None) -> Iterator[tuple[slice, Mask | None]]:
        if self._windows is None:
            yield slice(0, num_requests), self._allow
            return
        if at is None:
            at = np.full(num_requests, time.time_ns() // 1000)
        periods = self._windows.periods(at)
        edges = [0, *(np.flatnonzero(np.diff(periods)) + 1).tolist(), num_requests]
        for first, last in itertools.pairwise(edges):
            mask = self._windows.mask(int(periods[first]))
            yield slice(first, last), mask if self._allow is None else mask & self._allow

    def _best(
        self, states: Floats, adjustment: Adjustment | None, allow: Mask | None
    ) -> tuple[Int32s, Floats]:
        if self._chosen is None:
            codes, scores = topk(states, self._table, self._bias, adjustment, self.depth, allow)
        else:
            every = self._scores(self._chosen, states, adjustment, allow)
            order = np.argsort(-every, axis=1, kind="stable")
            codes, scores = self._chosen[order], np.take_along_axis(every, order, axis=1)
        if not self._rules.arranges:
            return codes[:, : self.k], scores[:, : self.k]
        pinned = self._scores(self._pins, states, adjustment, allow)
        arranged = np.full((len(states), self.k), -1, np.int32)
        values = np.full((len(states), self.k), -np.inf, np.float32)
        for row in range(len(states)):
            found, own = self._arranged(codes[row], scores[row], pinned[row])
            arranged[row, : len(found)], values[row, : len(found)] = found, own
        return arranged, values

    def _scores(
        self, codes: Int32s, states: Floats, adjustment: Adjustment | None, allow: Mask | None
    ) -> Floats:
        """Scores [B, C] of the same items for every state."""
        offsets = np.arange(len(states) + 1, dtype=np.int64) * len(codes)
        listed = np.tile(codes, len(states))
        scores = score_lists(states, self._table, self._bias, adjustment, listed, offsets, allow)
        return scores.reshape(len(states), len(codes))

    def _arranged(self, codes: Int32s, scores: Floats, pinned: Floats) -> tuple[Int32s, Floats]:
        """The answer to one request: the rules of order over the best of its items."""
        rules, pins = self._rules, pinned > -np.inf
        least = -np.inf if rules.min_score is None else np.float32(rules.min_score)
        left = (scores > -np.inf) & (scores >= least) & ~np.isin(codes, self._pins[pins])
        codes, scores = codes[left][: self._pool], scores[left][: self._pool]
        count = self.k - int(pins.sum())
        if rules.diversity > 0 and len(codes):
            assert self._artifact.table is not None
            vectors = self._artifact.weights[self._artifact.table][codes]
            order = diversified(vectors, scores, rules.diversity, count)
        else:
            order = np.arange(min(count, len(codes)))
        found, values = codes[order].tolist(), scores[order].tolist()
        for place, code, score in zip(self._pin_places[pins], self._pins[pins], pinned[pins], strict=True):
            found.insert(place, code)
            values.insert(place, score)
        return np.array(found[: self.k], np.int32), np.array(values[: self.k], np.float32)


def diversified(vectors: Floats, scores: Floats, diversity: float, count: int) -> Int64s:
    """Places of at most ``count`` items by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Args:
        vectors: [P, D].
        scores: [P], descending.
        diversity: 1 - lambda.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    spread = float(scores[0] - scores[-1])
    relevance = (scores - scores[-1]) / spread if spread > 0 else np.zeros(len(scores))
    worth = (1 - diversity) * relevance
    nearest = np.zeros(len(scores))
    taken = np.zeros(len(scores), np.bool_)
    order = np.empty(min(count, len(scores)), np.int64)
    for place in range(len(order)):
        marginal = worth - diversity * nearest
        marginal[taken] = -np.inf
        chosen = order[place] = int(np.argmax(marginal))
        taken[chosen] = True
        likeness = unit @ unit[chosen]
        nearest = likeness if place == 0 else np.maximum(nearest, likeness)
    return order


def _mask(codes: Int32s, num_items: int) -> Mask:
    mask = np.zeros(num_items, np.uint8)
    mask[codes] = 1
    return mask
