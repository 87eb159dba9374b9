"""Batches of segments: in the order of time, every event a target once, from any batch of any epoch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chronorec.data.segments import BasketSegments, EventSegments
from tests.support.histories import make_histories, random_histories


def numbered(lengths: list[int]) -> Any:
    """Users of these many events, every event with an item of its own number."""
    item = np.arange(sum(lengths), dtype=np.int32)
    histories = make_histories([[0] * length for length in lengths])
    return dataclasses.replace(histories, item=item, num_items=len(item))


def segments(histories: Any, length: int, budget: int, **more: Any) -> EventSegments:
    return EventSegments(
        histories,
        histories.offsets[:-1],
        histories.offsets[1:],
        max_length=length,
        batch_events=budget,
        **more,
    )


@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=30),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_segments_follow_each_other(lengths: list[int], length: int, side: int, epoch: int) -> None:
    histories = numbered([2, *lengths])
    batches = segments(histories, length, length * side)
    seen: list[int] = []
    ended = np.zeros(0, np.int64)  # what the rows of the batch before would go on with
    unfinished: set[int] = set()
    for batch in batches.epoch(epoch):
        begun, sizes = batch.items[batch.offsets[:-1]], np.diff(batch.offsets)
        assert ((sizes >= 1) & (sizes <= length)).all()
        assert batch.offsets[-1] <= length * side
        first = np.isin(begun, histories.offsets[:-1])
        assert np.array_equal(batch.previous < 0, first)
        assert np.array_equal(ended[batch.previous[~first]], begun[~first])
        assert unfinished == set(begun[~first].tolist()), "every history goes on until it ends"
        assert np.array_equal(batch.targets, batch.items + 1)
        for low, high in pairwise(batch.offsets):
            assert np.array_equal(np.diff(batch.items[low:high]), np.ones(high - low - 1))
        ended = batch.targets[batch.offsets[1:] - 1]
        left = ~np.isin(ended + 1, histories.offsets)
        assert (sizes[left] == length).all()
        unfinished = set(ended[left].tolist())
        seen += batch.targets.tolist()
    assert not unfinished
    assert sorted(seen) == np.setdiff1d(histories.item, histories.offsets[:-1]).tolist()
    assert len(seen) == batches.num_targets


def test_a_function_of_seed_and_epoch_that_resumes_anywhere() -> None:
    histories = numbered([0, 1, 2, *range(5, 60, 3)])

    def same(a: Any, b: Any) -> bool:
        return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)

    first = list(segments(histories, 6, 40).epoch(2))
    assert len(first) == segments(histories, 6, 40).num_batches(2)
    for start in (0, 1, 3, len(first)):
        resumed = list(segments(histories, 6, 40).epoch(2, start))
        assert len(resumed) == len(first) - start
        assert all(same(a, b) for a, b in zip(resumed, first[start:], strict=True))
    assert not all(same(a, b) for a, b in zip(segments(histories, 6, 40).epoch(3), first, strict=False))
    other = segments(histories, 6, 40, seed=1).epoch(2)
    assert not all(same(a, b) for a, b in zip(other, first, strict=False))


def test_long_histories_do_not_end_an_epoch_alone() -> None:
    histories = numbered([*[21] * 900, *[1001] * 4])
    for epoch in range(5):
        sizes = [int(batch.offsets[-1]) for batch in segments(histories, 20, 200).epoch(epoch)]
        assert len(sizes) < 1.1 * (900 * 20 + 4 * 1000) / 200


@pytest.mark.parametrize("length", [1, 3])
def test_baskets_as_tokens(length: int) -> None:
    histories = random_histories(3, baskets=True)
    batches = BasketSegments(
        histories, histories.offsets[:-1], histories.offsets[1:], max_length=length, batch_events=12
    )
    index = histories.baskets
    wanted = Counter(
        tuple(sorted(set(histories.item[slice(*index.event_offsets[[basket, basket + 1]])].tolist())))
        for first, last in pairwise(index.offsets)
        for basket in range(first + 1, last)
    )
    found: Counter[tuple[int, ...]] = Counter()
    ended: list[tuple[int, ...]] = []
    for batch in batches.epoch(1):
        inputs = [tuple(batch.items[a:b].tolist()) for a, b in pairwise(batch.basket_offsets)]
        targets = [tuple(batch.targets[a:b].tolist()) for a, b in pairwise(batch.target_offsets)]
        for row, previous in enumerate(batch.previous.tolist()):
            assert previous < 0 or inputs[batch.offsets[row]] == ended[previous]
        ended = [targets[last - 1] for last in batch.offsets[1:]]
        found.update(targets)
    assert found == wanted
