"""The layer of HSTU: attention by pointwise SiLU with biases by position and time, and a gate."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.nn.gap_bias import GapBias
from chronorec.ops.jagged_attention import jagged_attention


class HSTUBlock(nn.Module):
    """x + output(gate(x) * norm(attention(x))), every projection of x through SiLU (Zhai et al., ICML 2024).

    Args:
        width: size D of the tokens; a multiple of ``heads``.
        heads: number of attention heads.
        window: how many tokens a token sees, itself included; also what the sum over them is divided by.
        time_bias: whether attention has a bias by gap of time beside that by gap of position.
        dropout: probability of dropping a gated output in training.
    """

    def __init__(self, width: int, heads: int, *, window: int, time_bias: bool, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: wanted a multiple of heads={heads}, got {width}")
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.bias = GapBias(heads, positions=window, time=time_bias)
        self.attention_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, offsets: Tensor, times: Tensor | None, own: Tensor | None = None
    ) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1], times int64 [N] or None -> [N, D], or rows ``own``."""
        normed = self.norm(tokens)
        packed = F.silu(self.query_key_value(normed)).unflatten(-1, (3, self.heads, -1))
        mixed = jagged_attention(
            packed[:, 0],
            packed[:, 1],
            packed[:, 2],
            offsets,
            window=self.window,
            activation="silu",
            divisor=float(self.window),
            bias=self.bias(times),
        )
        if own is not None:
            tokens, normed, mixed = (x.index_select(0, own) for x in (tokens, normed, mixed))
        gated = F.silu(self.gate(normed)) * self.attention_norm(mixed.flatten(1))
        added: Tensor = tokens + self.output(self.dropout(gated))
        return added
