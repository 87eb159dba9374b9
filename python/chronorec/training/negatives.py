"""Negatives of the sampled loss: drawn by popularity, a pure function of (seed, step)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class NegativeSampler:
    """Draws items with replacement, with probability q(v) proportional to (count(v) + 1) ** exponent.

    Args:
        counts: training events per item, [V].
        exponent: 1 follows popularity, 0 is uniform (Mikolov et al., 2013, take 0.75).
        seed: together with the step it determines every draw.
    """

    def __init__(self, counts: npt.NDArray[Any], exponent: float, seed: int) -> None:
        weights = (counts + 1.0) ** exponent
        self.probability = weights / weights.sum()
        self.cumulative = np.cumsum(self.probability)
        self.cumulative[-1] = 1.0
        self.seed = seed

    def draw(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Items int64 [count], and the log of how often each is expected among them, float32 [count]."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, step]))
        items = np.searchsorted(self.cumulative, generator.random(count), side="right")
        log_expected = np.log(count * self.probability[items])
        return torch.from_numpy(items.astype(np.int64)), torch.from_numpy(log_expected.astype(np.float32))
