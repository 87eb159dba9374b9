"""The engine: from histories to scores, ranks and recommendations, by one path for every question."""

from __future__ import annotations

import functools
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec import _core
from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s, Int64s, offsets_of
from chronorec.data.profile import Profile
from chronorec.engine import adjust
from chronorec.engine.additions import ModelAdditions
from chronorec.engine.answers import BY_HISTORY, BY_LIKENESS, Recommendations, Said, columns_of
from chronorec.engine.approximate import AnySearch, Search, index_of
from chronorec.engine.catalogue import Catalogue
from chronorec.engine.choice import Choice
from chronorec.engine.event_types import EventTypes
from chronorec.engine.explain import Explanation, explanations, parts_of
from chronorec.engine.fallback import Fallback
from chronorec.engine.heads import Heads
from chronorec.engine.history import HistoryBatch, cut_tokens
from chronorec.engine.item_table import ItemTable, make_item_table, score_lists, topk
from chronorec.engine.precision import AnyPrecision, Precisions
from chronorec.engine.program import Floats, Program, scratch, weight_of
from chronorec.engine.requests import Unknown, When, checked_k, one_request, table_of_requests
from chronorec.engine.rules import Rules
from chronorec.engine.stream import runner_of
from chronorec.engine.vocabulary import Vocabulary

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries

_MOST_EXPLAINED = 1 << 20  # events that are run for one explanation
_NO_IDS: tuple[Hashable, ...] = ()

#: Values (events, answers, additions) of the requests that are worked on at a time; memory grows with it.
CHUNK = 1 << 16


