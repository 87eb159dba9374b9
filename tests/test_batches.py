from __future__ import annotations

import dataclasses
import time as clock
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from chronorec.data.batches import BasketBatch, BasketBatches, Batch, EventBatches
from chronorec.data.splits import leave_one_out, temporal_basket
from chronorec.engine.history import HistoryBatch, cut_tokens
from tests.support.histories import make_histories, random_histories


def same(a: Batch | BasketBatch, b: Batch | BasketBatch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


def numbered(histories: Any) -> Any:
    """The same users, every event with an item of its own number."""
    item = np.arange(histories.num_events, dtype=np.int32)
    return dataclasses.replace(histories, item=item, num_items=len(item))


def windows_of(batch: Batch) -> list[tuple[int, int]]:
    """First input and last target of every window of numbered events."""
    return [(int(batch.items[low]), int(batch.targets[high - 1])) for low, high in pairwise(batch.offsets)]


def whole(histories: object) -> tuple[np.ndarray, np.ndarray]:
    return histories.offsets[:-1], histories.offsets[1:]  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_length", [1, 2, 7, 100])
def test_every_event_but_the_first_is_a_target_once(max_length: int) -> None:
    histories = numbered(random_histories(0))
    split = leave_one_out(histories, exclude_seen=False)
    batches = EventBatches(
        histories, split.begin, split.train_end, max_length=max_length, seed=3, batch_events=128
    )
    wanted = [e for b, end in zip(split.begin, split.train_end, strict=True) for e in range(b + 1, end)]
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for batch in batches.epoch(epoch):
            lengths = np.diff(batch.offsets)
            assert len(batch) == len(lengths)
            assert ((lengths >= 1) & (lengths <= max_length)).all()
            assert batch.offsets[-1] <= 128
            assert np.array_equal(batch.targets, batch.items + 1)  # items are numbered like events
            for low, high in pairwise(batch.offsets):
                window = batch.items[low:high]
                assert np.array_equal(window, np.arange(window[0], window[0] + len(window)))
                user = np.searchsorted(split.begin, window[0], side="right") - 1
                assert batch.targets[high - 1] < split.train_end[user]
            seen.update(batch.targets.tolist())
        assert sorted(seen.elements()) == wanted
        assert batches.num_targets == len(wanted)


def test_a_function_of_seed_and_epoch_that_resumes_anywhere() -> None:
    histories = random_histories(1)

    def make(seed: int) -> EventBatches:
        return EventBatches(histories, *whole(histories), max_length=6, batch_events=64, seed=seed)

    first = list(make(0).epoch(2))
    assert len(first) == make(0).num_batches(2)
    again = make(0)
    list(again.epoch(0))  # an epoch iterated before leaves no trace
    for start in (0, 3, len(first)):
        resumed = list(again.epoch(2, start))
        assert len(resumed) == len(first) - start
        assert all(same(a, b) for a, b in zip(resumed, first[start:], strict=True))
    assert not all(same(a, b) for a, b in zip(make(0).epoch(3), first, strict=False))
    assert not all(same(a, b) for a, b in zip(make(1).epoch(2), first, strict=False))


def test_phase_of_long_users_varies_and_short_users_stay_whole() -> None:
    histories = make_histories([list(range(21)), [21, 22, 23]])
    batches = EventBatches(histories, *whole(histories), max_length=5, batch_events=1000)
    firsts = set()
    for epoch in range(40):
        (batch,) = batches.epoch(epoch)
        windows = sorted(windows_of(batch))
        assert windows[-1] == (21, 23)
        own = windows[:-1]
        assert [end for _, end in own[:-1]] == [begin for begin, _ in own[1:]]
        assert all(end - begin == 5 for begin, end in own[1:-1])
        assert own[0][0] == 0
        assert own[-1][1] == 20
        firsts.add(own[0][1])
    assert firsts == {1, 2, 3, 4, 5}


def test_budget_is_used_well_and_windows_are_shuffled() -> None:
    histories = numbered(random_histories(2, users=300))
    batches = EventBatches(histories, *whole(histories), max_length=20, batch_events=400)
    sizes = [int(batch.offsets[-1]) for batch in batches.epoch(0)]
    assert min(sizes[:-1]) > 380
    firsts = [first for batch in batches.epoch(0) for first, _ in windows_of(batch)]
    assert (np.diff(firsts) < 0).any()


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_baskets_as_tokens(max_length: int) -> None:
    histories = random_histories(3, baskets=True)
    split = temporal_basket(histories, 70, validation_cut=50)
    index = histories.baskets
    batches = BasketBatches(histories, split.begin, split.train_end, max_length=max_length, batch_events=64)
    basket_of: dict[tuple[int, ...], list[int]] = {}
    for basket, (low, high) in enumerate(pairwise(index.event_offsets)):
        basket_of.setdefault(tuple(sorted(set(histories.item[low:high].tolist()))), []).append(basket)

    seen = []
    for batch in batches.epoch(1):
        count = batch.offsets[-1]
        assert count <= 64
        assert count == len(batch.basket_offsets) - 1 == len(batch.target_offsets) - 1
        inputs = [tuple(batch.items[a:b].tolist()) for a, b in pairwise(batch.basket_offsets)]
        targets = [tuple(batch.targets[a:b].tolist()) for a, b in pairwise(batch.target_offsets)]
        for low, high in pairwise(batch.offsets):
            assert 1 <= high - low <= max_length
            assert inputs[low + 1 : high] == targets[low : high - 1]
        for own, following in zip(inputs, targets, strict=True):
            assert any(basket + 1 in basket_of[following] for basket in basket_of[own])
        seen += targets
    first, last = index.inside(split.begin, split.train_end)
    wanted = [basket for a, b in zip(first, last, strict=True) for basket in range(a + 1, b)]
    name = {basket: items for items, baskets in basket_of.items() for basket in baskets}
    assert Counter(seen) == Counter(name[basket] for basket in wanted)
    assert len(seen) == batches.num_targets


def test_baskets_without_times_need_sessions() -> None:
    histories = make_histories([[1, 2, 3]], None, [[0, 0, 1]])
    batches = BasketBatches(histories, *whole(histories), max_length=4, batch_events=4)
    (batch,) = batches.epoch(0)
    assert batch.items.tolist() == [1, 2]
    assert batch.targets.tolist() == [3]


def test_errors() -> None:
    histories = make_histories([[1, 2, 3]])
    begin, end = whole(histories)
    with pytest.raises(ValueError, match="max_length: wanted at least 1, got 0"):
        EventBatches(histories, begin, end, max_length=0, batch_events=5)
    with pytest.raises(ValueError, match="batch_events: wanted at least max_length = 5, got 4"):
        EventBatches(histories, begin, end, max_length=5, batch_events=4)
    with pytest.raises(ValueError, match="seed: wanted 0 or more, got -1"):
        EventBatches(histories, begin, end, max_length=5, batch_events=5, seed=-1)
    with pytest.raises(ValueError, match="a user with at least two tokens"):
        EventBatches(histories, begin, begin + 1, max_length=5, batch_events=5)
    batches = EventBatches(histories, begin, end, max_length=5, batch_events=5)
    with pytest.raises(ValueError, match="start: wanted 0 to 1, got 2"):
        next(batches.epoch(0, 2))
    with pytest.raises(ValueError, match="epoch: wanted 0 or more, got -1"):
        batches.num_batches(-1)


def test_an_epoch_of_a_million_events_costs_little() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 310, 6040)
    histories = make_histories([[0]])
    histories.item = rng.integers(0, 3416, int(lengths.sum())).astype(np.int32)
    histories.time = np.arange(len(histories.item))
    histories.offsets = np.cumsum([0, *lengths], dtype=np.int64)
    batches = EventBatches(histories, *whole(histories), max_length=200, batch_events=16384)
    started = clock.perf_counter()
    assert sum(len(batch.items) for batch in batches.epoch(0)) == batches.num_targets
    assert clock.perf_counter() - started < 1.0


