"""Attention over two encodings of the same tokens."""

from __future__ import annotations

from torch import Tensor, nn

from chronorec.nn.gap_bias import GapBias
from chronorec.ops.jagged_attention import jagged_attention


class FusedAttention(nn.Module):
    """Causal multi-head attention whose query, key and value are linear in both encodings of a token.

    Args:
        input_size: width I of either encoding.
        width: size D of the result; a multiple of ``heads``.
        heads: number A of attention heads.
        window: a token sees only itself and those before it less than this far away, with a bias by gap.
    """

    def __init__(self, input_size: int, width: int, heads: int, *, window: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: wanted a multiple of heads={heads}, got {width}")
        self.heads, self.window = heads, window
        self.first = nn.Linear(input_size, 3 * width)
        self.second = nn.Linear(input_size, 3 * width)
        self.bias = GapBias(heads, positions=window, time=False)
        self.output = nn.Linear(width, width)

    def forward(self, first: Tensor, second: Tensor, offsets: Tensor) -> Tensor:
        """first and second [N, I], offsets int64 [B + 1] -> [N, D]."""
        packed = (self.first(first) + self.second(second)).unflatten(-1, (3, self.heads, -1))
        mixed = jagged_attention(
            packed[:, 0], packed[:, 1], packed[:, 2], offsets, window=self.window, bias=self.bias(None)
        )
        fused: Tensor = self.output(mixed.flatten(1))
        return fused
