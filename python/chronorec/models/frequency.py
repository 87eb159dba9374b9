"""Personal frequency: people take again what they took often, lately, and at this hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorec.artifact import Artifact
from chronorec.models.base import CountingModel
from chronorec.models.popularity import filler_bias

if TYPE_CHECKING:
    import numpy as np

    from chronorec.data.histories import Histories


class PersonalFrequency(CountingModel):
    """Score = the sum of the weights of the user's own events of an item; the rest by popularity.

    The weight of an event is exp(-whole days since / decay_days), times a Gaussian of the distance between
    its time of day and that of the request, times 1 + transition_weight if it came right after an earlier
    event of the item that the user took last (a Markov chain of the user's own). Weights below 1e-6 give way
    to popularity.

    Args:
        decay_days: time constant; None counts every event as 1.
        hour_width: standard deviation of the Gaussian in hours; None asks no hour.
        transition_weight: of what followed the last item before; only for next events.
    """

    def __init__(
        self,
        decay_days: float | None = None,
        hour_width: float | None = None,
        transition_weight: float = 0.0,
    ) -> None:
        self.decay_days = decay_days
        self.hour_width = hour_width
        self.transition_weight = transition_weight
        settings = [
            *([] if decay_days is None else [f"{decay_days:g} days"]),
            *([] if hour_width is None else [f"{hour_width:g} hours"]),
            *([f"own transitions x {transition_weight:g}"] if transition_weight else []),
        ]
        kind = "personal frequency" if hour_width is None else "personal frequency by hour"
        self.name = ", ".join([kind, *settings])

    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        needs_time = self.decay_days is not None or self.hour_width is not None
        if needs_time:
            histories.require_time("personal frequency with time decay or hours")
        if basket and self.transition_weight:
            raise ValueError("transition_weight: events of a basket have no order; wanted 0")
        return Artifact(
            name=self.name,
            items=histories.items,
            weights={"filler": filler_bias(histories, end)},
            bias="filler",
            adjustments=[
                {
                    "kind": "frequency",
                    "decay_days": self.decay_days,
                    "hour_width": self.hour_width,
                    "transition_weight": self.transition_weight,
                }
            ],
            basket=basket,
            exclude_seen=exclude_seen,
            needs_time=needs_time,
        )
