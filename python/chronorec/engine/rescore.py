"""A second stage over the best items of the first: the adjustment ``rescore``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s
from chronorec.engine.adjust import Additions
from chronorec.engine.history import Tokens
from chronorec.engine.program import Floats, weight_of

Gains = npt.NDArray[np.float64]


class Rescore:
    """What the candidates of a first stage gain by attention to the history; arithmetic in float32.

    Attributes:
        count: how many candidates.

    Raises:
        ArtifactError: a weight is missing or of the wrong shape, or ``count`` is no number from 1.
    """

    def __init__(self, artifact: Artifact, spec: dict[str, Any], width: int) -> None:
        name, count = spec.get("weights"), spec.get("count")
        if not isinstance(count, int) or count < 1:
            raise ArtifactError(
                f"{artifact.name}: rescore: count: wanted a whole number from 1, got {count!r}"
            )
        if artifact.table is None:
            raise ArtifactError(f"{artifact.name}: rescore: wanted a model with item vectors, got none")
        self.count = count
        self._table = artifact.weights[artifact.table]
        self._candidate, self._history = (
            (
                weight_of(artifact, f"{name}.{part}.weight", (2 * width, width)),
                weight_of(artifact, f"{name}.{part}.bias", (2 * width,)),
            )
            for part in ("candidate", "history")
        )
        self._rank = weight_of(artifact, f"{name}.rank", (None,))

    def adjust(self, tokens: Tokens, codes: Int32s, scores: Floats) -> Additions:
        """What is added to the scores of the candidates.

        Where gains are losses all candidates rise alike, so that none falls behind what was no candidate.

        Args:
            codes, scores: [B, C], of the first stage, best first.
        """
        added = np.stack([self._gains(tokens, row, codes[row]) for row in range(len(codes))])
        together = scores.astype(np.float64) + added
        added += np.maximum(scores[:, -1:] - together.min(axis=1, keepdims=True), 0)
        keys = np.arange(len(codes))[:, None] * len(self._table) + codes
        return Additions(keys.reshape(-1), added.reshape(-1))

    def _gains(self, tokens: Tokens, row: int, codes: Int32s) -> Gains:
        last = int(tokens.offsets[row + 1])
        first = max(int(tokens.offsets[row]), last - len(self._rank))
        if first == last:
            return np.zeros(len(codes))
        bags = np.arange(last + 1) if tokens.bag_offsets is None else tokens.bag_offsets
        items = tokens.items[bags[first] : bags[last]]
        ago = np.repeat(np.arange(last - first)[::-1], np.diff(bags[first : last + 1]))
        query, output = self._project(self._candidate, codes)
        key, value = self._project(self._history, items)
        scale = np.float32(query.shape[1] ** -0.5)
        scores = query @ key.T * scale + self._rank[ago]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        gains = (weights * (output @ value.T)).sum(axis=1) / weights.sum(axis=1) * scale
        added: Gains = gains.astype(np.float64)
        return added

    def _project(self, layer: tuple[Floats, Floats], codes: Int32s) -> tuple[Floats, Floats]:
        weight, bias = layer
        both = self._table[codes] * np.float32(weight.shape[1] ** 0.5) @ weight.T + bias
        return both[:, : weight.shape[1]], both[:, weight.shape[1] :]


def rescores(artifact: Artifact, width: int) -> list[Rescore]:
    """The second stages of a model whose states have ``width`` columns."""
    return [Rescore(artifact, spec, width) for spec in artifact.adjustments if spec["kind"] == "rescore"]


def first_stage(artifact: Artifact) -> tuple[Artifact, int] | None:
    """The model without its second stage, and how many candidates that takes; None where it has none."""
    counts = [spec["count"] for spec in artifact.adjustments if spec["kind"] == "rescore"]
    left = [spec for spec in artifact.adjustments if spec["kind"] != "rescore"]
    return (replace(artifact, adjustments=left), counts[0]) if counts else None
