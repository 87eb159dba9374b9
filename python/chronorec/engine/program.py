"""Runs the program of a model folder: a list of core calls over jagged tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec import _core
from chronorec.artifact import Artifact, ArtifactError
from chronorec.engine.history import Tokens

Floats = npt.NDArray[np.float32]
Registers = dict[str, Any]
Step = Callable[[Tokens, Registers], None]

_ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "silu": 3, "sigmoid": 4, "tanh": 5}


def scratch(size: int) -> npt.NDArray[np.uint8]:
    """uint8 [size] aligned to 64 bytes."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def pack_panels(rows: Floats) -> Floats:
    """[V, D] as the core's panels [ceil(V / 16), D, 16]."""
    packed = np.empty((-(-rows.shape[0] // 16), rows.shape[1], 16), np.float32)
    _core.pack_panels(np.ascontiguousarray(rows), packed)
    return packed


class Program:
    """The steps of an artifact with their weights packed once.

    Raises:
        ArtifactError: a step is unknown, or a weight is missing or of the wrong shape.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.steps: list[Step] = []
        self.width = 0
        try:
            for step in artifact.program:
                self.steps.append(_MAKERS[step["call"]](step, artifact.weights))
            if artifact.table is not None:
                self.width = artifact.weights[artifact.table].shape[1]
        except KeyError as error:
            raise ArtifactError(f"{artifact.name}: the program names {error}, which is not there") from error

    def run(self, tokens: Tokens) -> Floats:
        """States [B, D] after the last token of each history."""
        if not self.steps:
            return np.zeros((len(tokens.offsets) - 1, self.width), np.float32)
        registers: Registers = {}
        for step in self.steps:
            step(tokens, registers)
        state: Floats = registers["x"]
        return state


def _embed(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    table = weights[step["table"]]
    position = weights[step["position"]] if "position" in step else None

    def run(tokens: Tokens, registers: Registers) -> None:
        out = np.empty((int(tokens.offsets[-1]), table.shape[1]), np.float32)
        offsets = tokens.offsets if position is not None else None
        _core.embed(table, tokens.items, tokens.bag_offsets, step["scale"], position, offsets, out)
        registers[step["out"]] = out

    return run


def _layer_norm(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    weight, bias = weights[step["weight"]], weights[step["bias"]]

    def run(tokens: Tokens, registers: Registers) -> None:
        out = np.empty_like(registers[step["in"]])
        _core.layer_norm(registers[step["in"]], weight, bias, step["epsilon"], out)
        registers[step["out"]] = out

    return run


def _dense(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    weight, bias = weights[step["weight"]], weights[step["bias"]]
    packed = pack_panels(weight)
    activation = _ACTIVATIONS[step.get("activation", "none")]

    def run(tokens: Tokens, registers: Registers) -> None:
        value = registers[step["in"]]
        out = np.empty((len(value), len(weight)), np.float32)
        residual = registers[step["residual"]] if "residual" in step else None
        _core.dense(value, packed, bias, residual, activation, out)
        registers[step["out"]] = out

    return run


def _gru(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    bias_ih, bias_hh = weights[step["bias_ih"]], weights[step["bias_hh"]]
    weight_ih, weight_hh = _pack_gates(weights[step["weight_ih"]]), _pack_gates(weights[step["weight_hh"]])
    hidden_size = weights[step["weight_hh"]].shape[1]

    def run(tokens: Tokens, registers: Registers) -> None:
        values, sequences = registers[step["in"]], len(tokens.offsets) - 1
        out = np.empty((len(values), hidden_size), np.float32)
        final = np.empty((sequences, hidden_size), np.float32)
        room = scratch(_core.gru_forward_scratch(sequences, len(values), hidden_size))
        _core.gru_forward(
            values, tokens.offsets, weight_ih, weight_hh, bias_ih, bias_hh, None, out, final, None, room
        )
        registers[step["out"]] = out

    return run


def _pack_gates(weight: Floats) -> Floats:
    """[3H, K] -> [3, ceil(H / 16), K, 16]: the gates of a unit stand in the same lane."""
    return np.stack([pack_panels(gate) for gate in np.split(weight, 3)])


def _causal_attention(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    heads = step["heads"]

    def run(tokens: Tokens, registers: Registers) -> None:
        packed = registers[step["in"]]
        rows, width = len(packed), packed.shape[1] // 3
        query, key, value = packed.reshape(rows, 3, heads, width // heads).swapaxes(0, 1)
        out = np.empty((rows, heads, width // heads), np.float32)
        scale = (width // heads) ** -0.5
        room = scratch(_core.jagged_attention_forward_scratch(len(tokens.offsets) - 1, rows, width // heads))
        _core.jagged_attention_forward(query, key, value, tokens.offsets, scale, out, None, room)
        registers[step["out"]] = out.reshape(rows, width)

    return run


def _last(step: dict[str, Any], weights: dict[str, np.ndarray]) -> Step:
    def run(tokens: Tokens, registers: Registers) -> None:
        value = registers[step["in"]]
        empty = np.diff(tokens.offsets) == 0
        out = np.zeros((len(empty), value.shape[1]), np.float32)
        out[~empty] = value[tokens.offsets[1:][~empty] - 1]
        registers[step["out"]] = out

    return run


_MAKERS: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], Step]] = {
    "embed": _embed,
    "layer_norm": _layer_norm,
    "dense": _dense,
    "gru": _gru,
    "causal_attention": _causal_attention,
    "last": _last,
}
