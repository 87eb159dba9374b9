"""GRU4Rec: a recurrent network over the items of a history (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chronorec.models.base import SequenceModel, Sequences
from chronorec.nn import GRU


class GRU4Rec(SequenceModel):
    """Embedding -> GRU layers -> projection to the width of the item table.

    Args:
        num_items: catalogue size.
        width: size of item embeddings.
        hidden_size: size of the recurrent state.
        layers: number of GRU layers.
        dropout: on embeddings and states.
        max_length: longest sequence of tokens.
        item_bias: whether items have a learned bias.
    """

    name = "gru4rec"

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        hidden_size: int = 128,
        layers: int = 1,
        dropout: float = 0.2,
        max_length: int = 200,
        item_bias: bool = True,
    ) -> None:
        super().__init__(num_items, width, max_length, dropout, item_bias)
        self.gru = GRU(width, hidden_size, layers, dropout)
        self.projection = nn.Linear(hidden_size, width)

    def forward(self, sequences: Sequences) -> Tensor:
        tokens = self.dropout(self.embed(sequences))
        states, _ = self.gru(tokens, sequences.offsets)
        projected: Tensor = self.projection(self.dropout(states))
        return projected

    def program(self) -> list[dict[str, Any]]:
        steps = self.embed_steps()
        for layer in range(self.gru.num_layers):
            names = {key: f"gru.{key}_l{layer}" for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            steps.append({"call": "gru", "in": "x", "out": "x", **names})
        steps.append({"call": "last", "in": "x", "out": "x"})
        steps.append(
            {"call": "dense", "in": "x", "weight": "projection.weight", "bias": "projection.bias", "out": "x"}
        )
        return steps
