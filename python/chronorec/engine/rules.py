"""Rules of a request: what its answer may hold and in which order, beside the scores of the model."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MOST = 1e30  # sums of as many as anybody writes stay finite in float32
_MOST_NEAR = (90, 180, _MOST)


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
            _check_categories(name, getattr(self, name))
        if self.near is not None:
            for part, value, most in zip(Near._fields, _parts("near", self.near, 3), _MOST_NEAR, strict=True):
                _check_number(f"near.{part}", value, 0 if part == "km" else -most, most)
        for name, size in (("boost", 2), ("boost_category", 3), ("pin", 2)):
            entries = getattr(self, name)
            if isinstance(entries, (str, bytes)) or not isinstance(entries, Sequence):
                raise TypeError(f"{name}: wanted a list of entries of {size}, got {entries!r}")
            for entry in entries:
                number = _parts(name, entry, size)[-1]
                _check_hashable(name, *entry)
                if name != "pin":
                    _check_number(name, number, -_MOST, _MOST)
        for column, *_ in self.boost_category:
            _check_column("boost_category", column)
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


def _check_categories(name: str, categories: Any) -> None:
    if not isinstance(categories, Mapping):
        raise TypeError(f"{name}: wanted columns with lists of their values, got {categories!r}")
    for column, values in categories.items():
        _check_column(name, column)
        if isinstance(values, (str, bytes)) or not isinstance(values, Collection):
            raise TypeError(f"{name}: wanted a list of values of column {column!r}, got {values!r}")
        _check_hashable(name, *values)


def _check_column(name: str, column: Any) -> None:
    if not isinstance(column, str):
        raise TypeError(f"{name}: wanted the name of a column, got {column!r}")


def _check_hashable(name: str, *values: Any) -> None:
    for value in values:
        if not isinstance(value, Hashable):
            raise TypeError(f"{name}: wanted plain values, got {value!r}")


def _parts(name: str, entry: Any, size: int) -> Sequence[Any]:
    """The parts of an entry, if there are ``size``."""
    if isinstance(entry, (str, bytes)) or not isinstance(entry, Sequence) or len(entry) != size:
        raise ValueError(f"{name}: wanted entries of {size}, got {entry!r}")
    return entry


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(f"{name}: wanted a number from {least} to {most}, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
