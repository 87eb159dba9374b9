"""Whether one model's lead over another is more than the luck of which users were asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chronorec.evaluation.metrics import Floats

_DRAWS = 2000
_DRAWN_VALUES = 50_000_000  # bounds the time for millions of users; at least 200 draws are made
_SEEN_WITH = 1.96 + 0.84  # standard errors: two-sided test at 5 %, power 80 %


@dataclass(frozen=True)
class PairedDifference:
    """a - b, averaged over queries that both answered.

    Attributes:
        mean: over queries.
        low, high: 95 % of resampled sets of users lie between them; infinite with a single user.
        effect_size: the mean of the users' own mean differences over their standard deviation (Cohen's d for
            pairs); 0 where all users are equal.
        smallest_visible: the difference that a two-sided test at 5 % on as many users like these would see
            with a probability of 80 %.
        users: how many there are.
    """

    mean: float
    low: float
    high: float
    effect_size: float
    smallest_visible: float
    users: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Floats, b: Floats, user: npt.NDArray[np.integer], *, seed: int = 0
) -> PairedDifference:
    """Compares two models by drawing users with replacement (Efron and Tibshirani, 1993, chapter 13).

    Queries of one user are not independent, so users are drawn, each with all of its queries, and a draw's
    value is the mean over the queries drawn.

    Args:
        a, b: values of the same queries [Q].
        user: the user of each query [Q].
        seed: of the draws; the same seed draws the same users for every pair of models.
    """
    _, cluster = np.unique(user, return_inverse=True)
    sizes = np.bincount(cluster.reshape(-1)).astype(np.float64)
    sums: Floats = np.bincount(cluster.reshape(-1), weights=a - b).astype(np.float64)
    users, mean = len(sizes), float((a - b).mean())
    if users < 2:
        return PairedDifference(mean, -np.inf, np.inf, 0.0, np.inf, users)
    means = _resampled_means(sums, sizes, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    own = sums / sizes
    spread = float(own.std(ddof=1))
    return PairedDifference(
        mean=mean,
        low=low,
        high=high,
        effect_size=float(own.mean()) / spread if spread > 1e-9 * abs(mean) else 0.0,
        smallest_visible=_SEEN_WITH * float(means.std(ddof=1)),
        users=users,
    )


def _resampled_means(sums: Floats, sizes: Floats, rng: np.random.Generator) -> Floats:
    users = len(sizes)
    draws = max(200, min(_DRAWS, _DRAWN_VALUES // users))
    means = np.empty(draws)
    for draw in range(draws):
        drawn = rng.integers(0, users, users)
        means[draw] = sums[drawn].sum() / sizes[drawn].sum()
    return means
