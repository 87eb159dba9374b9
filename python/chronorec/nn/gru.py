"""Gated recurrent unit over jagged sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chronorec.nn._recurrent import RecurrentBase
from chronorec.ops.gru import gru


class GRU(RecurrentBase):
    """Layers of GRU (Cho et al., 2014, in cuDNN's form); loads the state_dict of a ``torch.nn.GRU``.

    Takes what :class:`RecurrentBase` takes.
    """

    gates = 3

    def _layer(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return gru(*arguments, **options)

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
