"""Plain recurrent network over jagged sequences."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from chronorec.nn._recurrent import RecurrentBase
from chronorec.ops.rnn import rnn


class RNN(RecurrentBase):
    """Layers of the network of Elman (1990); loads the state_dict of a ``torch.nn.RNN``.

    Takes what :class:`RecurrentBase` takes, and the nonlinearity.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, dropout, **options)
        self.nonlinearity = nonlinearity

    def _layer(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return rnn(*arguments, nonlinearity=self.nonlinearity, **options)

    def forward(
        self, values: Tensor, offsets: Tensor, initial_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs all layers.

        Args:
            values: [N, I], float32 or bfloat16 (weights are then rounded to bfloat16 too).
            offsets: int64 [B + 1].
            initial_state: [num_layers * directions, B, H], zeros by default.

        Returns:
            output [N, H * directions] of the last layer and final_state [num_layers * directions, B, H].
        """
        output, (final_state,) = self._run(values, offsets, (initial_state,))
        return output, final_state
