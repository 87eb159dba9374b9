"""Gated recurrent unit over jagged sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chronorec.ops.gru import gru


class GRU(nn.Module):
    """Layers of GRU (Cho et al., 2014, in cuDNN's form); parameters are named as in ``torch.nn.GRU``.

    Args:
        input_size: width I of the values.
        hidden_size: width H of the state.
        num_layers: how many layers, each over the output of the one below.
        dropout: probability of dropping an output between layers in training.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout = nn.Dropout(dropout)
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size
            for name, shape in (
                ("weight_ih", (3 * hidden_size, width)),
                ("weight_hh", (3 * hidden_size, hidden_size)),
                ("bias_ih", (3 * hidden_size,)),
                ("bias_hh", (3 * hidden_size,)),
            ):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(H), as torch does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def layer_weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """weight_ih [3H, I], weight_hh [3H, H], bias_ih [3H], bias_hh [3H] of one layer."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        a, b, c, d = (getattr(self, f"{name}_l{layer}") for name in names)
        return a, b, c, d

    def forward(
        self, values: Tensor, offsets: Tensor, initial_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs all layers.

        Args:
            values: [N, I], float32 or bfloat16 (weights are then rounded to bfloat16 too).
            offsets: int64 [B + 1].
            initial_state: [num_layers, B, H], zeros by default.

        Returns:
            output [N, H] of the last layer and final_state [num_layers, B, H].
        """
        if torch.is_autocast_enabled("cpu"):
            values = values.to(torch.get_autocast_dtype("cpu"))
        final_states = []
        for layer in range(self.num_layers):
            if layer > 0:
                values = self.dropout(values)
            weight_ih, weight_hh, bias_ih, bias_hh = (w.to(values.dtype) for w in self.layer_weights(layer))
            state = None if initial_state is None else initial_state[layer]
            values, final_state = gru(values, offsets, weight_ih, weight_hh, bias_ih, bias_hh, state)
            final_states.append(final_state)
        return values, torch.stack(final_states)
