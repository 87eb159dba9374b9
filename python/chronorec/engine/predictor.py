"""Answers of the heads of a model: what kind of event comes next, and what value it has."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int32s, Int64s
from chronorec.engine.adjust import Adjustment, combine, exclude_history
from chronorec.engine.answers import BY_STEPS, Recommendations
from chronorec.engine.engine import Engine
from chronorec.engine.forecast import Forecast, beam_search
from chronorec.engine.heads import ClassHead, every_item, log_shares_of
from chronorec.engine.history import HistoryBatch
from chronorec.engine.item_table import score_lists, topk
from chronorec.engine.program import Floats
from chronorec.engine.requests import When, checked_k

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries

_SCORES = 1 << 20  # held at a time


class Context(TypedDict, total=False):
    """What a request may say beside its history; see :meth:`chronorec.engine.Engine.recommend`."""

    times: Sequence[When] | None
    sessions: Sequence[Hashable] | None
    events: Sequence[str | None] | None
    at: When | None
    profile: Mapping[str, Any] | None


class Predictor:
    """What a model predicts beside the next item, where it was trained for that ([heads] of a configuration).

    Args:
        engine: the model.

    Attributes:
        behaviours: names of the behaviours that the model gives probabilities for; may be empty.
        value_classes: values that it gives probabilities for; may be empty.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._heads = engine, engine.heads
        self.behaviours: list[str] = _classes(engine.heads.behaviour)
        self.value_classes: list[float] = _classes(engine.heads.value_class)

    # --- one request --------------------------------------------------------------------------------

    def behaviour(
        self,
        history: Sequence[Hashable],
        items: Sequence[Hashable],
        **context: Unpack[Context],
    ) -> Floats:
        """Probabilities [I, K] of each behaviour if the next event is of an item; NaN for unknown items.

        Raises:
            ValueError: the model has no head of behaviours.
        """
        head = self._heads.need_behaviour()
        return np.exp(self._beside(history, items, context, head.log_probabilities))

    def overall_behaviour(
        self, history: Sequence[Hashable], *, exclude_seen: bool | None = None, **context: Unpack[Context]
    ) -> npt.NDArray[np.float64]:
        """Probabilities [K] of each behaviour of the next event, over all items that it may be of.

        That is the sum over the catalogue of P(item) P(behaviour | item), where P(item) is the softmax of
        the scores, which are logits of a model trained by cross entropy.

        Args:
            exclude_seen: whether items of the history may not come next; by default as the model was trained.

        Raises:
            ValueError: the model has no head of behaviours.
        """
        batch, _ = self._request(history, context)
        states, adjustment = self._engine.states(batch, self._engine.leaves_seen(exclude_seen))
        shares: npt.NDArray[np.float64] = self._overall(states, adjustment)[0]
        return shares

    def value(
        self, history: Sequence[Hashable], items: Sequence[Hashable], **context: Unpack[Context]
    ) -> Floats:
        """The expected value [I] (a rating, an amount) of each item if it comes next; NaN for unknown items.

        Raises:
            ValueError: the model has no head of values.
        """
        return self._beside(history, items, context, self._heads.values)

    def value_shares(
        self, history: Sequence[Hashable], items: Sequence[Hashable], **context: Unpack[Context]
    ) -> Floats:
        """Probabilities [I, K] of :attr:`value_classes` if an item comes next; NaN for unknown items.

        Raises:
            ValueError: the model has no head that tells values as classes apart.
        """
        head = self._heads.need_value_class()
        return np.exp(self._beside(history, items, context, head.log_probabilities))

    def forecast(
        self,
        history: Sequence[Hashable],
        steps: int = 5,
        *,
        beams: int = 1,
        exclude_seen: bool | None = None,
        **context: Unpack[Context],
    ) -> list[Forecast]:
        """How the next ``steps`` events may go, by feeding predictions back; any model of next events can.

        :mod:`chronorec.engine.forecast` says what is assumed of their times.

        Args:
            beams: how many ways to follow, and to answer with, most probable first; one is greedy.
            exclude_seen: whether an item comes once at most; by default as the model was trained.

        Raises:
            ValueError: the model predicts baskets.
        """
        leaves = self._engine.leaves_seen(exclude_seen)
        steps, beams = checked_k(steps, "steps"), checked_k(beams, "beams")
        batch, _ = self._request(history, context)
        return beam_search(self._engine, batch, steps, beams, leaves)

    def steps_ahead(
        self,
        history: Sequence[Hashable],
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        **context: Unpack[Context],
    ) -> list[Recommendations]:
        """The k best items for each step ahead, the next event first, by heads that were trained for it.

        Args:
            exclude_seen: whether items of the history are left out; by default as the model was trained.

        Raises:
            ValueError: the model was trained for the next event alone.
        """
        engine, head = self._engine, self._heads.need_steps()
        batch, unknown = self._request(history, context)
        leaves = engine.leaves_seen(exclude_seen)
        states, adjustment = engine.states(batch, leaves)
        seen = combine([exclude_history(batch)] if leaves else [], 1, engine.num_items)
        answers = []
        for step, own in enumerate(head.states(states)):
            added = adjustment if step == 0 else seen
            codes, scores = topk(own, engine.table, engine.bias, added, checked_k(k))
            answers.append(engine.recommendations(codes[0], scores[0], BY_STEPS, int(unknown[0])))
        return answers

    # --- evaluation ---------------------------------------------------------------------------------

    def of_targets(
        self, histories: Histories, queries: Queries, head: Callable[[Floats, Int32s, Int64s], Floats]
    ) -> Floats:
        """What a function of :class:`chronorec.engine.heads.Heads` says of the targets [M] or [M, K]."""
        found = [
            head(states, part.targets, part.target_offsets)
            for _, part, states, _ in self._engine.chunks_of_queries(histories, queries, 0, False)
        ]
        return np.concatenate(found)

    def overall_of(
        self, histories: Histories, queries: Queries, exclude_seen: bool
    ) -> npt.NDArray[np.float64]:
        """:meth:`overall_behaviour` [Q, K] of each query."""
        found = [
            self._overall(states, adjustment)
            for _, _, states, adjustment in self._engine.chunks_of_queries(
                histories, queries, 0, exclude_seen
            )
        ]
        return np.concatenate(found)

    # --- inside -------------------------------------------------------------------------------------

    def _request(self, history: Sequence[Hashable], context: Context) -> tuple[HistoryBatch, Int64s]:
        """A batch of one request, and how many of its events have an unknown item [1]."""
        given = (context.get(name) for name in ("times", "sessions", "events", "at"))
        batch, lost = self._engine.request(context.get("profile"), history, *given)
        return batch, lost.items

    def _beside(
        self,
        history: Sequence[Hashable],
        items: Sequence[Hashable],
        context: Context,
        head: Callable[[Floats, Int32s, Int64s], Floats],
    ) -> Floats:
        """What a head says of the items after one history, NaN for those that are unknown."""
        batch, _ = self._request(history, context)
        states, _ = self._engine.states(batch, False)
        codes = self._engine.vocabulary.codes_of(items, "items")
        known = codes >= 0
        answers = head(states, codes[known], np.array([0, known.sum()], np.int64))
        found = np.full((len(codes), *answers.shape[1:]), np.nan, np.float32)
        found[known] = answers
        return found

    def _overall(self, states: Floats, adjustment: Adjustment | None) -> npt.NDArray[np.float64]:
        """Probabilities [B, K] of behaviours, over all items."""
        engine, head = self._engine, self._heads.need_behaviour()
        found = np.empty((len(states), len(head.classes)))
        step = max(1, _SCORES // engine.num_items)
        for first in range(0, len(states), step):
            some = states[first : first + step]
            own = None if adjustment is None else adjustment.rows(first, first + len(some))
            items, offsets = every_item(len(some), engine.num_items)
            scores = score_lists(some, engine.table, engine.bias, own, items, offsets)
            shares = np.exp(log_shares_of(scores.reshape(len(some), -1)))
            given = np.exp(head.log_probabilities(some, items, offsets)).reshape(*shares.shape, -1)
            found[first : first + step] = np.einsum("bv,bvk->bk", shares, given)
        return found


def _classes(head: ClassHead | None) -> list[Any]:
    return [] if head is None else head.classes
