"""Several splits of one log, for results that hang on no single cut and no single group of users.

Rolling folds go forward in time: each trains before its cut and tests between its cut and the next one, so no
event is a target twice. User folds divide the users: each user is held out, wholly, in one fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chronorec.data.splits import (
    Cut,
    Split,
    basket_queries,
    event_queries,
    format_time,
    new_split,
    parse_cut,
    parse_time,
    rolling_queries,
    temporal_basket,
    temporal_event,
)

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def quantile_time(histories: Histories, share: float) -> int:
    """The time in microseconds before which ``share`` of all events lie, ties at it not counted.

    Raises:
        ValueError: ``share`` is not inside (0, 1), or the log has no times.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: wanted more than 0 and less than 1, got {share}")
    time = histories.require_time("a cut at a share of the events")
    place = round(share * len(time))
    return int(np.partition(time, place)[place])


def month_cuts(last: Cut, folds: int) -> list[int]:
    """``folds + 2`` times in microseconds, a month apart: the validation cut of the first fold, the cut of
    every fold up to ``last``, and the end of the last fold.

    Raises:
        ValueError: ``last`` lies after the 28th of its month.
    """
    _check_folds(folds, 1)
    moment = _EPOCH + timedelta(microseconds=parse_cut(last))
    if moment.day > 28:
        raise ValueError(f"cut: wanted a day up to the 28th, which every month has, got {moment.date()}")
    months = [moment.year * 12 + moment.month - 1 + step for step in range(-folds, 2)]
    moments = [moment.replace(year=month // 12, month=month % 12 + 1) for month in months]
    return [(one - _EPOCH) // timedelta(microseconds=1) for one in moments]


def quantile_cuts(histories: Histories, folds: int) -> list[int]:
    """``folds + 1`` times in microseconds: the folds divide the last half of the events into equal parts,
    before which as large a part validates the first fold.

    Raises:
        ValueError: the log has no times, or so many events at one time that two cuts are one.
    """
    _check_folds(folds, 1)
    cuts = [quantile_time(histories, 1 - 0.5 * part / folds) for part in range(folds + 1, 0, -1)]
    if min(np.diff(cuts)) <= 0:
        raise ValueError(f"folds: wanted cuts at different times, got {', '.join(map(format_time, cuts))}")
    return cuts


def rolling_folds(
    histories: Histories,
    cuts: Sequence[Cut],
    *,
    end: Cut | None = None,
    basket: bool = False,
    exclude_seen: bool = False,
) -> list[Split]:
    """Temporal splits one after the other, each trained before its cut and tested up to the next.

    Args:
        cuts: ascending; the first is the validation cut of the first fold, each later one the cut of a fold
            and the validation cut of the next.
        end: of the last fold's test; by default that of the log.
        basket: ask for next baskets rather than next events.
    """
    times = [parse_cut(cut) for cut in cuts]
    if len(times) < 2:
        raise ValueError(f"cuts: wanted at least 2, a validation cut and a cut, got {len(times)}")
    ends = [*times[2:], None if end is None else parse_time(end, "end")]
    make = temporal_basket if basket else temporal_event
    return [
        make(histories, cut, validation_cut=before, end=after, exclude_seen=exclude_seen)
        for (before, cut), after in zip(pairwise(times), ends, strict=True)
    ]


def user_folds(
    histories: Histories, folds: int, *, seed: int = 0, basket: bool = False, exclude_seen: bool = False
) -> list[Split]:
    """K-fold over users: fold f tests on the last event (or basket) of the f-th part of the users, validates
    on the next part, and trains on the whole histories of all others.

    Users of fewer than two events (baskets) get no query; they train where they are not held out. As in
    leave-one-out there is no common cut: other users' events after a target stay in training.

    Args:
        seed: of the assignment of users to parts.
    """
    _check_folds(folds, 3)
    part = np.random.default_rng(seed).permutation(histories.num_users) % folds
    return [
        user_split(
            histories,
            test=part == fold,
            validation=part == (fold + 1) % folds,
            protocol=f"user fold {fold + 1} of {folds}",
            basket=basket,
            exclude_seen=exclude_seen,
        )
        for fold in range(folds)
    ]


def user_split(
    histories: Histories,
    *,
    test: npt.NDArray[np.bool_],
    validation: npt.NDArray[np.bool_],
    protocol: str = "held-out users",
    every_event: bool = False,
    basket: bool = False,
    exclude_seen: bool = False,
) -> Split:
    """Some users test, some validate, all others train with their whole histories.

    Args:
        test, validation: which users [B]; nobody is both.
        every_event: each event of a held-out user but the first is a target, after those before it; by
            default the last event (or basket) alone.
    """
    if test.shape != (histories.num_users,) or validation.shape != test.shape:
        raise ValueError(
            f"test, validation: wanted a flag for each of {histories.num_users} users, "
            f"got {list(test.shape)} and {list(validation.shape)}"
        )
    if (test & validation).any():
        raise ValueError(f"validation: {np.count_nonzero(test & validation)} of its users test too")
    if basket and every_event:
        raise ValueError("every_event: a basket has one target per user; wanted False")
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    sides = []
    for held_out in (validation, test):
        if basket:
            index = histories.baskets
            first, last = index.offsets[:-1], index.offsets[1:]
            target = np.where(held_out & (last > first), last - 1, last)
            time = None if histories.time is None else histories.time[index.event_offsets[:-1]]
            sides.append(basket_queries(index, time, target, last))
        elif every_event:
            sides.append(rolling_queries(histories, np.where(held_out, begin, end), end))
        else:
            asked = np.flatnonzero(held_out & (end - begin >= 2))
            cold = int(np.count_nonzero(held_out & (end - begin == 1)))
            sides.append((event_queries(histories, asked, end[asked] - 1), cold))
    (validation_queries, cold_validation), (test_queries, cold_test) = sides
    return new_split(
        histories,
        protocol=protocol,
        train_end=np.where(test | validation, begin, end),
        refit_end=np.where(test, begin, end),
        validation=validation_queries,
        test=test_queries,
        exclude_seen=exclude_seen,
        basket=basket,
        cold=(cold_validation, cold_test),
    )


def _check_folds(folds: int, least: int) -> None:
    if folds < least:
        raise ValueError(f"folds: wanted at least {least}, got {folds}")
