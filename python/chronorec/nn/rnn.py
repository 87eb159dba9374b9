"""Plain recurrent network over jagged sequences."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from chronorec.nn._recurrent import OneStateBase
from chronorec.ops.rnn import rnn


class RNN(OneStateBase):
    """Layers of the network of Elman (1990); loads the state_dict of a ``torch.nn.RNN``.

    Takes what ``RecurrentBase`` takes, and the nonlinearity.
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
