"""The paired bootstrap over users keeps its promises on data with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from chronorec.evaluation import paired_bootstrap


def test_equals_the_normal_limit_for_independent_users() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(400), rng.random(400)
    found = paired_bootstrap(a, b, np.arange(400))
    error = (a - b).std(ddof=1) / 20
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert found.smallest_visible == pytest.approx(2.8 * error, rel=0.1)
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert found.users == 400


def test_repeating_every_query_tells_nothing_new() -> None:
    rng = np.random.default_rng(3)
    a, b, user = rng.random(300), rng.random(300), np.arange(300)
    once = paired_bootstrap(a, b, user)
    repeated = paired_bootstrap(*(np.repeat(x, 7) for x in (a, b, user)))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert repeated.smallest_visible == pytest.approx(once.smallest_visible)


def test_users_weigh_as_their_queries() -> None:
    user = np.array([7, 7, 7, 2])
    assert paired_bootstrap(np.array([1.0, 1, 1, 0]), np.zeros(4), user).mean == 0.75


def test_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    covered = 0
    for seed in range(200):
        own = rng.normal(0.1, 1.0, 60)[users]
        found = paired_bootstrap(own + rng.normal(0, 0.5, len(users)), np.zeros(len(users)), users, seed=seed)
        covered += found.low <= 0.1 <= found.high
    assert 178 <= covered <= 199


def test_sees_the_smallest_visible_difference_four_times_in_five() -> None:
    rng = np.random.default_rng(5)
    user, zeros = np.arange(100), np.zeros(100)
    lead = paired_bootstrap(rng.normal(0, 1, 100), zeros, user).smallest_visible
    seen = sum(paired_bootstrap(rng.normal(lead, 1, 100), zeros, user, seed=s).low > 0 for s in range(200))
    assert 0.68 <= seen / 200 <= 0.92


def test_one_user_proves_nothing() -> None:
    found = paired_bootstrap(np.ones(5), np.zeros(5), np.zeros(5, int))
    assert (found.mean, found.low, found.high) == (1.0, -np.inf, np.inf)
    assert not found.clear


def test_is_repeatable() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(50), rng.random(50)
    assert paired_bootstrap(a, b, np.arange(50)) == paired_bootstrap(a, b, np.arange(50))
    assert paired_bootstrap(a, b, np.arange(50)) != paired_bootstrap(a, b, np.arange(50), seed=1)
