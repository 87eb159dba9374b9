"""Runs the program of a model folder: a list of core calls over jagged tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chronorec import _core
from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int64s
from chronorec.data.profile import Profile
from chronorec.engine.history import Tokens
from chronorec.engine.precision import Precision

Floats = npt.NDArray[np.float32]
Registers = dict[str, Any]
Step = Callable[[Tokens, Registers], None]

#: Blocks of rows in a weight, and sums that a unit takes.
RECURRENT = {"gru": (3, 4), "lstm": (4, 4), "rnn": (1, 1)}
#: dtype of packed recurrent weights; their depths are rounded up to a multiple, with some more behind
_PACKED: dict[str, tuple[type[np.generic], int, int]] = {
    "float32": (np.float32, 1, 0),
    "bfloat16": (np.uint16, 32, 0),
    "int8": (np.uint8, 4, 4),
}
_TIMES = {"gap": "gaps", "event": "moments", "wait": "waits", "request": "requests"}
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "silu": 3, "sigmoid": 4, "tanh": 5}


def scratch(size: int, alignment: int = 64) -> npt.NDArray[np.uint8]:
    """uint8 [size] aligned to so many bytes."""
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def pack_panels(rows: Floats) -> Floats:
    """[V, D] as the core's panels [ceil(V / 16), D, 16]."""
    packed = np.empty((-(-rows.shape[0] // 16), rows.shape[1], 16), np.float32)
    _core.pack_panels(np.ascontiguousarray(rows), packed)
    return packed


def pack_recurrent(
    kind: str, weight_ih: Floats, weight_hh: Floats, bias_ih: Floats, bias_hh: Floats, precision: Precision
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Floats]:
    """A recurrent layer as the core takes it; weights as torch has them."""
    gates, slots = RECURRENT[kind]
    dtype, multiple, more = _PACKED[precision]
    panels = -(-weight_hh.shape[1] // 16)
    packed_ih, packed_hh = (
        np.empty((panels, gates, -(-weight.shape[1] // multiple) * multiple + more, 16), dtype)
        for weight in (weight_ih, weight_hh)
    )
    bias = np.empty((panels, slots, 16), np.float32)
    getattr(_core, f"{kind}_pack")(weight_ih, weight_hh, bias_ih, bias_hh, packed_ih, packed_hh, bias)
    return packed_ih, packed_hh, bias


def weight_of(
    artifact: Artifact, name: str, shape: tuple[int | None, ...], dtype: type[np.generic] = np.float32
) -> npt.NDArray[Any]:
    """A weight by name; None stands for any size.

    Raises:
        ArtifactError: it is missing, or of another shape or dtype.
    """
    wanted = f"{np.dtype(dtype)} [{', '.join('any' if size is None else str(size) for size in shape)}]"
    if name not in artifact.weights:
        raise ArtifactError(f"{artifact.name}: weight {name!r}: wanted {wanted}, got none of that name")
    weight = artifact.weights[name]
    fits = weight.ndim == len(shape) and all(
        size is None or size == own for size, own in zip(shape, weight.shape, strict=True)
    )
    if not fits or weight.dtype != dtype:
        got = f"{weight.dtype} {list(weight.shape)}"
        raise ArtifactError(f"{artifact.name}: weight {name!r}: wanted {wanted}, got {got}")
    return np.ascontiguousarray(weight)


class Register(NamedTuple):
    """What is known of a register before a program runs: its columns, and whether it has a row per token."""

    width: int
    per_token: bool


class Program:
    """The steps of an artifact with their weights checked and packed once, recurrent ones in a precision.

    Raises:
        ArtifactError: a step is unknown or reads a register that no step wrote, or a weight is missing or of
            the wrong shape.
    """

    def __init__(self, artifact: Artifact, weights: Precision = "float32") -> None:
        self.steps: list[Step] = []
        self.width = 0
        self.asks = any("query" in step for step in artifact.program)
        if artifact.table is not None:
            self.width = weight_of(artifact, artifact.table, (artifact.num_items, None)).shape[1]
        registers: dict[str, Register] = {}
        for index, step in enumerate(artifact.program):
            where = f"{artifact.name}: step {index} ({step.get('call')})"
            self.steps.append(_Maker(artifact, step, registers, where, weights).make())
        if self.steps and registers.get("x") != Register(self.width, per_token=False):
            raise ArtifactError(
                f"{artifact.name}: wanted a program that leaves {self.width} columns (the width of its item "
                f"table) per history in 'x', got {_describe(registers.get('x'))}"
            )

    def run(self, tokens: Tokens) -> Floats:
        """States [B, D] after the last token of each history."""
        if not self.steps:
            return np.zeros((len(tokens.offsets) - 1, self.width), np.float32)
        registers: Registers = {}
        if self.asks:
            tokens = tokens.with_queries()
        for step in self.steps:
            step(tokens, registers)
        state: Floats = registers["x"]
        return state


def _describe(register: Register | None) -> str:
    if register is None:
        return "nothing"
    return f"{register.width} columns per {'token' if register.per_token else 'history'}"


class _Maker:
    """Makes one step: checks what it names against the registers so far, and notes the one it writes."""

    def __init__(
        self,
        artifact: Artifact,
        step: dict[str, Any],
        registers: dict[str, Register],
        where: str,
        weights: Precision,
    ) -> None:
        self.artifact, self.step, self.registers, self.where = artifact, step, registers, where
        self.profile, self.weights = Profile.from_plain(artifact.profile), weights

    def make(self) -> Step:
        makers = {
            "embed": self.embed,
            "layer_norm": self.layer_norm,
            "dense": self.dense,
            **dict.fromkeys(RECURRENT, self.recurrent),
            "add_time": self.add_time,
            "add_category": self.add_category,
            "attention": self.attention,
            "multiply": self.multiply,
            "last": self.last,
        }
        if self.step.get("call") not in makers:
            raise ArtifactError(f"{self.where}: wanted a call among {', '.join(makers)}")
        return makers[self.step["call"]]()

    def field(self, key: str) -> Any:
        if key not in self.step:
            raise ArtifactError(f"{self.where}: wanted a field {key!r}, got {', '.join(self.step)}")
        return self.step[key]

    def number(self, key: str) -> float:
        value = self.field(key)
        if not isinstance(value, (int, float)):
            raise ArtifactError(f"{self.where}: {key}: wanted a number, got {value!r}")
        return float(value)

    def weight(self, key: str, shape: tuple[int | None, ...]) -> Floats:
        return weight_of(self.artifact, self.field(key), shape)

    def optional(self, key: str, shape: tuple[int | None, ...]) -> Floats | None:
        return self.weight(key, shape) if key in self.step else None

    def residual(self, wanted: Register) -> str | None:
        """The register that is added to the result, which is as ``wanted``; None where there is none."""
        if "residual" not in self.step:
            return None
        name, register = self.read("residual")
        if register != wanted:
            said = f"wanted {_describe(wanted)}, got {_describe(register)}"
            raise ArtifactError(f"{self.where}: residual: {said}")
        return name

    def read(self, key: str, *, of_tokens: bool = False) -> tuple[str, Register]:
        """The name and the content of a register; one row per token where the step needs that."""
        name = self.field(key)
        if name not in self.registers:
            raise ArtifactError(f"{self.where}: reads register {name!r}, which no step before it writes")
        if of_tokens and not self.registers[name].per_token:
            raise ArtifactError(f"{self.where}: wanted a row per token in {name!r}, got one per history")
        return name, self.registers[name]

    def write(self, width: int, per_token: bool) -> str:
        name: str = self.field("out")
        self.registers[name] = Register(width, per_token)
        return name

    def embed(self) -> Step:
        table = self.weight("table", (self.artifact.num_items, None))
        scale = self.number("scale")
        query = self.optional("query", (table.shape[1],))
        longest = self.artifact.max_length + (query is not None)
        position = self.optional("position", (None, table.shape[1]))
        if position is not None and len(position) < longest:
            counted = "max_length" if query is None else "max_length + 1"
            wanted = f"at least {counted} = {longest} rows"
            raise ArtifactError(
                f"{self.where}: {self.step['position']}: wanted {wanted}, got {len(position)}"
            )
        out_name = self.write(table.shape[1], per_token=True)

        def run(tokens: Tokens, registers: Registers) -> None:
            offsets = tokens.offsets if query is None else tokens.offsets - np.arange(len(tokens.offsets))
            out = np.empty((int(offsets[-1]), table.shape[1]), np.float32)
            places = offsets if position is not None else None
            _core.embed(table, tokens.items, tokens.bag_offsets, scale, position, places, out)
            if query is not None:
                lengths = np.diff(offsets)
                placed = query if position is None else query + position[lengths]
                out = np.insert(out, offsets[1:], placed, axis=0)
            registers[out_name] = out

        return run

    def layer_norm(self) -> Step:
        source, (width, per_token) = self.read("in")
        weight, bias = self.weight("weight", (width,)), self.weight("bias", (width,))
        epsilon = self.number("epsilon")
        out_name = self.write(width, per_token)

        def run(tokens: Tokens, registers: Registers) -> None:
            out = np.empty_like(registers[source])
            _core.layer_norm(registers[source], weight, bias, epsilon, out)
            registers[out_name] = out

        return run

    def dense(self) -> Step:
        source, (depth, per_token) = self.read("in")
        weight = self.weight("weight", (None, depth))
        width = len(weight)
        bias, packed = self.weight("bias", (width,)), pack_panels(weight)
        activation = self.step.get("activation", "none")
        if activation not in ACTIVATIONS:
            raise ArtifactError(f"{self.where}: wanted one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        added = self.residual(Register(width, per_token))
        out_name = self.write(width, per_token)

        def run(tokens: Tokens, registers: Registers) -> None:
            value = registers[source]
            out = np.empty((len(value), width), np.float32)
            residual = None if added is None else registers[added]
            _core.dense(value, packed, bias, residual, ACTIVATIONS[activation], out)
            registers[out_name] = out

        return run

    def recurrent(self) -> Step:
        source, (depth, _) = self.read("in", of_tokens=True)
        kind: str = self.step["call"]
        gates, _ = RECURRENT[kind]
        hidden_size = self.weight("weight_hh", (None, None)).shape[1]
        layer = (
            self.weight("weight_ih", (gates * hidden_size, depth)),
            self.weight("weight_hh", (gates * hidden_size, hidden_size)),
            self.weight("bias_ih", (gates * hidden_size,)),
            self.weight("bias_hh", (gates * hidden_size,)),
        )
        packed = pack_recurrent(kind, *layer, self.weights)
        forward: Any = _core.rnn_tanh_forward if kind == "rnn" else getattr(_core, f"{kind}_forward")
        needed = getattr(_core, f"{kind}_forward_scratch")
        out_name = self.write(hidden_size, per_token=True)

        def run(tokens: Tokens, registers: Registers) -> None:
            values, sequences = registers[source], len(tokens.offsets) - 1
            out = np.empty((len(values), hidden_size), np.float32)
            final, cell = np.empty((2, sequences, hidden_size), np.float32)
            room = scratch(needed(sequences, len(values), hidden_size))
            given = (values, tokens.offsets, *packed, *(None,) * 4, False)
            forward(*given, out, final, cell if kind == "lstm" else None, None, room)
            registers[out_name] = out

        return run

    def add_time(self) -> Step:
        (source, register), of = self.read("in"), self.field("of")
        table = self.weight("table", (None, register.width))
        if of not in ("gap", "event", "wait", "request") or (of in ("gap", "event")) != register.per_token:
            wanted = "gap or event for tokens, wait or request for histories"
            raise ArtifactError(f"{self.where}: of: wanted {wanted}, got {of!r} for {_describe(register)}")
        bucket = self._gap_bucket(len(table)) if of in ("gap", "wait") else self._calendar_bucket(len(table))
        out_name = self.write(*register)

        def run(tokens: Tokens, registers: Registers) -> None:
            registers[out_name] = registers[source] + table[bucket(getattr(tokens, _TIMES[of])())]

        return run

    def add_category(self) -> Step:
        source, register = self.read("in")
        wanted = "event_type" if register.per_token else "profile"
        if self.field("of") != wanted:
            raise ArtifactError(f"{self.where}: of: wanted {wanted!r}, got {self.step['of']!r}")
        column = None if register.per_token else self._profile_column()
        count = len(self.artifact.event_types) if column is None else self.profile.columns[column].count
        table = self.weight("table", (1 + count, register.width))
        out_name = self.write(*register)

        def run(tokens: Tokens, registers: Registers) -> None:
            codes = tokens.types
            if column is not None:
                codes = None if tokens.profile is None else tokens.profile[:, column]
            rows = table[:1] if codes is None else table[np.maximum(1 + codes, 0)]
            registers[out_name] = registers[source] + rows

        return run

    def _profile_column(self) -> int:
        column = self.field("column")
        if not isinstance(column, int) or not 0 <= column < len(self.profile):
            wanted = f"a place among the {len(self.profile)} columns of the profile"
            raise ArtifactError(f"{self.where}: column: wanted {wanted}, got {column!r}")
        return column

    def _gap_bucket(self, rows: int) -> Callable[[Int64s], Int64s]:
        boundaries = self.weight("boundaries", (rows - 1,))
        return lambda gaps: np.searchsorted(boundaries, gaps.astype(np.float32), side="right")

    def _calendar_bucket(self, rows: int) -> Callable[[Int64s], Int64s]:
        period, zone = self.field("period"), self.field("zone")
        if not isinstance(period, int) or period < 1:
            raise ArtifactError(f"{self.where}: period: wanted microseconds, a whole number, got {period!r}")
        starts = weight_of(self.artifact, f"{zone}_starts", (None,), np.int64)
        shifts = weight_of(self.artifact, f"{zone}_shifts", (len(starts),), np.int64)

        def bucket(moments: Int64s) -> Int64s:
            local = moments + shifts[np.searchsorted(starts, moments, side="right") - 1]
            place: Int64s = local % period * rows // period
            return place

        return bucket

    def attention(self) -> Step:
        source, (packed_width, _) = self.read("in", of_tokens=True)
        heads = self.field("heads")
        if not isinstance(heads, int) or heads < 1 or packed_width % (3 * heads):
            wanted = f"a divisor of {packed_width} / 3, the width of query, key and value in {source!r}"
            raise ArtifactError(f"{self.where}: heads: wanted {wanted}, got {heads!r}")
        width = packed_width // 3
        depth = width // heads
        form, position = self._attention_form(depth), self.optional("position", (heads, None))
        time_table, boundaries = self.optional("time_table", (heads, None)), None
        if time_table is not None:
            boundaries = self.weight("time_boundaries", (time_table.shape[1] - 1,))
        out_name = self.write(width, per_token=True)

        def run(tokens: Tokens, registers: Registers) -> None:
            packed = registers[source]
            rows = len(packed)
            query, key, value = packed.reshape(rows, 3, heads, depth).swapaxes(0, 1)
            times = None if time_table is None else tokens.times
            bias = (position, times, boundaries, time_table, None, None, None)
            out = np.empty((rows, heads, depth), np.float32)
            room = scratch(_core.jagged_attention_forward_scratch(len(tokens.offsets) - 1, rows, depth))
            _core.jagged_attention_forward(query, key, value, tokens.offsets, *form, *bias, out, None, room)
            registers[out_name] = out.reshape(rows, width)

        return run

    def _attention_form(self, depth: int) -> tuple[float, bool, int, bool, float]:
        """scale, causal, window, silu and divisor of an attention step."""
        activation, window = self.step.get("activation", "softmax"), self.step.get("window", 1 << 62)
        if activation not in ("softmax", "silu"):
            raise ArtifactError(f"{self.where}: activation: wanted softmax or silu, got {activation!r}")
        if not isinstance(window, int) or window < 1:
            raise ArtifactError(f"{self.where}: window: wanted a whole number from 1, got {window!r}")
        divisor = self.number("divisor") if "divisor" in self.step else 1.0
        if divisor == 0:
            raise ArtifactError(f"{self.where}: divisor: wanted a number other than 0, got 0")
        return depth**-0.5, bool(self.step.get("causal", True)), window, activation == "silu", divisor

    def multiply(self) -> Step:
        (source, register), (by, factor) = self.read("in"), self.read("by")
        if factor != register:
            raise ArtifactError(f"{self.where}: by: wanted {_describe(register)}, got {_describe(factor)}")
        added = self.residual(register)
        out_name = self.write(*register)

        def run(tokens: Tokens, registers: Registers) -> None:
            product = registers[source] * registers[by]
            registers[out_name] = product if added is None else product + registers[added]

        return run

    def last(self) -> Step:
        source, (width, _) = self.read("in", of_tokens=True)
        out_name = self.write(width, per_token=False)

        def run(tokens: Tokens, registers: Registers) -> None:
            empty = np.diff(tokens.offsets) == 0
            out = np.zeros((len(empty), width), np.float32)
            out[~empty] = registers[source][tokens.offsets[1:][~empty] - 1]
            registers[out_name] = out

        return run
