"""The program of a model for one event after the other, with a state kept in place of the history."""

from __future__ import annotations

from typing import Any

from chronorec import _core
from chronorec.artifact import WHOLE_HISTORY, Artifact
from chronorec.engine.program import ACTIVATIONS, Floats, pack_panels, pack_recurrent, weight_of


def stream_program(artifact: Artifact) -> _core.Program | None:
    """The artifact's program as ``_core.Program``, or None where no state can be kept from event to event.

    It cannot where a token is a basket, which grows while it lasts; where the program sees the last events
    only, and the cut moves; and where the scores need more of the history than its state and its items.
    """
    if artifact.basket or artifact.adjustments or artifact.max_length < WHOLE_HISTORY:
        return None
    if not artifact.program or any(step["call"] not in _CALLS for step in artifact.program):
        return None
    program, registers = _core.Program(), dict[str, int]()
    for step in artifact.program:
        registers[step["out"]] = _CALLS[step["call"]](_Call(artifact, program, step, registers))
    return program


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

    def gru(self) -> int:
        hidden_size = self.matrix("weight_hh").shape[1]
        packed = pack_recurrent(
            "gru",
            self.matrix("weight_ih"),
            self.matrix("weight_hh"),
            self.vector("bias_ih"),
            self.vector("bias_hh"),
        )
        return self.program.gru(self.source, *packed, hidden_size)

    def last(self) -> int:
        return self.program.last(self.source)


_CALLS = {
    "embed": _Call.embed,
    "layer_norm": _Call.layer_norm,
    "dense": _Call.dense,
    "gru": _Call.gru,
    "last": _Call.last,
}
