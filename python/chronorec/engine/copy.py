"""The items of a history weigh more: the adjustment ``copy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s, Int64s, offsets_of, ranges, row_of_values
from chronorec.engine.history import Tokens
from chronorec.engine.program import Floats, weight_of

_DAY = 86_400_000_000  # microseconds
_TABLES = ("item", "rank", "follow", "count")
_TIMED = ("gap", "daily", "weekly", "recency")
#: Scores of item lists: (items, offsets [B + 1]) -> float32, one per item.
Score = Callable[[Int32s, Int64s], Floats]


class CopyHead:
    """The weights of a history's items, added to what exp(score) of these items is.

    Raises:
        ArtifactError: a weight is missing or of the wrong shape.
    """

    def __init__(self, artifact: Artifact, spec: dict[str, Any], width: int) -> None:
        name = spec.get("weights")
        self.timed = bool(spec.get("timed"))
        self.gate = weight_of(artifact, f"{name}.gate.weight", (1, width))[0]
        self.gate_bias = weight_of(artifact, f"{name}.gate.bias", (1,))[0]
        shapes: dict[str, int | None] = dict.fromkeys(_TABLES + (_TIMED if self.timed else ()))
        shapes |= {"item": artifact.num_items, "follow": 3}
        scale = spec.get("scale")
        if not isinstance(scale, (int, float)):
            raise ArtifactError(f"{artifact.name}: {name}: scale: wanted a number, got {scale!r}")
        self.tables = {
            table: np.float32(scale) * weight_of(artifact, f"{name}.{table}", (size, 1))[:, 0]
            for table, size in shapes.items()
        }
        if self.timed:
            gaps = len(self.tables["gap"])
            if len(self.tables["recency"]) != gaps or len(self.tables["weekly"]) < 5:
                raise ArtifactError(f"{artifact.name}: {name}: wanted {gaps} rows of recency and 5 of weekly")
            self.boundaries = weight_of(artifact, f"{name}.boundaries", (gaps - 1,))

    def adjust(
        self, tokens: Tokens, num_items: int, states: Floats, score: Score
    ) -> tuple[Int64s, npt.NDArray[np.float64]]:
        """Keys row * V + item of the histories' items, and what is added to their scores."""
        token, occurrence_offsets = _occurrences(tokens)
        rows = row_of_values(occurrence_offsets)
        values = self._values(tokens, token, rows)
        keys, group, counts = np.unique(
            rows * num_items + tokens.items, return_inverse=True, return_counts=True
        )
        group = group.reshape(-1)
        sums = np.bincount(group, weights=np.exp(values), minlength=len(keys))
        row, items = keys // num_items, (keys % num_items).astype(np.int32)
        weights = np.log(sums) + (states @ self.gate + self.gate_bias)[row] + self.tables["item"][items]
        weights += self._entry("count", counts - 1)
        if self.timed:
            latest = np.full(len(keys), np.iinfo(np.int64).max)
            np.minimum.at(latest, group, self._gaps(tokens, token, rows))
            weights += self._entry("recency", self._bucket(latest))
        own = score(items, offsets_of(np.bincount(row, minlength=len(states)))).astype(np.float64)
        return keys, np.logaddexp(own, weights) - own

    def _values(self, tokens: Tokens, token: Int64s, rows: Int64s) -> npt.NDArray[np.float64]:
        """What every occurrence brings, as a logarithm."""
        last = tokens.offsets[1:][rows] - 1
        values = self._entry("rank", last - token).astype(np.float64)
        if tokens.bag_offsets is None:
            begin, items = tokens.offsets[:-1][rows], tokens.items
            one = (token > begin) & (items[token - 1] == items[last])
            two = one & (token - 1 > begin) & (items[np.maximum(token - 2, 0)] == items[last - 1])
            values += self.tables["follow"][one.astype(np.int64) + two]
        if self.timed:
            gap = self._gaps(tokens, token, rows)
            values += self._entry("gap", self._bucket(gap))
            values += self._entry("daily", _distance(gap, _DAY) * 48 // _DAY)
            values += self._entry("weekly", (_distance(gap, 7 * _DAY) + _DAY // 2) // _DAY)
        return values

    def _gaps(self, tokens: Tokens, token: Int64s, rows: Int64s) -> Int64s:
        return tokens.requests()[rows] - tokens.moments()[token]

    def _entry(self, table: str, places: Int64s) -> Floats:
        """Entries of a table, of which the last counts for all that lies behind it."""
        values = self.tables[table]
        return values[np.minimum(places, len(values) - 1)]

    def _bucket(self, gaps: Int64s) -> Int64s:
        return np.searchsorted(self.boundaries, gaps.astype(np.float32), side="right")


def _occurrences(tokens: Tokens) -> tuple[Int64s, Int64s]:
    """The token of every item, and the offsets of the histories in the items."""
    if tokens.bag_offsets is None:
        return ranges(tokens.offsets[:-1], np.diff(tokens.offsets)), tokens.offsets
    return row_of_values(tokens.bag_offsets), tokens.bag_offsets[tokens.offsets]


def _distance(gap: Int64s, period: int) -> Int64s:
    """To the nearest multiple of a period."""
    rest = gap % period
    return np.minimum(rest, period - rest)
