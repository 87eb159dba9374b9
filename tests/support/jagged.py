"""Jagged test data: the lengths that break kernels, and random ones."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

# 0, 1, 2, around the lane widths 4, 8 and 16, and longer than any tile
EDGE_LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 0, 64, 65]
LONG_LENGTHS = [500, 1, 0, 1000, 63]


def offsets_of(lengths: list[int]) -> Tensor:
    """int64 [B + 1] offsets of a batch with these lengths."""
    return torch.cumsum(torch.tensor([0, *lengths], dtype=torch.int64), 0)


jagged_lengths = st.lists(st.integers(0, 40), min_size=0, max_size=24)
