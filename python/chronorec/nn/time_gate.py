"""A gate by the time since the event before: how much of an event enters a recurrent layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.nn.gap_bias import gap_boundaries
from chronorec.nn.time_features import times_between


class TimeGate(nn.Module):
    """Multiplies every token by sigmoid(linear(token + v)), where v is a learned vector by its gap.

    This is the time gate of Time-LSTM (Zhu et al., IJCAI 2017), sigmoid(W x + sigmoid(u gap) + b), with
    two differences: a learned vector by half octave stands for the inner sigmoid, and the gate multiplies
    what enters the layer, for each of its gates, not the candidate alone, so that the recurrence itself is
    that of an ordinary cell. The gap is the one before the event, which is known when it happens (in the
    paper it is the one after it). The gate starts at 0.88 and knows no gap.

    Args:
        width: size of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.boundaries: Tensor
        self.register_buffer("boundaries", gap_boundaries())
        self.gap = nn.Parameter(torch.zeros(len(self.boundaries) + 1, width))
        self.linear = nn.Linear(width, width)
        nn.init.constant_(self.linear.bias, 2.0)

    def forward(self, tokens: Tensor, offsets: Tensor, times: Tensor) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1], times int64 [N] in microseconds -> [N, D]."""
        gaps = times_between(offsets, times)
        buckets = torch.bucketize(gaps.float(), self.boundaries.float(), right=True)
        return tokens * torch.sigmoid(self.linear(tokens + F.embedding(buckets, self.gap)))
