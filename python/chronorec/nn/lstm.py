"""Long short-term memory over jagged sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chronorec.nn._recurrent import RecurrentBase
from chronorec.ops.lstm import lstm


class LSTM(RecurrentBase):
    """Layers of LSTM (Hochreiter & Schmidhuber, 1997); loads the state_dict of a ``torch.nn.LSTM``.

    Takes what :class:`RecurrentBase` takes.
    """

    gates = 4

    def _layer(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return lstm(*arguments, **options)

    def forward(
        self, values: Tensor, offsets: Tensor, initial: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs all layers.

        Args:
            values: [N, I], float32 or bfloat16 (weights are then rounded to bfloat16 too).
            offsets: int64 [B + 1].
            initial: state and cell, [num_layers * directions, B, H] each, zeros by default.

        Returns:
            output [N, H * directions] of the last layer, and the final state and cell, shaped as ``initial``.
        """
        output, (final_state, final_cell) = self._run(values, offsets, initial or (None, None))
        return output, (final_state, final_cell)
