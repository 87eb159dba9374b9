"""Personal frequency: people take again what they took often and lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorec.artifact import Artifact
from chronorec.models.base import CountingModel
from chronorec.models.popularity import filler_bias

if TYPE_CHECKING:
    import numpy as np

    from chronorec.data.histories import Histories


class PersonalFrequency(CountingModel):
    """Score = sum over the user's own events of exp(-whole days since / decay_days); the rest by popularity.

    Weights below 1e-6 give way to popularity.

    Args:
        decay_days: time constant; None counts every event as 1.
    """

    def __init__(self, decay_days: float | None = None) -> None:
        self.decay_days = decay_days
        self.name = "personal frequency" + ("" if decay_days is None else f", {decay_days:g} days")

    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        if self.decay_days is not None:
            histories.require_time("personal frequency with time decay")
        return Artifact(
            name=self.name,
            items=histories.items,
            weights={"filler": filler_bias(histories, end)},
            bias="filler",
            adjustments=[{"kind": "frequency", "decay_days": self.decay_days}],
            basket=basket,
            exclude_seen=exclude_seen,
            needs_time=self.decay_days is not None,
        )
