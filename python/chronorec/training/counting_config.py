"""Configuration of the models that are counted, and of numbers with limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar


def limited(default: Any, least: float, most: float = math.inf) -> Any:
    """A number that must lie in [least, most]."""
    return field(default=default, metadata={"limits": (least, most)})


@dataclass(frozen=True)
class PopularityConfig:
    """See :class:`chronorec.models.Popularity`; ``days = 0`` counts all events."""

    kind: ClassVar[str] = "popularity"
    days: float = limited(0.0, 0)


@dataclass(frozen=True)
class PersonalFrequencyConfig:
    """See :class:`chronorec.models.PersonalFrequency`; 0 days weigh all events alike, 0 hours all hours."""

    kind: ClassVar[str] = "personal-frequency"
    decay_days: float = limited(0.0, 0)
    hour_width: float = limited(0.0, 0)
    transition_weight: float = limited(0.0, 0)


@dataclass(frozen=True)
class MarkovConfig:
    """See :class:`chronorec.models.Markov`."""

    kind: ClassVar[str] = "markov"
    max_successors: int = limited(500, 1)


@dataclass(frozen=True)
class UserNeighboursConfig:
    """See :class:`chronorec.models.UserNeighbours`; ``decay_days = 0`` weighs all events alike."""

    kind: ClassVar[str] = "user-neighbours"
    decay_days: float = limited(0.0, 0)
    count: int = limited(200, 1)
    share: float = limited(0.5, 0, 1)


CountingConfig = PopularityConfig | PersonalFrequencyConfig | MarkovConfig | UserNeighboursConfig
