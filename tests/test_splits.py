from __future__ import annotations

import dataclasses
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest

from chronorec.data.baskets import baskets
from chronorec.data.splits import (
    Queries,
    Split,
    format_time,
    leave_one_out,
    parse_cut,
    temporal_basket,
    temporal_event,
)
from tests.support.histories import make_histories, random_histories

DAY = 86_400_000_000


def targets_of(queries: Queries, index: int) -> list[int]:
    return queries.targets[queries.target_offsets[index] : queries.target_offsets[index + 1]].tolist()


def rows(queries: Queries) -> list[tuple[int, int, int, list[int]]]:
    return [
        (int(queries.user[i]), int(queries.begin[i]), int(queries.end[i]), targets_of(queries, i))
        for i in range(len(queries))
    ]


class TestCut:
    def test_iso_text_date_and_zone(self) -> None:
        day = 17_501 * DAY
        assert parse_cut("2017-12-01") == day
        assert parse_cut("2017-12-01T00:00:00Z") == day
        assert parse_cut("2017-12-01T02:00:00+02:00") == day
        assert parse_cut("2017-12-01 00:00:00.000001") == day + 1
        assert parse_cut(date(2017, 12, 1)) == parse_cut(datetime(2017, 12, 1)) == parse_cut(day) == day
        zone = timezone(timedelta(hours=-5))
        assert parse_cut(datetime(2017, 11, 30, 19, tzinfo=zone)) == day
        assert format_time(day) == "2017-12-01"
        assert parse_cut(format_time(day + 61_000_000)) == day + 61_000_000
        assert parse_cut("1969-12-31T23:59:59.999999") == -1

    def test_bad_text(self) -> None:
        with pytest.raises(ValueError, match=r"cut: wanted an ISO date .* got 'december'"):
            parse_cut("december")


class TestLeaveOneOut:
    def test_last_tests_and_the_one_before_validates(self) -> None:
        histories = make_histories([[1, 2, 3, 4], [], [5], [5, 6], [7, 7, 7]])
        split = leave_one_out(histories, exclude_seen=True)
        assert rows(split.test) == [(0, 0, 3, [4]), (4, 7, 9, [7])]
        assert rows(split.validation) == [(0, 0, 2, [3]), (4, 7, 8, [7])]
        assert split.train_end.tolist() == [2, 4, 5, 7, 8]
        assert split.refit_end.tolist() == [3, 4, 5, 7, 9]
        assert split.test.at is None
        assert split.exclude_seen
        assert not split.basket
        assert (split.cold_validation, split.cold_test) == (2, 2)

    def test_carries_the_time_of_the_target(self) -> None:
        split = leave_one_out(make_histories([[1, 2, 3]], [[10, 20, 30]]), exclude_seen=False)
        assert split.test.at is not None
        assert split.validation.at is not None
        assert split.test.at.tolist() == [30]
        assert split.validation.at.tolist() == [20]
        assert split.test.targets.dtype == np.int32
        assert split.test.user.dtype == np.int32


class TestTemporalEvent:
    def test_rolling_history(self) -> None:
        histories = make_histories([[0, 1, 2, 3, 4], [5, 6], [7, 8]], [[1, 10, 15, 20, 30], [1, 2], [20, 25]])
        split = temporal_event(histories, 20, validation_cut=10)
        assert rows(split.validation) == [(0, 0, 1, [1]), (0, 0, 2, [2])]
        assert rows(split.test) == [(0, 0, 3, [3]), (0, 0, 4, [4]), (2, 7, 8, [8])]
        assert split.train_end.tolist() == [1, 7, 7]
        assert split.refit_end.tolist() == [3, 7, 7]
        assert (split.cold_validation, split.cold_test) == (0, 1)
        assert split.test.at is not None
        assert split.test.at.tolist() == [20, 30, 25]

    @pytest.mark.parametrize("seed", range(5))
    def test_no_future_anywhere(self, seed: int) -> None:
        histories = random_histories(seed)
        split = temporal_event(histories, 70, validation_cut=50)
        check_ranges(histories, split, 70, 50)
        everything = sum(len(histories.time[a:b]) for a, b in zip(split.begin, split.train_end, strict=True))
        queries = len(split.validation) + len(split.test) + split.cold_validation + split.cold_test
        assert everything + queries == histories.num_events

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="temporal split needs times"):
            temporal_event(make_histories([[1, 2]]), 5, validation_cut=3)
        histories = make_histories([[], [1, 2], [], [0], []], [[], [1, 2], [], [0], []])
        with pytest.raises(
            ValueError, match="validation_cut: wanted a time before cut = 1970-01-02, got 1970"
        ):
            temporal_event(histories, "1970-01-02", validation_cut="1970-01-02")
        assert len(temporal_event(histories, 2, validation_cut=1).test) == 1
        with pytest.raises(ValueError, match="but 1 are older than the event before"):
            temporal_event(make_histories([[1, 2], [3]], [[2, 1], [0]]), 5, validation_cut=3)


