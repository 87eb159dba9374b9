"""From the [split] section of a configuration to a split, and from one section to those of several folds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from chronorec.data.folds import month_cuts, quantile_cuts, quantile_time, user_folds, user_split
from chronorec.data.splits import Split, format_time, leave_one_out, temporal_basket, temporal_event
from chronorec.training.config import ConfigError, SplitConfig

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

FOLD_KINDS = "months:5, quantiles:5 or users:5"


def make_split(config: SplitConfig, histories: Histories) -> Split:
    """The split that a configuration names.

    Raises:
        ConfigError: a cut is missing, or the split leaves nothing to train on, to validate on or to test on.
    """
    split = _make_split(config, histories)
    where = f"under split.protocol = {config.protocol!r}"
    if config.protocol.startswith("temporal"):
        where += f" with split.validation_cut = {config.validation_cut!r} and split.cut = {config.cut!r}"
    if int((split.train_end - split.begin).max(initial=0)) < 2:
        raise ConfigError(f"no user has two training events {where}")
    for part, queries in (("validation", split.validation), ("test", split.test)):
        if len(queries) == 0:
            raise ConfigError(f"no user has both a past and a {part} target {where}")
    return split


def _make_split(config: SplitConfig, histories: Histories) -> Split:
    basket = config.protocol.endswith("basket")
    if basket and config.exclude_seen:
        raise ConfigError("split.exclude_seen: next baskets repeat earlier items; set it to false")
    if config.protocol == "leave-one-out":
        return leave_one_out(histories, exclude_seen=config.exclude_seen)
    if config.protocol == "given-users":
        return _given_users(config, histories)
    if config.protocol.startswith("user-fold"):
        if config.fold > config.folds:
            raise ConfigError(f"split.fold: wanted 1 to split.folds = {config.folds}, got {config.fold}")
        folds = user_folds(
            histories,
            config.folds,
            seed=config.fold_seed,
            basket=basket,
            exclude_seen=config.exclude_seen,
        )
        return folds[config.fold - 1]
    if not config.cut or not config.validation_cut:
        raise ConfigError(
            f"split.protocol {config.protocol!r} needs split.cut and split.validation_cut, such as "
            "--set split.cut=2017-12-01 --set split.validation_cut=2017-11-01, or 90% and 80% of the events"
        )
    make = temporal_basket if basket else temporal_event
    return make(
        histories,
        _cut(config.cut, histories),
        validation_cut=_cut(config.validation_cut, histories),
        end=_cut(config.end, histories) if config.end else None,
        exclude_seen=config.exclude_seen,
    )


def _cut(text: str, histories: Histories) -> str | int:
    """A cut as it stands, or the time at "90%" of the events."""
    if not text.endswith("%"):
        return text
    try:
        return quantile_time(histories, float(text[:-1]) / 100)
    except ValueError as error:
        raise ConfigError(f"split.cut {text!r}: {error}") from error


def _given_users(config: SplitConfig, histories: Histories) -> Split:
    """The users' column ``split`` says who trains and who tests; without "validation" there a tenth of those
    who train validate instead, drawn by ``fold_seed``.
    """
    if "split" not in histories.users.column_names:
        raise ConfigError("split.protocol 'given-users' needs a column 'split' in the user table")
    given = np.array(histories.users.column("split").to_pylist(), dtype=object)
    validation = given == "validation"
    if not validation.any():
        drawn = np.random.default_rng(config.fold_seed).random(len(given)) < 0.1
        validation = (given == "train") & drawn
    return user_split(
        histories,
        test=given == "test",
        validation=validation,
        protocol="given users",
        every_event=True,
        exclude_seen=config.exclude_seen,
    )


def fold_configs(config: SplitConfig, folds: str, histories: Histories) -> list[SplitConfig]:
    """One [split] section per fold; each makes a split of its own by :func:`make_split`.

    Args:
        config: says next event or next basket, and ``exclude_seen``; with months also the last ``cut``.
        folds: "months:5", monthly cuts up to ``cut``; "quantiles:5", cuts that divide the last half of the
            events; "users:5", k-fold over users.

    Raises:
        ConfigError: ``folds`` is none of these, or the last cut is missing.
    """
    kind, _, count = folds.partition(":")
    if kind not in ("months", "quantiles", "users") or not count.isdigit():
        raise ConfigError(f"folds: wanted {FOLD_KINDS}, got {folds!r}")
    number, basket = int(count), config.protocol.endswith("basket")
    what = "basket" if basket else "event"
    if kind == "users":
        protocol = f"user-fold-{what}"
        changes = [{"protocol": protocol, "folds": number, "fold": fold + 1} for fold in range(number)]
        plain = dataclasses.replace(config, cut="", validation_cut="", end="")
        return [dataclasses.replace(plain, **change) for change in changes]  # type: ignore[arg-type]
    if kind == "months" and not config.cut:
        raise ConfigError("folds: months need the last cut, such as --set split.cut=2017-12-01")
    cuts = month_cuts(config.cut, number) if kind == "months" else quantile_cuts(histories, number)
    times = [*map(format_time, cuts), *([""] if kind == "quantiles" else [])]
    return [
        dataclasses.replace(config, protocol=f"temporal-{what}", validation_cut=before, cut=cut, end=after)  # type: ignore[arg-type]
        for before, cut, after in zip(times, times[1:], times[2:], strict=False)
    ]