@pytest.mark.parametrize("basket", [False, True])
def test_training_and_serving_read_the_same_times(basket: bool) -> None:
    """The last token's answer is asked for at its target's time; before it, when the next token happened."""
    histories = random_histories(4, users=12, baskets=True)
    begin, end = whole(histories)
    maker = BasketBatches if basket else EventBatches
    (batch,) = maker(histories, begin, end, max_length=1000, batch_events=5000).epoch(0)
    index = histories.baskets
    starts = histories.time[index.event_offsets[:-1]] if basket else histories.time
    offsets = index.offsets if basket else histories.offsets
    wanted = {tuple(starts[a:b]) for a, b in pairwise(offsets) if b - a > 1}
    rows = [slice(a, b) for a, b in pairwise(batch.offsets)]
    assert {(*batch.times[row], batch.asked[row][-1]) for row in rows} == wanted
    assert all(np.array_equal(batch.asked[row][:-1], batch.times[row][1:]) for row in rows)

    for user, (first, last) in enumerate(pairwise(offsets)):
        if last - first < 2:
            continue
        event = int(index.event_offsets[last - 1]) if basket else int(last - 1)
        past = slice(int(histories.offsets[user]), event)
        served = HistoryBatch(
            histories.item[past],
            np.array([0, event - past.start]),
            histories.num_items,
            histories.time[past],
            {"session": histories.columns["session"][past]},
            at=histories.time[event : event + 1],
        )
        tokens = cut_tokens(served, basket=basket, max_length=1000)
        assert (*tokens.times, *tokens.at) in wanted


def test_a_log_without_times_has_batches_without() -> None:
    histories = make_histories([[0, 1, 2], [2, 1]])
    (batch,) = EventBatches(histories, *whole(histories), max_length=5, batch_events=9).epoch(0)
    assert batch.times is None
    assert batch.asked is None
