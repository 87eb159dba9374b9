"""The program of a model for one event after the other, with a state kept in place of the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chronorec import _core
from chronorec.artifact import WHOLE_HISTORY, Artifact
from chronorec.engine.program import ACTIVATIONS, Floats, pack_panels, pack_recurrent, weight_of


def stream_program(artifact: Artifact) -> _core.Program | None:
    """The artifact's program as ``_core.Program``, or None where no state can be kept from event to event.

    It cannot where a token is a basket, which grows while it lasts; where the program sees the last events
    only, and the cut moves; and where the scores need more of the history than its state and its items.
    """
    if artifact.basket or artifact.adjustments or not artifact.program:
        return None
    if not all(_goes_on(step) for step in artifact.program):
        return None
    if artifact.max_length < _memory_of(artifact.program):
        return None
    program, registers = _core.Program(), dict[str, int]()
    for step in artifact.program:
        registers[step["out"]] = _CALLS[step["call"]](_Call(artifact, program, step, registers))
    return program


def _goes_on(step: dict[str, Any]) -> bool:
    """Whether a step can be taken for an event without looking at the others again."""
    absolute = step["call"] == "embed" and "position" in step
    return step["call"] in _CALLS and bool(step.get("causal", True)) and not absolute


def _memory_of(program: list[dict[str, Any]]) -> int:
    """How many of the last events a state depends on."""
    if any(step["call"] in _CELLS for step in program):
        return WHOLE_HISTORY
    windows: list[int] = [
        step.get("window", WHOLE_HISTORY) for step in program if step["call"] == "attention"
    ]
    before = any(step.get("of") == "gap" for step in program)  # a gap asks for one event more
    return min(1 + sum(window - 1 for window in windows) + before, WHOLE_HISTORY)


class _Call:
    """One step of a program that :class:`chronorec.engine.program.Program` has checked."""

    def __init__(
        self, artifact: Artifact, program: _core.Program, step: dict[str, Any], registers: dict[str, int]
    ) -> None:
        self.artifact, self.program, self.step, self.registers = artifact, program, step, registers

    @property
    def source(self) -> int:
        return self.registers[self.step["in"]]

    def vector(self, key: str) -> Floats:
        return weight_of(self.artifact, self.step[key], (None,))

    def matrix(self, key: str) -> Floats:
        return weight_of(self.artifact, self.step[key], (None, None))

    def embed(self) -> int:
        return self.program.embed(self.matrix("table"), self.step["scale"])

    def layer_norm(self) -> int:
        weight, bias = self.vector("weight"), self.vector("bias")
        return self.program.layer_norm(self.source, weight, bias, self.step["epsilon"])

    def dense(self) -> int:
        residual = self.registers[self.step["residual"]] if "residual" in self.step else -1
        activation = ACTIVATIONS[self.step.get("activation", "none")]
        packed, bias = pack_panels(self.matrix("weight")), self.vector("bias")
        return self.program.dense(self.source, packed, bias, residual, activation)

    def recurrent(self) -> int:
        kind, hidden_size = self.step["call"], self.matrix("weight_hh").shape[1]
        matrices = self.matrix("weight_ih"), self.matrix("weight_hh")
        packed = pack_recurrent(kind, *matrices, self.vector("bias_ih"), self.vector("bias_hh"))
        return self.program.recurrent(kind, self.source, *packed, hidden_size)

    def attention(self) -> int:
        heads, width = self.step["heads"], self.program.width_of(self.source) // 3
        position, time_table = (
            self.matrix(key) if key in self.step else None for key in ("position", "time_table")
        )
        boundaries = None if time_table is None else self.vector("time_boundaries")
        silu, divisor = self.step.get("activation", "softmax") == "silu", float(self.step.get("divisor", 1.0))
        form = (heads, self.step["window"], (width // heads) ** -0.5, silu, divisor)
        return self.program.attention(self.source, *form, position, boundaries, time_table)

    def multiply(self) -> int:
        residual = self.registers[self.step["residual"]] if "residual" in self.step else -1
        return self.program.multiply(self.source, self.registers[self.step["by"]], residual)

    def add_time(self) -> int:
        table = self.matrix("table")
        if self.step["of"] in ("gap", "wait"):
            return self.program.add_gap(self.source, table, self.vector("boundaries"))
        starts, shifts = (
            weight_of(self.artifact, f"{self.step['zone']}_{name}", (None,), np.int64)
            for name in ("starts", "shifts")
        )
        return self.program.add_moment(self.source, table, self.step["period"], starts, shifts)

    def last(self) -> int:
        return self.program.last(self.source)


_CELLS = ("gru", "lstm", "rnn")
_CALLS: dict[str, Callable[[_Call], int]] = {
    "embed": _Call.embed,
    "layer_norm": _Call.layer_norm,
    "dense": _Call.dense,
    **dict.fromkeys(_CELLS, _Call.recurrent),
    "attention": _Call.attention,
    "multiply": _Call.multiply,
    "add_time": _Call.add_time,
    "last": _Call.last,
}
