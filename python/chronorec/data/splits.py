"""Splits of a log into training events and queries, without the future on the training side.

A split names ranges of the flat event arrays; it copies no event. Every range is a prefix of a user's
history, in the stable order of the log (time, then file order).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chronorec.data.baskets import Baskets
from chronorec.data.jagged import Int32s, Int64s, count_in_rows, offsets_of, ranges, row_of_values

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Cut = str | int | date


@dataclass(frozen=True, eq=False)
class Queries:
    """Questions to a recommender with the known answers.

    Attributes:
        user: int32 [Q].
        begin, end: int64 [Q], the history is events[begin:end] of the flat arrays.
        at: int64 [Q] microseconds UTC, the time of the request: that of the target event, or of the first
            event of the target basket; None for a log without times.
        target_offsets: int64 [Q + 1], into ``targets``.
        targets: int32 [M], item codes, distinct and ascending inside a query.
    """

    user: Int32s
    begin: Int64s
    end: Int64s
    at: Int64s | None
    target_offsets: Int64s
    targets: Int32s

    def __len__(self) -> int:
        return len(self.user)

    def select(self, indices: npt.NDArray[np.integer] | slice) -> Queries:
        """The queries at ``indices`` (integers or a slice), in that order."""
        index = np.arange(len(self))[indices]
        lengths = np.diff(self.target_offsets)[index]
        return Queries(
            user=self.user[index],
            begin=self.begin[index],
            end=self.end[index],
            at=None if self.at is None else self.at[index],
            target_offsets=offsets_of(lengths),
            targets=self.targets[ranges(self.target_offsets[index], lengths)],
        )


@dataclass(frozen=True, eq=False)
class Split:
    """Training events and queries of one protocol.

    Attributes:
        protocol: such as "leave-one-out", "temporal next event" or "temporal next basket".
        begin: int64 [B], the first event of every user.
        train_end: int64 [B], user b trains on events[begin[b]:train_end[b]].
        refit_end: int64 [B], events[begin[b]:refit_end[b]] are all events before the test targets: for
            training again, with settings already chosen, on training and validation data.
        validation, test: the queries.
        exclude_seen: whether the items of a history leave the candidates.
        basket: whether a target is a basket.
        cut, validation_cut: microseconds UTC, or None where no common time divides training from test.
        end: microseconds UTC, test targets lie before it; None: all after the cut.
        cold_validation, cold_test: targets that became no query because their user has too short a past.
        hash: sha256 over the log's content hash, the protocol's parameters, all ranges and targets.
    """

    protocol: str
    begin: Int64s
    train_end: Int64s
    refit_end: Int64s
    validation: Queries
    test: Queries
    exclude_seen: bool
    basket: bool
    cut: int | None
    validation_cut: int | None
    end: int | None
    cold_validation: int
    cold_test: int
    hash: str

    @property
    def short_hash(self) -> str:
        """The first twelve digits of ``hash``."""
        return self.hash[:12]

    def describe(self) -> str:
        """One line: protocol, users, training events, queries, hash."""
        name = self.protocol if self.cut is None else f"{self.protocol}, cut {format_time(self.cut)}"
        name = name if self.end is None else f"{name}, end {format_time(self.end)}"
        events = int((self.train_end - self.begin).sum())
        return (
            f"{name}: {len(self.begin):,} users, {events:,} training events, "
            f"{len(self.validation):,} validation and {len(self.test):,} test queries "
            f"({self.cold_validation:,} and {self.cold_test:,} targets without enough past left out), "
            f"seen items {'leave the candidates' if self.exclude_seen else 'stay candidates'}, "
            f"split {self.short_hash}"
        )


def parse_cut(cut: Cut) -> int:
    """Microseconds UTC of a cut; see :func:`parse_time`."""
    return parse_time(cut, "cut")


def parse_time(time: Cut | np.datetime64, name: str) -> int:
    """Microseconds UTC of an ISO text ("2017-12-01", "2017-12-01T06:00+02:00"), a date, datetime or
    datetime64 (without a zone: UTC), or microseconds already.

    Args:
        name: of the argument, for errors.

    Raises:
        ValueError: the text is not an ISO date or time, or the time is NaT.
        TypeError: it is none of these.
    """
    if isinstance(time, (int, np.integer)) and not isinstance(time, (bool, np.timedelta64)):
        return int(time)
    if isinstance(time, str):
        time = _parse_iso(time.strip(), name)
    if not isinstance(time, (date, np.datetime64)):
        raise TypeError(f"{name}: wanted a date, a datetime, an ISO text or microseconds, got {time!r}")
    if time != time:
        raise ValueError(f"{name}: wanted a time, got NaT")
    if isinstance(time, np.datetime64):
        return int(time.astype("datetime64[us]").astype(np.int64))
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return (time - _EPOCH) // timedelta(microseconds=1)


def _parse_iso(text: str, name: str) -> datetime:
    try:  # Python 3.10 does not read "Z"
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError:
        raise ValueError(
            f"{name}: wanted an ISO date or time such as 2024-05-01 or 2024-05-01T12:00, got {text!r}"
        ) from None


def format_time(time: int) -> str:
    """ISO text of a time in microseconds UTC; midnight is written as the bare date."""
    moment = _EPOCH + timedelta(microseconds=time)
    if moment.time() == datetime.min.time():
        return moment.date().isoformat()
    return moment.replace(tzinfo=None).isoformat() + "Z"


def leave_one_out(histories: Histories, *, exclude_seen: bool) -> Split:
    """The last event of every user tests, the one before validates, the rest trains.

    Users with fewer than three events stay in training, whole, and get no query. The history of a test query
    holds the validation event. Other users' events after a target stay in training: this protocol has no
    common cut, so it is comparable with papers but blind to the future only inside a user.
    """
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    tested = np.flatnonzero(end - begin >= 3)
    held_out = np.zeros_like(begin)
    held_out[tested] = 1
    cold = int(np.count_nonzero(end - begin > 0)) - len(tested)
    return new_split(
        histories,
        protocol="leave-one-out",
        train_end=end - 2 * held_out,
        refit_end=end - held_out,
        validation=event_queries(histories, tested, end[tested] - 2),
        test=event_queries(histories, tested, end[tested] - 1),
        exclude_seen=exclude_seen,
        cold=(cold, cold),
    )


def temporal_event(
    histories: Histories,
    cut: Cut,
    *,
    validation_cut: Cut,
    end: Cut | None = None,
    exclude_seen: bool = False,
) -> Split:
    """One global cut, next event with rolling history.

    Events before ``validation_cut`` train. Every event in [validation_cut, cut) is the target of a validation
    query and every event in [cut, end), by default all from ``cut`` on, that of a test query; its history is
    all of the user's earlier events, those after the cut included, "earlier" in the order of the log. An
    event without any earlier one becomes no query (counted). Events of one basket see each other here: use
    ``temporal_basket`` where events come in baskets.

    Raises:
        ValueError: the log has no times, its order contradicts them, or ``validation_cut`` does not lie
            before ``cut``, or ``cut`` not before ``end``.
    """
    time, test_from, validation_from, test_end = _cuts(histories, cut, validation_cut, end)
    begin = histories.offsets[:-1]
    train_end = begin + count_in_rows(time < validation_from, histories.offsets)
    refit_end = begin + count_in_rows(time < test_from, histories.offsets)
    validation, cold_validation = rolling_queries(histories, train_end, refit_end)
    last = begin + count_in_rows(time < test_end, histories.offsets)
    test, cold_test = rolling_queries(histories, refit_end, last)
    return new_split(
        histories,
        protocol="temporal next event",
        train_end=train_end,
        refit_end=refit_end,
        validation=validation,
        test=test,
        exclude_seen=exclude_seen,
        cuts=(test_from, validation_from),
        end=None if end is None else test_end,
        cold=(cold_validation, cold_test),
    )


def temporal_basket(
    histories: Histories,
    cut: Cut,
    *,
    validation_cut: Cut,
    end: Cut | None = None,
    exclude_seen: bool = False,
) -> Split:
    """One global cut, next basket: per user the first basket at or after the cut is the target.

    A basket is a code of the ``session`` column, or all events of a user at one time. It lies where its last
    event lies: a basket that straddles the cut is at or after it, so it is the target as a whole, and its
    events before the cut are in no history and in no training range. The history is every earlier basket, the
    target the set of distinct items of the basket. Validation is the same rule at ``validation_cut``; a user
    whose first basket there is not over before ``cut`` has no validation query, nor a test query one whose
    first basket after ``cut`` is not over before ``end``, where that is given. Users without a past get no
    query (counted).

    Raises:
        ValueError: the log has no times, its order contradicts them, or ``validation_cut`` does not lie
            before ``cut``, or ``cut`` not before ``end``.
    """
    time, test_from, validation_from, test_end = _cuts(histories, cut, validation_cut, end)
    index = histories.baskets
    last_time = time[index.event_offsets[1:] - 1]
    first = index.offsets[:-1]
    validation_basket = first + count_in_rows(last_time < validation_from, index.offsets)
    test_basket = first + count_in_rows(last_time < test_from, index.offsets)
    first_time = time[index.event_offsets[:-1]]
    validation, cold_validation = basket_queries(index, first_time, validation_basket, test_basket)
    last = first + count_in_rows(last_time < test_end, index.offsets)
    test, cold_test = basket_queries(index, first_time, test_basket, last)
    return new_split(
        histories,
        protocol="temporal next basket",
        train_end=index.event_offsets[validation_basket],
        refit_end=index.event_offsets[test_basket],
        validation=validation,
        test=test,
        exclude_seen=exclude_seen,
        basket=True,
        cuts=(test_from, validation_from),
        end=None if end is None else test_end,
        cold=(cold_validation, cold_test),
    )


def _cuts(
    histories: Histories, cut: Cut, validation_cut: Cut, end: Cut | None
) -> tuple[Int64s, int, int, int]:
    """The times, both cuts and the end in microseconds; without an end one past all times."""
    time = histories.require_time("a temporal split")
    backward = time[1:] < time[:-1]
    first_events = histories.offsets[1:-1]
    backward[first_events[(first_events > 0) & (first_events < histories.num_events)] - 1] = False
    if backward.any():
        raise ValueError(
            "time: wanted every user's events in the order of time, but "
            f"{np.count_nonzero(backward):,} are older than the event before them in the order of the log"
        )
    test_from, validation_from = parse_cut(cut), parse_cut(validation_cut)
    if validation_from >= test_from:
        raise ValueError(
            f"validation_cut: wanted a time before cut = {format_time(test_from)}, "
            f"got {format_time(validation_from)}"
        )
    test_end = np.iinfo(np.int64).max if end is None else parse_time(end, "end")
    if test_end <= test_from:
        raise ValueError(
            f"end: wanted a time after cut = {format_time(test_from)}, got {format_time(test_end)}"
        )
    return time, test_from, validation_from, test_end


def event_queries(histories: Histories, user: Int64s, target: Int64s) -> Queries:
    """Queries whose targets are the events ``target`` [Q] (flat indices) of ``user`` [Q]."""
    return Queries(
        user=user.astype(np.int32),
        begin=histories.offsets[user],
        end=target.astype(np.int64),
        at=None if histories.time is None else np.asarray(histories.time[target]),
        target_offsets=np.arange(len(target) + 1, dtype=np.int64),
        targets=np.asarray(histories.item[target]),
    )


def rolling_queries(histories: Histories, first: Int64s, end: Int64s) -> tuple[Queries, int]:
    """A query for every event first[b] .. end[b] - 1 that has an earlier one, and how many have none."""
    cold = (first == histories.offsets[:-1]) & (end > first)
    first = first + cold
    user = row_of_values(offsets_of(end - first))
    return event_queries(histories, user, ranges(first, end - first)), int(np.count_nonzero(cold))


def basket_queries(index: Baskets, time: Int64s | None, target: Int64s, end: Int64s) -> tuple[Queries, int]:
    """A query for the basket target[b] of every user that has one before end[b] and a past, and how many have
    no past; ``time`` is that of each basket, where known.
    """
    exists = target < end
    cold = exists & (target == index.offsets[:-1])
    user = np.flatnonzero(exists & ~cold)
    basket = target[user]
    lengths = np.diff(index.item_offsets)[basket]
    queries = Queries(
        user=user.astype(np.int32),
        begin=index.event_offsets[index.offsets[user]],
        end=index.event_offsets[basket],
        at=None if time is None else time[basket],
        target_offsets=offsets_of(lengths),
        targets=index.items[ranges(index.item_offsets[basket], lengths)],
    )
    return queries, int(np.count_nonzero(cold))


def new_split(
    histories: Histories,
    *,
    protocol: str,
    train_end: Int64s,
    refit_end: Int64s,
    validation: Queries,
    test: Queries,
    exclude_seen: bool,
    basket: bool = False,
    cuts: tuple[int | None, int | None] = (None, None),
    end: int | None = None,
    cold: tuple[int, int],
) -> Split:
    """A split of these ranges and queries, with its hash; ``cuts``: of test and validation."""
    begin = np.asarray(histories.offsets[:-1])
    parameters = {"protocol": protocol, "cuts": cuts, "exclude_seen": exclude_seen, "basket": basket}
    if end is not None:
        parameters["end"] = end
    digest = hashlib.sha256(histories.content_hash.encode())
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    for array in (begin, train_end, refit_end, *_arrays(validation), *_arrays(test)):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return Split(
        protocol=protocol,
        begin=begin,
        train_end=train_end,
        refit_end=refit_end,
        validation=validation,
        test=test,
        exclude_seen=exclude_seen,
        basket=basket,
        cut=cuts[0],
        validation_cut=cuts[1],
        end=end,
        cold_validation=cold[0],
        cold_test=cold[1],
        hash=digest.hexdigest(),
    )


def _arrays(queries: Queries) -> tuple[npt.NDArray[np.integer], ...]:
    at = np.zeros(0, np.int64) if queries.at is None else queries.at
    return queries.user, queries.begin, queries.end, at, queries.target_offsets, queries.targets
