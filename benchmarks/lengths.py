"""Lengths of real histories, without their data."""

from __future__ import annotations

import numpy as np

# Lengths of the histories of MovieLens-1M, cut at 200: the 0, 5, ... 100 percent quantiles.
MOVIELENS_QUANTILES = [20, 23, 27, 32, 38, 44, 51, 60, 70, 81, 96, 109, 126, 148, 173, *[200] * 6]


def movielens_lengths(sequences: int) -> list[int]:
    """A random batch of histories with the lengths of MovieLens-1M."""
    drawn = np.random.default_rng(1).uniform(0, len(MOVIELENS_QUANTILES) - 1, sequences)
    return [int(n) for n in np.interp(drawn, np.arange(len(MOVIELENS_QUANTILES)), MOVIELENS_QUANTILES)]
