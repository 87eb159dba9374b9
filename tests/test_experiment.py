"""Lift of an experiment: right on average, covered by its interval, and refused where shares are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chronorec.engine.experiment import EXPOSURES, Experiment
from chronorec.evaluation.experiment import compare_variants

SHARES = {"old": 3.0, "new": 1.0}


def simulate(seed: int, users: int, effect: float, loss: float = 0.0) -> tuple[pa.Table, pa.Table]:
    """Users shown by hash; buying with 10 %, of "new" times 1 + effect; a share of "new" never gets there."""
    rng = np.random.default_rng(seed)
    experiment = Experiment(f"e{seed}", SHARES)
    shown: dict[str, list[Any]] = {name: [] for name in EXPOSURES.names}
    bought: dict[str, list[Any]] = {"user": [], "at": [], "value": []}
    for user in map(str, range(users)):
        variant = experiment.variant(user)
        if variant == "new" and rng.random() < loss:
            continue
        for at in (100, 200):  # seen twice
            for name, value in zip(EXPOSURES.names, ("e", user, variant, at), strict=True):
                shown[name].append(value)
        if rng.random() < 0.1 * (1 + effect * (variant == "new")):
            bought["user"] += [user, user]
            bought["at"] += [50, 150]  # the first came before the exposure
            bought["value"] += [1000.0, 2.0]
    outcomes = pa.table({**bought, "at": pa.array(bought["at"], pa.timestamp("us", "UTC"))})
    return pa.table(shown, schema=EXPOSURES), outcomes


def run(exposures: pa.Table, outcomes: pa.Table, **how: Any) -> Any:
    given = {"experiment": "e", "control": "old", "shares": SHARES, **how}
    return compare_variants(exposures, outcomes, **given)


def test_lift_is_covered() -> None:
    covered = []
    for seed in range(40):
        old, new = run(*simulate(seed, 4000, 0.3)).variants
        assert (old.name, old.lift, new.name) == ("old", None, "new")
        assert abs(old.mean - 2 * old.conversion) < 1e-9  # the outcome before the exposure does not count
        covered.append(new.low <= 0.3 <= new.high)
    assert np.mean(covered) >= 0.85


def test_lost_users_are_noticed() -> None:
    assert not run(*simulate(0, 4000, 0.0)).mismatch
    result = run(*simulate(0, 4000, 0.0, loss=0.2))
    assert result.mismatch
    assert "DO NOT TRUST THIS: users fall" in result.lines()


def test_users_of_several_variants_are_left_out() -> None:
    exposures, outcomes = simulate(0, 200, 0.0)
    more = pa.table([["e", "e"], ["3", "3"], ["old", "new"], [1, 2]], schema=EXPOSURES)
    result = run(pa.concat_tables([exposures, more]), outcomes)
    assert result.mixed_users == 1
    assert sum(one.users for one in result.variants) == 199
    assert "1 users saw several variants" in result.lines()


def test_refusals() -> None:
    exposures, outcomes = simulate(0, 50, 0.0)
    with pytest.raises(ValueError, match="control: wanted one of old, new, got 'x'"):
        run(exposures, outcomes, control="x")
    with pytest.raises(ValueError, match="none of experiment 'f'"):
        run(exposures, outcomes, experiment="f")
    with pytest.raises(ValueError, match="got none for"):
        run(exposures, outcomes, shares={"old": 1.0})


def test_nothing_bought_has_no_lift() -> None:
    exposures, outcomes = simulate(0, 50, 0.0)
    result = run(exposures, outcomes.slice(0, 0))
    assert [one.lift for one in result.variants] == [None, None]
    assert result.lines().count("\n") == 2