def check_ranges(histories: object, split: Split, cut: int, validation_cut: int) -> None:
    time, offsets = histories.time, histories.offsets  # type: ignore[attr-defined]
    for b in range(len(offsets) - 1):
        assert (time[split.begin[b] : split.train_end[b]] < validation_cut).all()
        assert (time[split.begin[b] : split.refit_end[b]] < cut).all()
    for queries, low, high in ((split.validation, validation_cut, cut), (split.test, cut, 10**9)):
        assert queries.at is not None
        for q in range(len(queries)):
            user = queries.user[q]
            assert offsets[user] == queries.begin[q] < queries.end[q] <= offsets[user + 1]
            assert low <= queries.at[q] < high
            assert (time[queries.begin[q] : queries.end[q]] <= queries.at[q]).all()
            own = targets_of(queries, q)
            assert own == sorted(set(own))


class TestBaskets:
    def test_by_session(self) -> None:
        histories = make_histories([[3, 1, 3, 2], [], [4]], None, [[0, 0, 0, 1], [], [2]])
        index = baskets(histories)
        assert index.offsets.tolist() == [0, 2, 2, 3]
        assert index.event_offsets.tolist() == [0, 3, 4, 5]
        assert index.item_offsets.tolist() == [0, 2, 3, 4]
        assert index.items.tolist() == [1, 3, 2, 4]
        assert index.merged == 0
        assert len(index) == 3

    def test_by_time(self) -> None:
        index = baskets(make_histories([[1, 2, 3], [4, 5]], [[5, 5, 6], [6, 6]]))
        assert index.offsets.tolist() == [0, 2, 3]
        assert index.event_offsets.tolist() == [0, 2, 3, 5]

    def test_interleaved_sessions_are_merged(self) -> None:
        index = baskets(make_histories([[1, 2, 3, 4, 5]], None, [[0, 1, 0, 2, 2]]))
        assert index.event_offsets.tolist() == [0, 3, 5]
        assert index.merged == 1

    def test_codes_shared_by_users_and_sparse_codes(self) -> None:
        index = baskets(make_histories([[1, 2], [3, 4]], None, [[0, 900], [0, 0]]))
        assert index.offsets.tolist() == [0, 2, 3]
        assert index.event_offsets.tolist() == [0, 1, 2, 4]
        assert index.merged == 0

    def test_session_and_time_agree_where_they_mean_the_same(self) -> None:
        for seed in range(5):
            with_sessions = random_histories(seed, baskets=True)
            by_session = baskets(with_sessions)
            by_time = baskets(dataclasses.replace(with_sessions, columns={}))
            assert np.array_equal(by_session.event_offsets, by_time.event_offsets)
            assert np.array_equal(by_session.offsets, by_time.offsets)
            for i in range(len(by_time)):
                events = with_sessions.item[by_time.event_offsets[i] : by_time.event_offsets[i + 1]]
                own = by_time.items[by_time.item_offsets[i] : by_time.item_offsets[i + 1]]
                assert own.tolist() == sorted(set(events.tolist()))

    def test_an_event_without_a_session_is_a_basket_of_its_own(self) -> None:
        index = baskets(make_histories([[1, 2, 3, 4], [5, 6]], None, [[-1, -1, 0, 0], [1, -1]]))
        assert index.event_offsets.tolist() == [0, 1, 2, 4, 5, 6]
        assert len(baskets(make_histories([[1, 2]], None, [[-1, -1]]))) == 2

    def test_inside(self) -> None:
        index = baskets(make_histories([[1, 2, 3, 4], [5]], None, [[0, 0, 1, 1], [2]]))
        first, last = index.inside(np.array([0, 4]), np.array([3, 5]))
        assert first.tolist() == [0, 2]
        assert last.tolist() == [1, 3]
        first, last = index.inside(np.array([1, 4]), np.array([2, 4]))
        assert (last - first).tolist() == [0, 0]

    def test_empty_and_errors(self) -> None:
        assert len(baskets(make_histories([[], []]))) == 0
        with pytest.raises(ValueError, match="without a session column needs times"):
            baskets(make_histories([[1, 2]]))


