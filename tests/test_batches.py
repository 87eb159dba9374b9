from __future__ import annotations

import time as clock
from collections import Counter

import numpy as np
import pytest

from chronorec.data.baskets import baskets
from chronorec.data.batches import BasketBatch, BasketBatches, Batch, EventBatches
from chronorec.data.splits import leave_one_out, temporal_basket
from tests.support.histories import make_histories, random_histories


def same(a: Batch | BasketBatch, b: Batch | BasketBatch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


def whole(histories: object) -> tuple[np.ndarray, np.ndarray]:
    return histories.offsets[:-1], histories.offsets[1:]  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_length", [1, 2, 7, 100])
@pytest.mark.parametrize("budget", [{"batch_events": 128}, {"batch_sequences": 5}])
def test_every_event_but_the_first_is_a_target_once(max_length: int, budget: dict[str, int]) -> None:
    histories = random_histories(0)
    split = leave_one_out(histories, exclude_seen=False)
    batches = EventBatches(histories, split.begin, split.train_end, max_length=max_length, seed=3, **budget)
    wanted = [e for b, end in zip(split.begin, split.train_end, strict=True) for e in range(b + 1, end)]
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for batch in batches.epoch(epoch):
            lengths = np.diff(batch.offsets)
            assert len(batch) == len(lengths)
            assert ((lengths >= 1) & (lengths <= max_length)).all()
            assert np.array_equal(lengths, batch.end - batch.begin)
            if "batch_events" in budget:
                assert batch.offsets[-1] <= budget["batch_events"]
            for s in range(len(batch)):
                low, high = batch.offsets[s : s + 2]
                begin, end = batch.begin[s], batch.end[s]
                assert split.begin[batch.user[s]] <= begin
                assert end < split.train_end[batch.user[s]]
                assert np.array_equal(batch.items[low:high], histories.item[begin:end])
                assert np.array_equal(batch.targets[low:high], histories.item[begin + 1 : end + 1])
                assert batch.times is not None
                assert batch.target_times is not None
                assert np.array_equal(batch.times[low:high], histories.time[begin:end])
                assert np.array_equal(batch.target_times[low:high], histories.time[begin + 1 : end + 1])
                seen.update(range(begin + 1, end + 1))
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
    histories = make_histories([list(range(21)), [1, 2, 3]])
    batches = EventBatches(histories, *whole(histories), max_length=5, batch_sequences=100)
    firsts = set()
    for epoch in range(40):
        (batch,) = batches.epoch(epoch)
        windows = sorted(zip(batch.begin.tolist(), batch.end.tolist(), strict=True))
        assert windows[-1] == (21, 23)
        own = windows[:-1]
        assert [end for _, end in own[:-1]] == [begin for begin, _ in own[1:]]
        assert all(end - begin == 5 for begin, end in own[1:-1])
        assert own[0][0] == 0
        assert own[-1][1] == 20
        firsts.add(own[0][1])
        assert batch.times is None
    assert firsts == {1, 2, 3, 4, 5}


def test_budget_is_used_well_and_windows_are_shuffled() -> None:
    histories = random_histories(2, users=300)
    batches = EventBatches(histories, *whole(histories), max_length=20, batch_events=400)
    sizes = [int(batch.offsets[-1]) for batch in batches.epoch(0)]
    assert min(sizes[:-1]) > 380
    users = np.concatenate([batch.user for batch in batches.epoch(0)])
    assert (np.diff(users) < 0).any()


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_baskets_as_tokens(max_length: int) -> None:
    histories = random_histories(3, baskets=True)
    split = temporal_basket(histories, 70, validation_cut=50)
    index = baskets(histories)
    batches = BasketBatches(
        histories, split.begin, split.train_end, max_length=max_length, batch_events=64, index=index
    )

    def items(basket: int) -> list[int]:
        return sorted(
            set(histories.item[index.event_offsets[basket] : index.event_offsets[basket + 1]].tolist())
        )

    seen = []
    for batch in batches.epoch(1):
        assert batch.offsets[-1] <= 64
        tokens = [t for a, b in zip(batch.begin, batch.end, strict=True) for t in range(a, b)]
        assert (
            len(tokens) == batch.offsets[-1] == len(batch.basket_offsets) - 1 == len(batch.target_offsets) - 1
        )
        assert batch.times is not None
        assert batch.target_times is not None
        for i, token in enumerate(tokens):
            assert batch.items[batch.basket_offsets[i] : batch.basket_offsets[i + 1]].tolist() == items(token)
            own = batch.targets[batch.target_offsets[i] : batch.target_offsets[i + 1]].tolist()
            assert own == items(token + 1)
            assert batch.times[i] == histories.time[index.event_offsets[token]]
            assert batch.target_times[i] == histories.time[index.event_offsets[token + 1]]
            assert batch.times[i] < batch.target_times[i] < 50
        seen += [t + 1 for t in tokens]
    first, last = index.inside(split.begin, split.train_end)
    assert sorted(seen) == [t for a, b in zip(first, last, strict=True) for t in range(a + 1, b)]
    assert len(seen) == batches.num_targets
    own_index = BasketBatches(histories, split.begin, split.train_end, max_length=max_length, batch_events=64)
    assert all(same(a, b) for a, b in zip(own_index.epoch(1), batches.epoch(1), strict=True))


def test_baskets_without_times_need_sessions() -> None:
    histories = make_histories([[1, 2, 3]], None, [[0, 0, 1]])
    batches = BasketBatches(histories, *whole(histories), max_length=4, batch_sequences=1)
    (batch,) = batches.epoch(0)
    assert batch.times is None
    assert batch.items.tolist() == [1, 2]
    assert batch.targets.tolist() == [3]


def test_errors() -> None:
    histories = make_histories([[1, 2, 3]])
    begin, end = whole(histories)
    with pytest.raises(ValueError, match="max_length: wanted at least 1, got 0"):
        EventBatches(histories, begin, end, max_length=0, batch_events=5)
    with pytest.raises(ValueError, match="wanted exactly one of them, got None and None"):
        EventBatches(histories, begin, end, max_length=5)
    with pytest.raises(ValueError, match="wanted exactly one of them, got 5 and 1"):
        EventBatches(histories, begin, end, max_length=5, batch_events=5, batch_sequences=1)
    with pytest.raises(ValueError, match="batch_events: wanted at least max_length = 5, got 4"):
        EventBatches(histories, begin, end, max_length=5, batch_events=4)
    with pytest.raises(ValueError, match="batch_sequences: wanted at least 1, got 0"):
        EventBatches(histories, begin, end, max_length=5, batch_sequences=0)
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
