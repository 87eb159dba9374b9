"""GRU4Rec: a recurrent network over the items of a history (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from chronorec.artifact import WHOLE_HISTORY
from chronorec.models._steps import Step, dense_step, multiply_step
from chronorec.models.base import SequenceModel, Sequences, known_times
from chronorec.nn import GRU, LSTM, RNN, RecurrentBase, TimeGate

_CELLS: dict[str, type[RecurrentBase]] = {"gru": GRU, "lstm": LSTM, "rnn": RNN}


class GRU4Rec(SequenceModel):
    """Embedding -> recurrent layers -> projection to the width of the item table.

    Args:
        num_items: catalogue size.
        cell: kind of the layers.
        hidden_size: size of the recurrent state.
        layers: number of layers.
        time_gate: whether the time since the event before gates what enters the first layer; see
            :class:`chronorec.nn.TimeGate`.
        common: what every :class:`SequenceModel` takes; what is exported reads histories of any length.
    """

    name = "gru4rec"

    def __init__(
        self,
        num_items: int,
        *,
        cell: Literal["gru", "lstm", "rnn"] = "gru",
        hidden_size: int = 128,
        layers: int = 1,
        time_gate: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(num_items, **common)
        width = self.item_embedding.shape[1]
        self.cell = cell
        self.encoder = _CELLS[cell](width, hidden_size, layers, self.dropout.p)
        self.projection = nn.Linear(hidden_size, width)
        self.time_gate = TimeGate(width) if time_gate else None
        self.needs_time = self.needs_time or time_gate

    @property
    def history_length(self) -> int:
        """All of it: a state goes on from event to event, and has no start that could move."""
        return WHOLE_HISTORY

    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        if self.time_gate is not None:
            tokens = self.time_gate(tokens, sequences.offsets, known_times(sequences.times, "times"))
        states, _ = self.encoder(tokens, sequences.offsets)
        projected: Tensor = self.projection(self.dropout(states))
        return projected

    def encoder_steps(self) -> list[Step]:
        steps: list[Step] = []
        if self.time_gate is not None:
            gap = {"of": "gap", "table": "time_gate.gap", "boundaries": "time_gate.boundaries"}
            steps.append({"call": "add_time", "in": "x", **gap, "out": "gate"})
            steps.append(dense_step("time_gate.linear", "gate", "gate", activation="sigmoid"))
            steps.append(multiply_step("x", "gate", "x"))
        for layer in range(self.encoder.num_layers):
            names = {
                key: f"encoder.{key}_l{layer}" for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            steps.append({"call": self.cell, "in": "x", "out": "x", **names})
        return [*steps, {"call": "last", "in": "x", "out": "x"}, dense_step("projection", "x", "x")]