class TestTemporalBasket:
    def test_first_basket_after_each_cut(self) -> None:
        histories = make_histories(
            [[1, 2, 3, 3, 4, 5, 6], [7, 8], [9]],
            [[1, 1, 12, 12, 25, 25, 30], [1, 22], [21]],
        )
        split = temporal_basket(histories, 20, validation_cut=10)
        assert rows(split.validation) == [(0, 0, 2, [3])]
        assert rows(split.test) == [(0, 0, 4, [4, 5]), (1, 7, 8, [8])]
        assert split.train_end.tolist() == [2, 8, 9]
        assert split.refit_end.tolist() == [4, 8, 9]
        assert (split.cold_validation, split.cold_test) == (0, 1)
        assert split.basket
        assert split.test.at is not None
        assert split.test.at.tolist() == [25, 22]

    def test_a_basket_that_straddles_the_cut_is_the_target_as_a_whole(self) -> None:
        histories = make_histories([[1, 2, 3, 4]], [[1, 19, 21, 30]], [[0, 1, 1, 2]])
        split = temporal_basket(histories, 20, validation_cut=10)
        assert rows(split.test) == [(0, 0, 1, [2, 3])]
        assert split.test.at is not None
        assert split.test.at.tolist() == [19]
        assert split.refit_end.tolist() == [1]
        assert len(split.validation) == 0
        straddles_both = temporal_basket(histories, 20, validation_cut=19)
        assert straddles_both.train_end.tolist() == [1]
        assert len(straddles_both.validation) == 0

    @pytest.mark.parametrize("seed", range(5))
    def test_no_part_of_the_target_basket_in_any_history(self, seed: int) -> None:
        histories = random_histories(seed, baskets=True)
        split = temporal_basket(histories, 70, validation_cut=50)
        check_ranges(histories, split, 70, 50)
        session = histories.columns["session"]
        for queries in (split.validation, split.test):
            assert len(queries) > 10
            assert len(np.unique(queries.user)) == len(queries)
            for q in range(len(queries)):
                own = session[queries.end[q]]
                assert own not in session[queries.begin[q] : queries.end[q]]
                assert targets_of(queries, q) == sorted(set(histories.item[session == own].tolist()))

    def test_baskets_are_found_once(self) -> None:
        histories = random_histories(1, baskets=True)
        temporal_basket(histories, 70, validation_cut=50)
        assert histories.baskets is histories.baskets
        assert "baskets" not in vars(dataclasses.replace(histories))


class TestHashAndSelect:
    def test_hash_depends_on_all_that_matters(self) -> None:
        histories = random_histories(3)
        base = temporal_event(histories, 70, validation_cut=50)
        assert base.hash == temporal_event(histories, 70, validation_cut=50).hash
        assert len(base.hash) == 64
        assert base.hash.startswith(base.short_hash)
        others = [
            temporal_event(histories, 71, validation_cut=50),
            temporal_event(histories, 70, validation_cut=49),
            temporal_event(histories, 70, validation_cut=50, exclude_seen=True),
            temporal_event(random_histories(4), 70, validation_cut=50),
            temporal_basket(histories, 70, validation_cut=50),
            leave_one_out(histories, exclude_seen=False),
        ]
        assert len({base.hash, *(split.hash for split in others)}) == 1 + len(others)

    def test_describe_says_users_events_queries_and_hash(self) -> None:
        histories = make_histories([[0, 1, 2], [3, 4]], [[1, DAY, 2 * DAY], [1, 2 * DAY]])
        split = temporal_event(histories, "1970-01-03", validation_cut="1970-01-02")
        assert split.describe() == (
            "temporal next event, cut 1970-01-03: 2 users, 2 training events, "
            "1 validation and 2 test queries (0 and 0 targets without enough past left out), "
            f"seen items stay candidates, split {split.short_hash}"
        )

    def test_select(self) -> None:
        split = temporal_basket(random_histories(2), 70, validation_cut=50)
        picked = split.test.select(np.array([5, 0, 5]))
        assert rows(picked) == [rows(split.test)[i] for i in (5, 0, 5)]
        assert picked.at is not None
        assert split.test.at is not None
        assert picked.at.tolist() == split.test.at[[5, 0, 5]].tolist()
        assert rows(split.test.select(slice(2, 4))) == rows(split.test)[2:4]
        assert len(split.test.select(np.array([], np.int64))) == 0
