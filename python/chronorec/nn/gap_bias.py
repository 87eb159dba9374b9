"""Learned biases of attention by how far apart two tokens are, in position and in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chronorec.ops.reference.jagged_attention import AttentionBias

SECOND = 1_000_000  # microseconds


def gap_boundaries() -> Tensor:
    """Microseconds, float32 [56]: half octaves from a second to six years."""
    return (2.0 ** (torch.arange(56, dtype=torch.float64) / 2) * SECOND).float()


class GapBias(nn.Module):
    """Added to the score of one token for another, per head; starts at zero.

    Args:
        heads: attention heads.
        positions: gaps of position that are told apart; 0 for no such bias.
        time: whether gaps of time, in half octaves, are.
    """

    def __init__(self, heads: int, *, positions: int, time: bool) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(heads, positions)) if positions else None
        self.time_boundaries: Tensor | None
        self.register_buffer("time_boundaries", gap_boundaries() if time else None)
        self.time_table = None
        if self.time_boundaries is not None:
            self.time_table = nn.Parameter(torch.zeros(heads, len(self.time_boundaries) + 1))

    def forward(self, times: Tensor | None) -> AttentionBias:
        """The bias for tokens that happened at ``times``, int64 [N] microseconds."""
        if self.time_table is None:
            return AttentionBias(position=self.position)
        if times is None:
            raise ValueError("times: a bias by gap of time needs the time of every token, got none")
        return AttentionBias(
            position=self.position,
            times=times,
            time_boundaries=self.time_boundaries,
            time_table=self.time_table,
        )
