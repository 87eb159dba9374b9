"""Training batches of long histories: consecutive segments in the order of time, for models with a memory.

A batch goes on with every history that the one before left unfinished, and fills the rest of its budget with
histories that begin. As with shuffled windows an epoch is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from chronorec.data.batches import BasketBatch, BasketBatches, Batch, BatchType, EventBatches, Plan, Windows
from chronorec.data.jagged import Int64s, offsets_of


class _Segments(Windows[BatchType]):
    """A history is cut at multiples of ``max_length``; where and when it begins in the epoch is drawn."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BatchType]:
        plan = self._plan(epoch)
        for number, batch in enumerate(super().epoch(epoch, start), start):
            ended = plan.end[plan.batches[max(number - 1, 0)] : plan.batches[number]]
            begun = plan.begin[plan.batches[number] : plan.batches[number + 1]]
            marked: Any = dataclasses.replace(batch, previous=_place_among(begun, ended))
            yield marked

    def _make_plan(self, epoch: int) -> Plan:
        generator = np.random.default_rng([self._seed, epoch])
        # Histories of many segments begin early enough to end with the epoch: batches stay full, and their
        # histories as many as can be.
        segments = -(-self._targets // self._max_length)
        batches = -(-self._targets.sum() // self._batch_events)
        queue = np.argsort(generator.random(len(segments)) * np.maximum(batches - segments + 1, 1))
        room_of = offsets_of(np.minimum(self._targets, self._max_length)[queue])
        done, admitted = np.zeros_like(self._targets), 0
        open_rows = np.zeros(0, np.int64)
        rows, begins, ends = [], [], []
        while admitted < len(queue) or len(open_rows):
            needed = np.minimum((self._targets - done)[open_rows], self._max_length).sum()
            limit = room_of[admitted] + self._batch_events - needed
            last = int(np.searchsorted(room_of, limit, side="right")) - 1
            open_rows, admitted = np.concatenate([open_rows, queue[admitted:last]]), last
            rows.append(open_rows)
            begins.append(done[open_rows])
            ends.append(np.minimum(begins[-1] + self._max_length, self._targets[open_rows]))
            done[open_rows] = ends[-1]
            open_rows = open_rows[ends[-1] < self._targets[open_rows]]
        origin = self._begin[np.concatenate(rows)]
        sizes = np.array([len(row) for row in rows])
        return Plan(origin + np.concatenate(begins), origin + np.concatenate(ends), offsets_of(sizes))


class EventSegments(_Segments[Batch], EventBatches):
    """Batches of segments of events; every training event but a user's first is a target once an epoch.

    The arguments are those of :class:`chronorec.data.batches.EventBatches`; ``max_length`` is the length of a
    segment. ``batch_events`` should hold many of them, since a batch is as many histories side by side.
    """


class BasketSegments(_Segments[BasketBatch], BasketBatches):
    """The same of baskets; the arguments are those of :class:`chronorec.data.batches.BasketBatches`."""


def _place_among(values: Int64s, among: Int64s) -> Int64s:
    """Where each of ``values`` is in ``among``, whose values are distinct; -1: nowhere."""
    order = np.argsort(among)
    place = np.append(order, -1)[np.searchsorted(among, values, sorter=order)]
    return np.where(np.append(among, -1)[place] == values, place, -1)
