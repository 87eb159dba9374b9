"""Rules of a request: what its answer may hold and in which order, beside the scores of the model."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MOST = 1e30  # sums of as many as anybody writes stay finite in float32


class Near(NamedTuple):
    """Everything within ``km`` of a point, in degrees."""

    latitude: float
    longitude: float
    km: float


@dataclass(frozen=True)
class Rules:
    """What an answer may hold and in which order. Columns are those of the model's item table.

    Filters first: an item is left if every one of them leaves it. Then boosts are added to the scores, the
    best are found, and these are put in order. Ids and values that no item has are skipped.

    Attributes:
        min_score: items that score less, boosts counted, are left out.
        available: only items with ``available_from`` <= time of the request < ``available_until`` (columns of
            times; a null is an open end).
        allow: column to values: only items that have one of them (a column may hold lists). Several columns
            must each agree.
        deny: column to values: no items that have one of them.
        near: only items whose columns ``latitude`` and ``longitude`` (degrees) are within a distance along
            the earth's surface.
        boost: (item, number added to its score).
        boost_category: (column, value, number added to the score of every item that has it).
        pin: (place from 1, item): it stands there, with its own score, if the filters and the request leave
            it; ``min_score`` does not apply. Where an answer is too short it stands at the end.
        diversity: from 0 to 1: how much an item's likeness to those above it (the largest cosine of their
            vectors) counts against its score (put between 0 and 1 over the pool): maximal marginal relevance
            with lambda = 1 - diversity.
        pool: how many of the best items, or k if that is more, ``diversity`` chooses from.
        behaviour: the items that are likely to come next by this behaviour, such as "buy": the logarithm of
            its probability, given the item, is added to the scores. Of models with a head of behaviours.
    """

    min_score: float | None = None
    available: bool = False
    allow: Mapping[str, Collection[Hashable]] = field(default_factory=dict)
    deny: Mapping[str, Collection[Hashable]] = field(default_factory=dict)
    near: Near | None = None
    boost: Sequence[tuple[Hashable, float]] = ()
    boost_category: Sequence[tuple[str, Hashable, float]] = ()
    pin: Sequence[tuple[int, Hashable]] = ()
    diversity: float = 0.0
    pool: int = 100
    behaviour: str | None = None

    def __post_init__(self) -> None:
        if self.min_score is not None:
            _check_number("min_score", self.min_score, -_MOST, _MOST)
        for name in ("allow", "deny"):
            for column, values in getattr(self, name).items():
                if isinstance(values, (str, bytes)) or not isinstance(values, Collection):
                    raise TypeError(f"{name}: wanted a list of values of column {column!r}, got {values!r}")
        if self.near is not None:
            latitude, longitude, km = self.near
            _check_number("near.latitude", latitude, -90, 90)
            _check_number("near.longitude", longitude, -180, 180)
            _check_number("near.km", km, 0, _MOST)
        for name, size in (("boost", 2), ("boost_category", 3), ("pin", 2)):
            for entry in getattr(self, name):
                if isinstance(entry, str) or len(entry) != size:
                    raise ValueError(f"{name}: wanted entries of {size}, got {entry!r}")
        for entry in (*self.boost, *self.boost_category):
            _check_number("boost", entry[-1], -_MOST, _MOST)
        places, pinned = [place for place, _ in self.pin], [item for _, item in self.pin]
        if not all(_is_count(place) for place in places) or len(set(places)) < len(places):
            raise ValueError(f"pin: wanted different places, whole numbers from 1, got {places}")
        if len(set(pinned)) < len(pinned):
            raise ValueError(f"pin: wanted each item once, got {pinned}")
        _check_number("diversity", self.diversity, 0, 1)
        if not _is_count(self.pool):
            raise ValueError(f"pool: wanted a whole number from 1, got {self.pool!r}")

    @property
    def arranges(self) -> bool:
        """Whether the order is not just that of the scores, or ends early."""
        return self.min_score is not None or bool(self.pin) or self.diversity > 0


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(f"{name}: wanted a number from {least} to {most}, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
