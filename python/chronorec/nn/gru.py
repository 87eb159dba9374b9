"""Gated recurrent unit over jagged sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chronorec.nn._recurrent import OneStateBase
from chronorec.ops.gru import gru


class GRU(OneStateBase):
    """Layers of GRU (Cho et al., 2014, in cuDNN's form); loads the state_dict of a ``torch.nn.GRU``.

    Takes what ``RecurrentBase`` takes.
    """

    gates = 3

    def _layer(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return gru(*arguments, **options)
