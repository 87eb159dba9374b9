"""The program of a model for one event after the other, with a state kept in place of the history."""

from __future__ import annotations

import numpy as np

from chronorec import _core
from chronorec.artifact import Artifact


def stream_program(artifact: Artifact) -> _core.Program | None:
    """The artifact's program as ``_core.Program``, or None where no state can be kept from event to event.

    It cannot where a token is a basket, which grows while it lasts; where the program sees the last events
    only, and the cut moves; and where the scores need more of the history than its state and its items.
    """
    if artifact.basket or artifact.adjustments or not artifact.program:
        return None
    weights = {name: np.ascontiguousarray(weight) for name, weight in artifact.weights.items()}
    return _core.Program.streaming(artifact.program, weights, artifact.max_length)
