"""Training batches on jagged histories: nothing is padded, every position is a target.

An epoch chops every user's training range into windows, shuffles them and packs them into batches. It is a
function of (seed, epoch) alone, so a run resumes at any batch of any epoch without a stored generator state.
The draws come from numpy's ``default_rng``, whose streams numpy keeps stable within a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import Int32s, Int64s, offsets_of, ranges

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


@dataclass(frozen=True, eq=False)
class Batch:
    """S windows of events: event t of a window is the input, the next event of the user its target.

    Attributes:
        offsets: int64 [S + 1], into the arrays of length n below.
        items, targets: int32 [n].
        times: int64 [n], microseconds, when each input happened; None where the log has no times.
        asked: int64 [n], when its target did, which is when the answer is asked for; or None.
        types: int32 [n], code of the event type of each input, -1 where it is missing; None where the log has
            no types.
        profile: int32 [S, C], codes of the user of each window; or None.
        labels: further columns of the targets, by name, each [n].
        previous: int64 [S], the row of the batch before that each segment goes on, or -1; None: windows.
    """

    offsets: Int64s
    items: Int32s
    targets: Int32s
    times: Int64s | None = None
    asked: Int64s | None = None
    types: Int32s | None = None
    profile: Int32s | None = None
    labels: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    previous: Int64s | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class BasketBatch:
    """S windows of baskets: a token is a basket, its target the set of items of the user's next basket.

    Attributes:
        offsets: int64 [S + 1], into the T tokens.
        basket_offsets: int64 [T + 1], into ``items``.
        items: int32, the distinct items of every input basket.
        target_offsets: int64 [T + 1], into ``targets``.
        targets: int32, the distinct items of every target basket.
        times: int64 [T], microseconds, when each input basket began; None where the log has no times.
        asked: int64 [T], when the target basket began, which is when the answer is asked for; or None.
        profile: int32 [S, C], codes of the user of each window; or None.
        previous: int64 [S], the row of the batch before that each segment goes on, or -1; None: windows.
    """

    offsets: Int64s
    basket_offsets: Int64s
    items: Int32s
    target_offsets: Int64s
    targets: Int32s
    times: Int64s | None = None
    asked: Int64s | None = None
    profile: Int32s | None = None
    previous: Int64s | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


BatchType = TypeVar("BatchType", Batch, BasketBatch)


@dataclass(frozen=True, eq=False)
class Plan:
    """The shuffled windows of an epoch and the first window of every batch."""

    begin: Int64s
    end: Int64s
    batches: Int64s


class Windows(Generic[BatchType]):
    """Windows over token ranges, whatever a token is; subclasses gather the tokens."""

    def __init__(
        self,
        begin: Int64s,
        end: Int64s,
        *,
        max_length: int,
        batch_events: int,
        seed: int,
        offsets: Int64s,
        profile: Int32s | None,
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length: wanted at least 1, got {max_length}")
        if batch_events < max_length:
            raise ValueError(f"batch_events: wanted at least max_length = {max_length}, got {batch_events}")
        if seed < 0:
            raise ValueError(f"seed: wanted 0 or more, got {seed}")
        users = np.flatnonzero(end - begin > 1)
        self._begin = begin[users]
        self._targets = (end - begin)[users] - 1
        self._max_length = max_length
        self._batch_events = batch_events
        self._seed = seed
        self._offsets, self._profile = offsets, profile
        self._planned: tuple[int, Plan] | None = None
        if len(users) == 0:
            raise ValueError("begin, end: wanted a user with at least two tokens to train on, got none")

    @property
    def num_targets(self) -> int:
        """Targets of an epoch, the same in every epoch."""
        return int(self._targets.sum())

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch; it varies a little with the phase of the windows."""
        return len(self._plan(epoch).batches) - 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BatchType]:
        """The batches of an epoch, from batch ``start`` on."""
        plan = self._plan(epoch)
        if not 0 <= start < len(plan.batches):
            raise ValueError(f"start: wanted 0 to {len(plan.batches) - 1}, got {start}")
        bounds = plan.batches[start:].tolist()
        for first, last in pairwise(bounds):
            yield self._gather(plan.begin[first:last], plan.end[first:last])

    def _gather(self, begin: Int64s, end: Int64s) -> BatchType:
        raise NotImplementedError

    def _profiles(self, begin: Int64s) -> Int32s | None:
        """Those of the users whose tokens windows begin with, [S, C]."""
        if self._profile is None:
            return None
        return self._profile[np.searchsorted(self._offsets, begin, side="right") - 1]

    def _plan(self, epoch: int) -> Plan:
        if epoch < 0:
            raise ValueError(f"epoch: wanted 0 or more, got {epoch}")
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self._make_plan(epoch)
        return self._planned[1]

    def _make_plan(self, epoch: int) -> Plan:
        generator = np.random.default_rng([self._seed, epoch])
        # A long user's first window gets 1 .. max_length targets and every later one max_length, so that over
        # the epochs every event is seen with every length of context.
        phase = generator.integers(1, self._max_length + 1, len(self._targets))
        first = np.where(self._targets > self._max_length, phase, self._targets)
        windows = 1 + -(-(self._targets - first) // self._max_length)
        number = ranges(np.zeros_like(windows), windows)
        row = np.repeat(np.arange(len(windows)), windows)
        end = np.minimum(first[row] + number * self._max_length, self._targets[row])
        begin = np.where(number == 0, 0, first[row] + (number - 1) * self._max_length)
        order = generator.permutation(len(row))
        row, begin, end = row[order], begin[order], end[order]
        origin = self._begin[row]
        return Plan(origin + begin, origin + end, self._pack(end - begin))

    def _pack(self, lengths: Int64s) -> Int64s:
        """Where the batches begin, over windows of ``lengths``: as many whole windows as fit, in order."""
        used, first = offsets_of(lengths), [0]
        while first[-1] < len(lengths):
            limit = used[first[-1]] + self._batch_events
            first.append(int(np.searchsorted(used, limit, side="right")) - 1)
        return np.array(first, np.int64)


class EventBatches(Windows[Batch]):
    """Batches of windows of events; every training event but a user's first is a target once an epoch.

    A window holds at most ``max_length`` targets. Windows of a user overlap by one event: the last target of
    one is the first input of the next. Where a user has more targets than that, the first window's length is
    drawn from 1 .. max_length for each (seed, epoch); all others but the last are full.

    Args:
        begin, end: int64 [B], the training range of every user: ``split.begin`` and ``split.train_end``.
        max_length: the most targets of a window.
        batch_events: the most targets of a batch (its token budget), at least ``max_length``.
        profile: int32 [B, C], codes of the user table's columns that the model reads, or None.
        labels: event columns whose entries at the targets belong to the batches.
    """

    def __init__(
        self,
        histories: Histories,
        begin: Int64s,
        end: Int64s,
        *,
        max_length: int,
        batch_events: int,
        seed: int = 0,
        profile: Int32s | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        sizes = {"max_length": max_length, "batch_events": batch_events}
        super().__init__(begin, end, **sizes, seed=seed, offsets=histories.offsets, profile=profile)
        self._histories = histories
        self._labels = {name: histories.columns[name] for name in labels}

    def _gather(self, begin: Int64s, end: Int64s) -> Batch:
        inputs = ranges(begin, end - begin)
        item, time = self._histories.item, self._histories.time
        kind = self._histories.columns.get("event_type")
        return Batch(
            offsets=offsets_of(end - begin),
            items=item[inputs],
            targets=item[inputs + 1],
            times=None if time is None else time[inputs],
            asked=None if time is None else time[inputs + 1],
            types=None if kind is None else kind[inputs],
            profile=self._profiles(begin),
            labels={name: column[inputs + 1] for name, column in self._labels.items()},
        )


class BasketBatches(Windows[BasketBatch]):
    """Batches of windows of baskets; every basket but a user's first is a target once an epoch.

    The arguments are those of :class:`EventBatches`, except that ``max_length`` and ``batch_events`` count
    baskets. Only baskets that lie wholly inside a user's training range take part.
    """

    def __init__(
        self,
        histories: Histories,
        begin: Int64s,
        end: Int64s,
        *,
        max_length: int,
        batch_events: int,
        seed: int = 0,
        profile: Int32s | None = None,
    ) -> None:
        self._index = histories.baskets
        self._time = None if histories.time is None else histories.time[self._index.event_offsets[:-1]]
        first, last = self._index.inside(begin, end)
        sizes = {"max_length": max_length, "batch_events": batch_events}
        super().__init__(first, last, **sizes, seed=seed, offsets=self._index.offsets, profile=profile)

    def _gather(self, begin: Int64s, end: Int64s) -> BasketBatch:
        inputs = ranges(begin, end - begin)
        basket_offsets, items = self._items(inputs)
        target_offsets, targets = self._items(inputs + 1)
        return BasketBatch(
            offsets=offsets_of(end - begin),
            basket_offsets=basket_offsets,
            items=items,
            target_offsets=target_offsets,
            targets=targets,
            times=None if self._time is None else self._time[inputs],
            asked=None if self._time is None else self._time[inputs + 1],
            profile=self._profiles(begin),
        )

    def _items(self, basket: Int64s) -> tuple[Int64s, Int32s]:
        first = self._index.item_offsets[basket]
        lengths = self._index.item_offsets[basket + 1] - first
        return offsets_of(lengths), self._index.items[ranges(first, lengths)]
