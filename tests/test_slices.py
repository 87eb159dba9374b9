"""Slices put every query where a slow look at its history and its targets puts it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from chronorec.data.splits import leave_one_out, temporal_basket, temporal_event
from chronorec.evaluation import Slicing, slice_queries
from tests.support.histories import make_histories, random_histories
from tests.support.logs import DAY, basket_log, histories_of


def labels_of(slicing: Slicing) -> list[str]:
    return [slicing.labels[part] for part in slicing.part]


def by_name(slicings: list[Slicing]) -> dict[str, list[str]]:
    return {slicing.name: labels_of(slicing) for slicing in slicings}


def test_length_and_popularity() -> None:
    # before the targets items 0 .. 7 have 6, 2, 2, 1, 1, 1, 1, 0 of 14 events: 0 and 1 begin in one half
    histories = make_histories([[0, 0, 0, 0, 1, 0], [0, 1, 2, 3], [0, 2, 3, 4, 1], [5, 6, 7]])
    split = leave_one_out(histories, exclude_seen=False)
    found = by_name(slice_queries(histories, split, "test"))
    assert found["events of the history"] == ["5-19", "1-4", "1-4", "1-4"]
    assert found["popularity of the target"] == ["head", "middle", "head", "new"]
    assert found["user in training"] == ["known"] * 4
    assert "time since the last event" not in found or histories.time is not None


def test_time_gap_and_new_users() -> None:
    hour = DAY // 24
    moments = {0: [0, hour // 2, 40 * DAY], 1: [38 * DAY, 40 * DAY, 40 * DAY + hour], 2: [0, 40 * DAY]}
    rows = [(user, f"item {i}", at) for user, times in moments.items() for i, at in enumerate(times)]
    users, items, times = zip(*rows, strict=True)
    log = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.timestamp("us"))})
    histories = histories_of(log)
    split = temporal_event(histories, 39 * DAY, validation_cut=30 * DAY)
    found = by_name(slice_queries(histories, split))
    assert found["time since the last event"] == [
        "30 days and more",
        "< 1 week",
        "< 1 day",
        "30 days and more",
    ]
    assert found["user in training"] == ["known"] * 4
    validation = by_name(
        slice_queries(histories, temporal_event(histories, 41 * DAY, validation_cut=39 * DAY), "validation")
    )
    assert validation["user in training"] == ["known"] * 4


def test_a_basket_belongs_to_its_least_popular_item() -> None:
    histories = histories_of(basket_log())
    split = temporal_basket(histories, 10 * DAY, validation_cut=9 * DAY)
    (slicing,) = [s for s in slice_queries(histories, split) if s.name == "popularity of the target"]
    counts = np.zeros(histories.num_items)
    for begin, end in zip(split.begin, split.refit_end, strict=True):
        np.add.at(counts, histories.item[begin:end], 1)
    shares = {item: counts[counts > counts[item]].sum() / counts.sum() for item in range(len(counts))}
    queries = split.test
    for query, label in enumerate(labels_of(slicing)):
        targets = queries.targets[queries.target_offsets[query] : queries.target_offsets[query + 1]]
        rarest = min(targets.tolist(), key=lambda item: counts[item])
        if shares[rarest] > 0.8:  # items of one count stand in the order of their codes: look past them
            assert label == "tail"


@pytest.mark.parametrize("seed", range(3))
def test_sizes_and_means(seed: int) -> None:
    histories = random_histories(seed)
    split = leave_one_out(histories, exclude_seen=False)
    values = np.random.default_rng(seed).random(len(split.test))
    for slicing in slice_queries(histories, split):
        assert slicing.sizes.sum() == len(values)
        assert (slicing.sizes > 0).all()
        assert (slicing.means(values) * slicing.sizes).sum() == pytest.approx(values.sum())
        assert slicing.means(values)[0] == pytest.approx(values[slicing.part == 0].mean())
