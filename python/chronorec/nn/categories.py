"""Categories as learned vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Category(nn.Module):
    """Adds a learned vector by category; a missing one has a vector of its own. They start at zero.

    Args:
        count: number of categories.
        width: size of what they are added to.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1 + count, width))

    def forward(self, values: Tensor, codes: Tensor) -> Tensor:
        """values [N, D], codes int64 [N] from -1 (missing) to count - 1 -> [N, D]."""
        return values + F.embedding(codes + 1, self.table)
