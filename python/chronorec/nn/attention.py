"""Causal self-attention over jagged sequences, and the transformer block around it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.ops.jagged_attention import jagged_attention


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) in which an event sees itself and what came before.

    Args:
        width: size D of the tokens; a multiple of ``heads``.
        heads: number A of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: wanted a multiple of heads={heads}, got {width}")
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1] -> [N, D]."""
        packed = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        mixed = jagged_attention(packed[:, 0], packed[:, 1], packed[:, 2], offsets)
        projected: Tensor = self.output(mixed.flatten(1))
        return projected


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        width: size D of the tokens.
        heads: number of attention heads.
        inner_width: width of the feed-forward layer.
        dropout: probability of dropping a branch's outputs in training.
    """

    def __init__(self, width: int, heads: int, inner_width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner_width)
        self.contract = nn.Linear(inner_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1] -> [N, D]."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), offsets))
        inner = F.gelu(self.expand(self.feed_norm(tokens)), approximate="tanh")
        fed: Tensor = tokens + self.dropout(self.contract(inner))
        return fed