class Engine:
    """Answers from a model folder; needs numpy, pyarrow and the compiled core, never torch.

    Everything a request needs is made here, once: the dictionary of item ids and the packed item table. The
    table is held twice, as in the folder and packed; a third time after the first ``similar_items``.

    Args:
        artifact: the model, as loaded or as exported from training.
        precision: ``"bfloat16"`` or ``"int8"`` holds the table in 16 or 8 bits beside, which finds the best
            of many items faster; the answers are the same, bit for bit. :class:`Precisions` shortens
            recurrent weights and states of sessions too, which costs quality.
        search: ``"hnsw"``, ``"ivf"`` or :class:`Search` looks for the best of millions of items in a faiss
            index, which is made now, or read if :func:`save_index` left it in the folder.

    Raises:
        ArtifactError: the program or the adjustments do not fit each other or the weights.
        ValueError: a precision that this model has no part for.
    """

    def __init__(
        self, artifact: Artifact, precision: AnyPrecision = "float32", search: AnySearch = "exact"
    ) -> None:
        self.artifact = artifact
        self.num_items = artifact.num_items
        if artifact.max_length < 1:
            raise ArtifactError(f"{artifact.name}: max_length: wanted at least 1, got {artifact.max_length}")
        self.precisions = Precisions.of(precision)
        self._program = Program(artifact, self.precisions.weights)
        self._run_program = runner_of(artifact, self.precisions, self._program)
        self._additions = ModelAdditions(artifact, self._program.width)
        self.vocabulary = Vocabulary(artifact.items.column("item"))
        self.event_types = EventTypes(artifact.event_types)
        self.profile = Profile.from_plain(artifact.profile)
        table = artifact.weights[artifact.table] if artifact.table is not None else None
        rows = np.zeros((self.num_items, 0), np.float32) if table is None else table
        self.bias = None if artifact.bias is None else weight_of(artifact, artifact.bias, (self.num_items,))
        self.search = Search.of(search)
        candidates = index_of(artifact, self.bias, self.search)
        self.table = make_item_table(rows, self.precisions.table)._replace(candidates=candidates)
        self.heads = Heads(artifact, self.table)
        self._catalogue = Catalogue(artifact.items)
        self.fallback = Fallback(artifact)
        self._most_entries = adjust.most_entries(artifact)
        self._unit_table: ItemTable | None = None

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        precision: AnyPrecision = "float32",
        search: AnySearch = "exact",
    ) -> Engine:
        """Opens a model folder; raises :class:`chronorec.artifact.ArtifactError` that says why it cannot."""
        return cls(Artifact.load(folder), precision, search)

    # --- one request --------------------------------------------------------------------------------

    def recommend(
        self,
        history: Sequence[Hashable],
        *,
        times: Sequence[When] | None = None,
        sessions: Sequence[Hashable] | None = None,
        events: Sequence[str | None] | None = None,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Iterable[Hashable] | None = None,
        exclude: Iterable[Hashable] = _NO_IDS,
        rules: Rules | None = None,
    ) -> Recommendations:
        """The k best next items after a history; the most popular ones where no item of it is known.

        Args:
            history: item ids as in the log, oldest first; may be empty.
            times: when each event happened; needed by models that use time. Whole numbers are microseconds
                since the epoch; times without a zone are UTC.
            sessions: the basket of each event, for models of baskets; None or -1 is a basket of its own. By
                default one per time, or per event.
            events: the type of each event, for models that read types; None where it is missing.
            profile: values of columns of the user table by name, for models that read them; the model's other
                columns are missing, and names that it does not read are passed over.
            at: when the answer is asked for; by default now, where the model uses time. Where ``times`` are
                given too, events at or after it are as if they were not in the history.
            k: how many items.
            exclude_seen: leave the history's items out; by default as the model was trained.
            candidates: answer only with these items; ids that the model does not know are skipped.
            exclude: never answer with these items.
            rules: what else the answer may hold, and in which order.
        """
        k = checked_k(k)
        batch, lost = self.request(profile, history, times, sessions, events, at)
        codes, scores, said = self.answer(batch, lost.items > 0, k, exclude_seen, exclude, candidates, rules)
        counts = (int(count[0]) for count in lost)
        return self.recommendations(codes[0], scores[0], said.get(0, BY_HISTORY), *counts)

    def score(
        self,
        history: Sequence[Hashable],
        items: Sequence[Hashable],
        *,
        times: Sequence[When] | None = None,
        sessions: Sequence[Hashable] | None = None,
        events: Sequence[str | None] | None = None,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> Floats:
        """Scores float32 of ``items`` after a history; NaN for items the model does not know.

        The other arguments are those of :meth:`recommend`.
        """
        batch, _ = self.request(profile, history, times, sessions, events, at)
        found = self.vocabulary.codes_of(items, "items")
        scores = np.full(len(found), np.nan, np.float32)
        scores[found >= 0] = self.score_codes(batch, found[found >= 0], False)[0]
        return scores

    def similar_items(self, item: Hashable, k: int = 10) -> Recommendations:
        """The k items whose vectors have the largest cosine with that of ``item``, without the item itself.

        Raises:
            KeyError: the model does not know the item.
            ValueError: the model has no item vectors.
        """
        k = checked_k(k)
        code = self.vocabulary.code_of(item)
        if code < 0:
            raise KeyError(f"item: the model does not know {item!r}")
        if self.artifact.table is None:
            raise ValueError(f"{self.artifact.name} has no item vectors; take a sequence model")
        table = self.artifact.weights[self.artifact.table]
        if self._unit_table is None:
            norms = np.linalg.norm(table, axis=1, keepdims=True)
            self._unit_table = make_item_table(table / np.maximum(norms, 1e-12), "float32")
        query = (table[code : code + 1] / max(float(np.linalg.norm(table[code])), 1e-12)).astype(np.float32)
        itself = np.zeros(self.num_items, np.float32)
        itself[code] = -np.inf
        codes, scores = topk(query, self._unit_table, itself, None, k)
        return self.recommendations(codes[0], scores[0], BY_LIKENESS)

    def explain(
        self,
        history: Sequence[Hashable],
        items: Sequence[Hashable],
        *,
        times: Sequence[When] | None = None,
        sessions: Sequence[Hashable] | None = None,
        events: Sequence[str | None] | None = None,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
        last: int = 50,
    ) -> list[Explanation]:
        """Why ``items`` score as they do after a history: exact, by scoring it again without each event.

        Args:
            last: how many of the latest events are left out, one after the other.
            history, times, sessions, events, at, profile: see :meth:`recommend`.

        Raises:
            KeyError: the model does not know an item.
        """
        batch, _ = self.request(profile, history, times, sessions, events, at)
        return self.explain_batch(batch, items, last)

    def request(self, profile: Mapping[str, Any] | None, *given: Any) -> tuple[HistoryBatch, Unknown]:
        """A batch of one request, of what :func:`one_request` takes beside the profile."""
        return one_request(self.artifact, self.vocabulary, self.profile.codes_of(profile), *given)

    # --- many requests ------------------------------------------------------------------------------

    def recommend_batch(
        self,
        requests: Any,
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Iterable[Hashable] | None = None,
        exclude: Iterable[Hashable] = _NO_IDS,
        rules: Rules | None = None,
    ) -> pa.Table:
        """Answers a table of requests with a table; the numbers are those of :meth:`recommend`.

        Args:
            requests: anything that speaks ``__arrow_c_stream__``, one row per request, with columns
                ``items`` (list of item ids, oldest first), and where the model needs them ``times`` (list of
                timestamps), ``sessions`` (list of integers or texts), ``events`` (list of texts), ``at``
                (timestamp) and columns of the user table.
            candidates, exclude, rules: the same for all requests.

        The requests are worked on in chunks, so that only the answers need memory for all of them at once.

        Returns:
            A table with ``items`` (list of ids), ``scores`` (list of float32), ``unknown_items`` and
            ``unknown_types`` (int32), ``source`` and ``reason`` (dictionaries of texts).
        """
        k = checked_k(k)
        batch, lost = table_of_requests(self.artifact, self.vocabulary, self.profile, pa.table(requests))
        codes, scores, said = self.answer(batch, lost.items > 0, k, exclude_seen, exclude, candidates, rules)
        left = scores > -np.inf
        offsets = pa.array(offsets_of(left.sum(axis=1)).astype(np.int32))
        return pa.table(
            {
                "items": pa.ListArray.from_arrays(offsets, self.vocabulary.take(codes[left])),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[left])),
                "unknown_items": pa.array(lost.items.astype(np.int32)),
                "unknown_types": pa.array(lost.types.astype(np.int32)),
                **columns_of(said, len(codes)),
            }
        )

    # --- evaluation: the same path over codes -------------------------------------------------------

    def rank(self, histories: Histories, queries: Queries, exclude_seen: bool) -> tuple[Int64s, Int64s]:
        """For every target how many other items score more, and how many as much: int64 [M] each.

        Raises:
            ValueError: the histories do not give items the model's codes.
        """
        greater, equal, _ = self.rank_and_topk(histories, queries, 0, exclude_seen)
        return greater, equal

    def topk(self, histories: Histories, queries: Queries, k: int, exclude_seen: bool) -> Int32s:
        """Item codes int32 [Q, k] of the k best items per query; -1 where candidates ran out."""
        found = np.full((len(queries), checked_k(k)), -1, np.int32)
        for rows, _, states, adjustment in self.chunks_of_queries(histories, queries, k, exclude_seen):
            self._fill_topk(states, adjustment, found[rows])
        return found

    def rank_and_topk(
        self, histories: Histories, queries: Queries, k: int, exclude_seen: bool
    ) -> tuple[Int64s, Int64s, Int32s]:
        """The answers of :meth:`rank` and :meth:`topk` for the price of one run of the program."""
        greater, equal = np.empty((2, len(queries.targets)), np.int64)
        found = np.full((len(queries), k), -1, np.int32)
        for rows, part, states, adjustment in self.chunks_of_queries(histories, queries, k, exclude_seen):
            targets = slice(*queries.target_offsets[[rows.start, rows.stop]].tolist())
            offsets, items, values = adjustment or adjust.NO_ADJUSTMENT
            _core.item_rank(
                states,
                self.table.panels,
                self.num_items,
                self.bias,
                offsets,
                items,
                values,
                None,
                part.targets,
                part.target_offsets,
                greater[targets],
                equal[targets],
                scratch(_core.item_rank_scratch(len(part.targets))),
            )
            if k:
                self._fill_topk(states, adjustment, found[rows])
        return greater, equal, found

    def score_all(self, histories: Histories, queries: Queries, exclude_seen: bool) -> Floats:
        """Scores float32 [Q, V] of every item; -inf for what leaves the candidates."""
        scores = np.empty((len(queries), self.num_items), np.float32)
        every = np.arange(self.num_items, dtype=np.int32)
        self.vocabulary.check_same(histories)
        for rows in self._chunks(queries.end - queries.begin, self.num_items):
            batch = self.batch_of(histories, queries.select(rows))
            scores[rows] = self.score_codes(batch, every, exclude_seen)
        return scores

    # --- inside -------------------------------------------------------------------------------------

    def recommendations(
        self, codes: Int32s, scores: Floats, said: Said, unknown_items: int = 0, unknown_types: int = 0
    ) -> Recommendations:
        """The answer in ids; what has the score -inf is not there."""
        left = int(np.count_nonzero(scores > -np.inf))  # the others come last
        names = self.vocabulary.names(codes[:left])
        return Recommendations(names, scores[:left], unknown_items, *said, unknown_types)

    def answer(
        self,
        batch: HistoryBatch,
        unknown: npt.NDArray[np.bool_],
        k: int,
        exclude_seen: bool | None,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
        rules: Rules | None,
    ) -> tuple[Int32s, Floats, dict[int, Said]]:
        """Codes and scores [B, at most k] of the best items; the score is -inf where candidates ran out.

        Where no event is known, it is also said who spoke. The arguments are those of :meth:`recommend`, with
        histories in codes; ``unknown`` [B] says which of them had items that the model does not know.
        """
        choice = self.choice(k, exclude, candidates, rules)
        codes = np.empty((batch.num_users, choice.k), np.int32)
        scores = np.empty((batch.num_users, choice.k), np.float32)
        for rows in self._chunks(np.diff(batch.offsets), choice.depth):
            part = batch.rows(rows.start, rows.stop)
            states, adjustment = self.states(part, self.leaves_seen(exclude_seen))
            codes[rows], scores[rows] = choice.best(states, adjustment, part.at)
        return codes, scores, self.fallback.fill(choice, batch, unknown, codes, scores)

    def explain_batch(self, batch: HistoryBatch, items: Sequence[Hashable], last: int) -> list[Explanation]:
        """:meth:`explain` for a batch of one request."""
        last = min(checked_k(last, "last"), batch.num_events)
        if last * batch.num_events > _MOST_EXPLAINED:
            most = _MOST_EXPLAINED // batch.num_events
            raise ValueError(
                f"last: wanted at most {most} for a history of {batch.num_events:,} events, got {last}"
            )
        codes = self.vocabulary.codes_of(items, "items")
        for item, code in zip(items, codes.tolist(), strict=True):
            if code < 0:
                raise KeyError(f"items: the model does not know {item!r}")
        states, additions = self._run(batch)
        alone = score_lists(states, self.table, None, None, codes, np.array([0, len(codes)], np.int64))
        parts = parts_of(codes, alone, self.bias, additions)
        score = functools.partial(self.score_codes, codes=codes, exclude_seen=False)
        timed = self.artifact.needs_time
        return explanations(batch, codes, last, self.vocabulary, score, parts, timed)

    def choice(
        self,
        k: int,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
        rules: Rules | None,
    ) -> Choice:
        """What a request asks of its answer, ready to be applied to states."""
        model = self.artifact, self.vocabulary, self._catalogue, self.table, self.bias, self.heads
        return Choice(*model, k, exclude, candidates, rules)

    def leaves_seen(self, exclude_seen: bool | None) -> bool:
        """Whether a request leaves out the items of its history."""
        return self.artifact.exclude_seen if exclude_seen is None else exclude_seen

    def _chunks(self, lengths: npt.NDArray[np.integer], more: int) -> Iterator[slice]:
        """Ranges of requests with histories of ``lengths`` [B] that fit the budget, or of one request.

        Args:
            more: how many values each request needs beside its history.
        """
        used = offsets_of(lengths + (1 + more + self._most_entries))
        first = 0
        while first < len(lengths):
            last = max(first + 1, int(np.searchsorted(used, used[first] + CHUNK, side="right")) - 1)
            yield slice(first, last)
            first = last

    def chunks_of_queries(
        self, histories: Histories, queries: Queries, k: int, exclude_seen: bool
    ) -> Iterator[tuple[slice, Queries, Floats, adjust.Adjustment | None]]:
        """Where the chunk lies, its queries, their states and what is added to their scores."""
        self.vocabulary.check_same(histories)
        most = None if self._reads_whole_history(exclude_seen) else self.artifact.max_length
        lengths = queries.end - queries.begin
        for rows in self._chunks(lengths if most is None else np.minimum(lengths, most), k):
            part = queries.select(rows)
            yield rows, part, *self.states(self.batch_of(histories, part, most), exclude_seen)

    def batch_of(self, histories: Histories, queries: Queries, most: int | None = None) -> HistoryBatch:
        """The histories of queries as this model reads them: the last ``most``, or all, events."""
        return HistoryBatch.of_queries(histories, queries, most, self.event_types, self.profile)

    def _reads_whole_history(self, exclude_seen: bool) -> bool:
        model = self.artifact
        return exclude_seen or model.basket or adjust.reads_whole_history(model)

    def states(self, batch: HistoryBatch, exclude_seen: bool) -> tuple[Floats, adjust.Adjustment | None]:
        """States [B, D] and what is added to the scores of each query."""
        states, named = self._run(batch)
        additions = [added for _, added in named]
        if exclude_seen:
            additions.append(adjust.exclude_history(batch))
        return states, adjust.combine(additions, batch.num_users, self.num_items)

    def _run(self, batch: HistoryBatch) -> tuple[Floats, list[tuple[str, adjust.Additions]]]:
        """States [B, D] and what the model adds to the scores, by kind."""
        model = self.artifact
        if model.needs_time:
            batch.require_time(model.name)
        tokens = cut_tokens(batch, basket=model.basket, max_length=model.max_length)
        states = self._run_program(tokens)
        return states, self._additions.of(batch, tokens, states, self.table, self.bias)

    def _fill_topk(self, states: Floats, adjustment: adjust.Adjustment | None, found: Int32s) -> None:
        k = min(found.shape[1], self.num_items)
        if k:
            found[:, :k], _ = topk(states, self.table, self.bias, adjustment, k)

    def score_codes(self, batch: HistoryBatch, codes: Int32s, exclude_seen: bool) -> Floats:
        """Scores [B, C] of the same items after every history."""
        states, adjustment = self.states(batch, exclude_seen)
        offsets = np.arange(batch.num_users + 1, dtype=np.int64) * len(codes)
        listed = np.tile(codes, batch.num_users)
        scores = score_lists(states, self.table, self.bias, adjustment, listed, offsets)
        return scores.reshape(batch.num_users, len(codes))
