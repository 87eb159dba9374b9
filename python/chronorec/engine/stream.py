"""The program of a model for one event after the other, with a state kept in place of the history."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chronorec import _core
from chronorec.artifact import Artifact
from chronorec.engine.event_types import MISSING
from chronorec.engine.history import Tokens
from chronorec.engine.precision import Precision, Precisions
from chronorec.engine.program import RECURRENT, Floats, Program


def stream_program(artifact: Artifact, precisions: Precisions) -> _core.Program | None:
    """The artifact's program as ``_core.Program``, or None where no state can be kept from event to event.

    It cannot where a token is a basket, which grows while it lasts; where the program sees the last events
    only, and the cut moves; and where the scores need more of the history than its state and its items.
    """
    if artifact.basket or artifact.adjustments or not artifact.program:
        return None
    weights = {name: np.ascontiguousarray(weight) for name, weight in artifact.weights.items()}
    steps, most = artifact.program, artifact.max_length
    return _core.Program.streaming(steps, weights, most, precisions.weights, precisions.states)


def offered_precisions(artifact: Artifact) -> list[Precisions]:
    """Precisions that a model has parts for: float32, each part shortened alone, and all of them."""
    states = stream_program(artifact, Precisions()) is not None
    weights = any(step.get("call") in RECURRENT for step in artifact.program)
    shortest: Precision
    offered = [Precisions()]
    for shortest in ("bfloat16", "int8"):
        offered += [Precisions(table=shortest)]
        offered += [Precisions(weights=shortest)] if weights else []
    offered += [Precisions(states="bfloat16")] if states else []
    for shortest in ("bfloat16", "int8"):
        every = Precisions(
            table=shortest,
            weights=shortest if weights else "float32",
            states="bfloat16" if states else "float32",
        )
        offered += [every] if every not in offered else []
    return offered


def runner_of(artifact: Artifact, precisions: Precisions, program: Program) -> Callable[[Tokens], Floats]:
    """What makes states [B, D] of the last tokens of histories, as sessions have them.

    That is the program itself, unless states are rounded: then they go event by event, as in sessions.

    Raises:
        ValueError: the model has nothing that could have such a precision.
    """
    if precisions.weights != "float32" and all(
        step.get("call") not in RECURRENT for step in artifact.program
    ):
        what = f"no recurrent layer that could be {precisions.weights}"
        raise ValueError(f"weights: {artifact.name} has {what}; wanted float32")
    if precisions.states == "float32":
        return program.run
    streaming = stream_program(artifact, precisions)
    if streaming is None:
        what = f"no state from event to event that could be {precisions.states}"
        raise ValueError(f"states: {artifact.name} keeps {what}; wanted float32")

    reads = {str(step.get("of")) for step in artifact.program}
    reads |= {"gap" for step in artifact.program if "time_table" in step}

    def run(tokens: Tokens) -> Floats:
        if reads & {"gap", "event", "wait"}:
            tokens.moments()  # raises where there are none, which the core would take for 0
        if reads & {"wait", "request"}:
            tokens.requests()
        answers = np.empty((len(tokens.offsets) - 1, program.width), np.float32)
        types = None if tokens.types is None else np.maximum(tokens.types, MISSING)  # unknown ones too
        given = (tokens.items, tokens.offsets, tokens.times, tokens.at, types, tokens.profile)
        streaming.replay(*given, answers)
        return answers

    return run
