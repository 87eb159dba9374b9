"""Self-attention over jagged sequences, and the transformer block around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.nn.gap_bias import GapBias
from chronorec.ops.jagged_attention import jagged_attention


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) with learned biases by gap of position and time.

    Args:
        width: size D of the tokens; a multiple of ``heads``.
        heads: number A of attention heads.
        causal: whether a token sees itself and what came before, or all.
        window: if given, a token sees only those less than this far away.
        position_bias: whether attention knows gaps of position; needs a ``window``.
        time_bias: whether it knows gaps of time.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool = True,
        window: int | None = None,
        position_bias: bool = False,
        time_bias: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: wanted a multiple of heads={heads}, got {width}")
        if position_bias and window is None:
            raise ValueError("window: wanted a number of tokens beside position_bias, got None")
        self.heads, self.causal, self.window = heads, causal, window
        self.query_key_value = nn.Linear(width, 3 * width)
        gaps = 0 if window is None or not position_bias else window if causal else 2 * window - 1
        self.bias = GapBias(heads, positions=gaps, time=time_bias)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, offsets: Tensor, times: Tensor | None = None) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1], times int64 [N] microseconds or None -> [N, D]."""
        packed = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        mixed = jagged_attention(
            packed[:, 0],
            packed[:, 1],
            packed[:, 2],
            offsets,
            causal=self.causal,
            window=self.window,
            bias=self.bias(times),
        )
        projected: Tensor = self.output(mixed.flatten(1))
        return projected


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Presets:

    - ``"sasrec"``: the feed-forward layer is GELU between two maps;
    - ``"swiglu"``: it is gated, silu(x W1) * x W2, then W3 (Shazeer, 2020);
    - ``"ligr"``: the same, and both branches are scaled by sigmoid(x W) before they are added (LiGR: Borisyuk
      et al., 2025; eSASRec: RecSys 2025).

    Args:
        width: size D of the tokens.
        inner_width: width of the feed-forward layer.
        dropout: probability of dropping a branch's outputs in training.
        attention: the attention of the block.
    """

    def __init__(
        self,
        width: int,
        inner_width: int,
        dropout: float,
        attention: SelfAttention,
        preset: Literal["sasrec", "swiglu", "ligr"] = "sasrec",
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.feed_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner_width)
        self.expand_gate = None if preset == "sasrec" else nn.Linear(width, inner_width)
        self.contract = nn.Linear(inner_width, width)
        self.attention_gate = nn.Linear(width, width) if preset == "ligr" else None
        self.feed_gate = nn.Linear(width, width) if preset == "ligr" else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, offsets: Tensor, times: Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1], times int64 [N] or None -> [N, D], or rows ``own``."""
        mixed: Tensor = self.attention(self.attention_norm(tokens), offsets, times)
        if own is not None:
            tokens, mixed = (x.index_select(0, own) for x in (tokens, mixed))
        tokens = tokens + self._gated(self.dropout(mixed), self.attention_gate, tokens)
        fed: Tensor = self.contract(self._inner(self.feed_norm(tokens)))
        return tokens + self._gated(self.dropout(fed), self.feed_gate, tokens)

    def _inner(self, tokens: Tensor) -> Tensor:
        if self.expand_gate is None:
            return F.gelu(self.expand(tokens), approximate="tanh")
        inner: Tensor = F.silu(self.expand_gate(tokens)) * self.expand(tokens)
        return inner

    @staticmethod
    def _gated(branch: Tensor, gate: nn.Module | None, tokens: Tensor) -> Tensor:
        if gate is None:
            return branch
        share: Tensor = torch.sigmoid(gate(tokens))
        return branch * share
