"""The engine: from histories to scores, ranks and recommendations, by one path for every question."""

from __future__ import annotations

import datetime
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec import _core
from chronorec.artifact import Artifact
from chronorec.data.jagged import Int32s, Int64s, offsets_of, row_of_values
from chronorec.engine import adjust
from chronorec.engine.history import HistoryBatch, cut_tokens
from chronorec.engine.program import Floats, Program, pack_panels, scratch

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries

When = datetime.datetime | datetime.date | np.datetime64 | str | int
_NO_IDS: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Recommendations:
    """The answer to one request.

    Attributes:
        items: ids as in the log, best first; fewer than asked where candidates ran out.
        scores: float32, descending.
        unknown_items: how many events of the history were skipped because the model does not know the item.
    """

    items: list[Any]
    scores: Floats
    unknown_items: int


class Engine:
    """Answers from a model folder; needs numpy, pyarrow and the compiled core, never torch.

    Args:
        artifact: the model, as loaded or as exported from training.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.num_items = artifact.num_items
        self._program = Program(artifact)
        table = artifact.weights[artifact.table] if artifact.table is not None else None
        self._table = pack_panels(np.zeros((self.num_items, 0), np.float32) if table is None else table)
        self._bias = artifact.weights[artifact.bias] if artifact.bias is not None else None
        self._unit_table: Floats | None = None
        self._codes: dict[Any, int] | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Engine:
        """Opens a model folder; raises :class:`chronorec.artifact.ArtifactError` that says why it cannot."""
        return cls(Artifact.load(folder))

    # --- one request --------------------------------------------------------------------------------

    def recommend(
        self,
        history: Sequence[Hashable],
        *,
        times: Sequence[When] | None = None,
        sessions: Sequence[Hashable] | None = None,
        at: When | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Iterable[Hashable] | None = None,
        exclude: Iterable[Hashable] = _NO_IDS,
    ) -> Recommendations:
        """The k best next items after a history.

        Args:
            history: item ids as in the log, oldest first; may be empty.
            times: when each event happened; needed by models that use time. Whole numbers are microseconds
                since the epoch; times without a zone are UTC.
            sessions: the basket of each event, for models of baskets; by default one per time, or per event.
            at: when the answer is asked for; by default now, where the model uses time.
            k: how many items.
            exclude_seen: leave the history's items out; by default as the model was trained.
            candidates: answer only with these items; ids that the model does not know are skipped.
            exclude: never answer with these items.
        """
        _check_k(k)
        batch, unknown = self._one_history(history, times, sessions, at)
        blocked = self._known_codes(exclude)
        if candidates is not None:
            codes = np.unique(self._known_codes(candidates))
            scores = self._score_codes(batch, codes, exclude_seen, blocked)
            order = np.lexsort((codes, -scores))[:k]
            codes, scores = codes[order], scores[order]
        else:
            top = self._topk(batch, k, exclude_seen, blocked)
            codes, scores = top[0][0], top[1][0]
        left = scores > -np.inf
        items = self.artifact.items.column("item").take(pa.array(codes[left])).to_pylist()
        return Recommendations(items, scores[left], unknown)

    def score(
        self,
        history: Sequence[Hashable],
        items: Sequence[Hashable],
        *,
        times: Sequence[When] | None = None,
        sessions: Sequence[Hashable] | None = None,
        at: When | None = None,
    ) -> Floats:
        """Scores float32 of ``items`` after a history; NaN for items the model does not know.

        The other arguments are those of :meth:`recommend`.
        """
        batch, _ = self._one_history(history, times, sessions, at)
        found = np.array([self._code_of(item) for item in items], np.int32)
        scores = np.full(len(found), np.nan, np.float32)
        scores[found >= 0] = self._score_codes(batch, found[found >= 0], False, found[:0])
        return scores

    def similar_items(self, item: Hashable, k: int = 10) -> Recommendations:
        """The k items whose vectors have the largest cosine with that of ``item``, without the item itself.

        Raises:
            KeyError: the model does not know the item.
            ValueError: the model has no item vectors.
        """
        _check_k(k)
        code = self._code_of(item)
        if code < 0:
            raise KeyError(f"item: the model does not know {item!r}")
        if self.artifact.table is None:
            raise ValueError(f"{self.artifact.name} has no item vectors; take a sequence model")
        table = self.artifact.weights[self.artifact.table]
        if self._unit_table is None:
            norms = np.linalg.norm(table, axis=1, keepdims=True)
            self._unit_table = pack_panels(table / np.maximum(norms, 1e-12))
        query = (table[code : code + 1] / max(float(np.linalg.norm(table[code])), 1e-12)).astype(np.float32)
        itself = adjust.exclude_items(np.array([code], np.int32), 1, self.num_items)
        adjustment = adjust.combine([itself], 1, self.num_items)
        codes, scores = _core_topk(query, self._unit_table, self.num_items, None, adjustment, k)
        left = scores[0] > -np.inf
        items = self.artifact.items.column("item").take(pa.array(codes[0][left])).to_pylist()
        return Recommendations(items, scores[0][left], 0)

    # --- many requests ------------------------------------------------------------------------------

    def recommend_batch(
        self,
        requests: Any,
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        exclude: Iterable[Hashable] = _NO_IDS,
    ) -> pa.Table:
        """Answers a table of requests with a table; the numbers are those of :meth:`recommend`.

        Args:
            requests: anything that speaks ``__arrow_c_stream__``, one row per request, with columns
                ``items`` (list of item ids, oldest first), and where the model needs them ``times`` (list of
                timestamps), ``sessions`` (list of integers) and ``at`` (timestamp).

        Returns:
            A table with ``items`` (list of ids), ``scores`` (list of float32) and ``unknown_items`` (int32).
        """
        _check_k(k)
        table = pa.table(requests)
        if "items" not in table.column_names:
            raise ValueError(f"requests: wanted a column 'items', got {', '.join(table.column_names)}")
        batch, unknown = self._batch_of(table)
        codes, scores = self._topk(batch, k, exclude_seen, self._known_codes(exclude))
        left = scores > -np.inf
        offsets = pa.array(offsets_of(left.sum(axis=1)).astype(np.int32))
        ids = self.artifact.items.column("item").take(pa.array(codes[left])).combine_chunks()
        return pa.table(
            {
                "items": pa.ListArray.from_arrays(offsets, ids),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[left])),
                "unknown_items": pa.array(unknown.astype(np.int32)),
            }
        )

    # --- evaluation: the same path over codes -------------------------------------------------------

    def rank(self, histories: Histories, queries: Queries, exclude_seen: bool) -> tuple[Int64s, Int64s]:
        """For every target how many other items score more, and how many as much: int64 [M] each."""
        batch = HistoryBatch.of_queries(histories, queries)
        states, adjustment = self._states(batch, exclude_seen, None)
        greater = np.empty(len(queries.targets), np.int64)
        equal = np.empty_like(greater)
        offsets, items, values = adjustment or adjust.NO_ADJUSTMENT
        _core.item_rank(
            states,
            self._table,
            self.num_items,
            self._bias,
            offsets,
            items,
            values,
            queries.targets,
            queries.target_offsets,
            greater,
            equal,
            scratch(_core.item_rank_scratch(len(greater))),
        )
        return greater, equal

    def topk(self, histories: Histories, queries: Queries, k: int, exclude_seen: bool) -> Int32s:
        """Item codes int32 [Q, k] of the k best items per query; -1 where candidates ran out."""
        return self._topk(HistoryBatch.of_queries(histories, queries), k, exclude_seen, None)[0]

    # --- inside -------------------------------------------------------------------------------------

    def _states(
        self, batch: HistoryBatch, exclude_seen: bool | None, blocked: Int32s | None
    ) -> tuple[Floats, adjust.Adjustment | None]:
        """States [B, D] and what is added to the scores of each query."""
        model = self.artifact
        if model.needs_time:
            batch.require_time(model.name)
        tokens = cut_tokens(batch, basket=model.basket, max_length=model.max_length)
        additions = [adjust.from_model(spec, model.weights, batch, tokens) for spec in model.adjustments]
        if model.exclude_seen if exclude_seen is None else exclude_seen:
            additions.append(adjust.exclude_history(batch))
        if blocked is not None and len(blocked):
            additions.append(adjust.exclude_items(blocked, batch.num_users, self.num_items))
        return self._program.run(tokens), adjust.combine(additions, batch.num_users, self.num_items)

    def _topk(
        self, batch: HistoryBatch, k: int, exclude_seen: bool | None, blocked: Int32s | None
    ) -> tuple[Int32s, Floats]:
        states, adjustment = self._states(batch, exclude_seen, blocked)
        return _core_topk(states, self._table, self.num_items, self._bias, adjustment, k)

    def _score_codes(
        self, batch: HistoryBatch, codes: Int32s, exclude_seen: bool | None, blocked: Int32s
    ) -> Floats:
        states, adjustment = self._states(batch, exclude_seen, blocked)
        scores = np.empty(len(codes), np.float32)
        offsets, items, values = adjustment or adjust.NO_ADJUSTMENT
        _core.item_score(
            states,
            self._table,
            self.num_items,
            self._bias,
            offsets,
            items,
            values,
            codes.astype(np.int32),
            np.array([0, len(codes)], np.int64),
            scores,
        )
        return scores

    def _code_of(self, item: Hashable) -> int:
        if self._codes is None:
            self._codes = {
                value: code for code, value in enumerate(self.artifact.items.column("item").to_pylist())
            }
        return self._codes.get(item, -1)

    def _known_codes(self, items: Iterable[Hashable]) -> Int32s:
        found = np.array([self._code_of(item) for item in items], np.int32).reshape(-1)
        return found[found >= 0]

    def _one_history(
        self,
        history: Sequence[Hashable],
        times: Sequence[When] | None,
        sessions: Sequence[Hashable] | None,
        at: When | None,
    ) -> tuple[HistoryBatch, int]:
        found = np.array([self._code_of(item) for item in history], np.int32).reshape(-1)
        known = found >= 0
        columns: dict[str, Int64s] = {}
        if sessions is not None:
            _check_length("sessions", sessions, history)
            columns["session"] = _codes_in_order(sessions)[known]
        elif self.artifact.basket and times is None:
            columns["session"] = np.arange(len(found), dtype=np.int64)[known]
        time = None
        if times is not None:
            _check_length("times", times, history)
            time = _microseconds(times)
            if (np.diff(time) < 0).any():
                raise ValueError("times: wanted the oldest event first, got times that fall")
            time = time[known]
        request = _microseconds([at]) if at is not None else _now() if self.artifact.needs_time else None
        item = found[known]
        offsets = np.array([0, len(item)], np.int64)
        batch = HistoryBatch(item, offsets, self.num_items, time, columns, request)
        return batch, int((~known).sum())

    def _batch_of(self, table: pa.Table) -> tuple[HistoryBatch, Int64s]:
        lists = table.column("items").combine_chunks()
        item, lengths = _flatten(lists)
        vocabulary = self.artifact.items.column("item").combine_chunks()
        if not item.type.equals(vocabulary.type):
            item = pc.cast(item, vocabulary.type)
        found = pc.fill_null(pc.index_in(item, value_set=vocabulary), -1).to_numpy(zero_copy_only=False)
        known = found >= 0
        rows = row_of_values(offsets_of(lengths))
        kept = np.bincount(rows[known], minlength=len(lengths))
        columns: dict[str, Int64s] = {}
        time = None
        if "times" in table.column_names:
            values = _flatten_like(table, "times", lengths)
            time = pc.cast(pc.cast(values, pa.timestamp("us")), pa.int64()).to_numpy(zero_copy_only=False)[
                known
            ]
        if "sessions" in table.column_names:
            columns["session"] = _flatten_like(table, "sessions", lengths).to_numpy(zero_copy_only=False)[
                known
            ]
        elif self.artifact.basket and time is None:
            columns["session"] = np.arange(len(found), dtype=np.int64)[known]
        at = None
        if "at" in table.column_names:
            stamps = pc.cast(table.column("at").combine_chunks(), pa.timestamp("us"))
            at = pc.cast(stamps, pa.int64()).to_numpy(zero_copy_only=False)
        elif self.artifact.needs_time:
            at = np.repeat(_now(), len(lengths))
        batch = HistoryBatch(
            found[known].astype(np.int32), offsets_of(kept), self.num_items, time, columns, at
        )
        return batch, lengths - kept


def _core_topk(
    states: Floats,
    table: Floats,
    num_items: int,
    bias: Floats | None,
    adjustment: adjust.Adjustment | None,
    k: int,
) -> tuple[Int32s, Floats]:
    scores = np.empty((len(states), k), np.float32)
    codes = np.empty((len(states), k), np.int32)
    room = scratch(_core.item_topk_scratch(len(states), num_items, states.shape[1], k))
    offsets, items, values = adjustment or adjust.NO_ADJUSTMENT
    _core.item_topk(states, table, num_items, bias, offsets, items, values, k, scores, codes, room)
    return codes, scores


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k: wanted a whole number from 1, got {k!r}")


def _check_length(name: str, values: Sequence[Any], history: Sequence[Any]) -> None:
    if len(values) != len(history):
        raise ValueError(f"{name}: wanted one per event of the history ({len(history)}), got {len(values)}")


def _codes_in_order(values: Sequence[Hashable]) -> Int64s:
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], np.int64).reshape(-1)


def _now() -> Int64s:
    return np.array(
        [np.datetime64(datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None), "us")]
    ).astype(np.int64)


def _microseconds(times: Sequence[When]) -> Int64s:
    """Microseconds since the epoch in UTC."""
    return np.array([_one_time(time) for time in times], np.int64).reshape(-1)


def _one_time(time: When) -> int:
    if isinstance(time, str):
        time = datetime.datetime.fromisoformat(time)
    if isinstance(time, datetime.datetime) and time.tzinfo is not None:
        time = time.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    if isinstance(time, datetime.date):
        time = np.datetime64(time)
    if isinstance(time, np.datetime64):
        return int(time.astype("datetime64[us]").astype(np.int64))
    if isinstance(time, (int, np.integer)) and not isinstance(time, bool):
        return int(time)
    raise TypeError(f"time: wanted a datetime, an ISO text or microseconds, got {time!r}")


def _flatten(lists: Any) -> tuple[Any, npt.NDArray[np.int64]]:
    """Values of a list array and the length of each row; a null row is empty."""
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise ValueError(f"requests: wanted lists, got {lists.type}")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lists.flatten(), lengths


def _flatten_like(table: pa.Table, name: str, lengths: npt.NDArray[np.int64]) -> Any:
    values, own = _flatten(table.column(name).combine_chunks())
    if not np.array_equal(own, lengths):
        raise ValueError(f"{name}: wanted lists as long as those of 'items'")
    return values
