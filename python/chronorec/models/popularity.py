"""Popularity: what most people took, lately or ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronorec.artifact import Artifact
from chronorec.data.counts import event_counts
from chronorec.models.base import CountingModel

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

def filler_bias(histories: Histories, end: np.ndarray) -> np.ndarray:
    """float32 [V] in [0, 1e-6]: ranks by popularity what an adjustment left unscored, and breaks its ties."""
    counts = event_counts(histories, histories.offsets[:-1], end)
    return np.divide(1e-6 * counts, max(counts.max(initial=0), 1), dtype=np.float32)


class Popularity(CountingModel):
    """Events per item among the counted ones.

    Args:
        days: only the last so many days before the newest counted event; None counts all.
    """

    def __init__(self, days: float | None = None) -> None:
        self.days = days
        self.name = "popularity" if days is None else f"popularity, {days:g} days"

    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        counts = event_counts(histories, histories.offsets[:-1], end, self.days)
        return Artifact(
            name=self.name,
            items=histories.items,
            weights={"popularity": counts.astype(np.float32)},
            bias="popularity",
            basket=basket,
            exclude_seen=exclude_seen,
        )
