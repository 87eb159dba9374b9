"""SASRec: a causal transformer over the items of a history (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.models._blocks import BlockModel
from chronorec.models._steps import Step, attention_step, dense_step, multiply_step, norm_step
from chronorec.models.base import Sequences, receptive_length
from chronorec.nn import SelfAttention, TransformerBlock


class SASRec(BlockModel):
    """Embedding -> pre-norm transformer blocks -> layer norm.

    Args:
        num_items: catalogue size.
        width: size of item embeddings and tokens.
        blocks: number of transformer blocks.
        heads: attention heads of a block.
        inner_factor: width of the feed-forward layer over the width of a token.
        max_length: how many tokens a token sees in a block.
        block: preset of :class:`chronorec.nn.TransformerBlock`.
        position: ``"absolute"``: learned vectors for the places of the tokens, counted from the start of the
            history, which is cut to ``max_length``; ``"relative"``: learned biases of attention by gap of
            position, so that what was computed for a token stays true when the history grows.
        time_bias: whether attention knows the gaps of time.
        memory: whether training is on segments in order, which remember what came before; needs relative
            positions and no ``copy``.
        common: what every :class:`SequenceModel` takes.
    """

    name = "sasrec"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        inner_factor: int = 4,
        max_length: int = 200,
        block: Literal["sasrec", "swiglu", "ligr"] = "sasrec",
        position: Literal["absolute", "relative"] = "absolute",
        time_bias: bool = False,
        memory: bool = False,
        **common: Any,
    ) -> None:
        absolute = position == "absolute"
        longest = max_length if absolute else receptive_length(max_length, blocks, common)
        super().__init__(num_items, width=width, max_length=longest, **common)
        self.needs_time |= time_bias
        if memory and (absolute or not self.causal or self.copy is not None):
            raise ValueError("memory: wanted a causal model with relative positions and no copy head")
        self.memory_window = max_length if memory else None
        self.position = nn.Parameter(torch.empty(max_length, width)) if absolute else None
        if self.position is not None:
            nn.init.normal_(self.position, std=0.02)
        form: dict[str, Any] = {"causal": self.causal, "time_bias": time_bias}
        if not absolute:
            form |= {"window": max_length, "position_bias": True}
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width, inner_factor * width, self.dropout.p, SelfAttention(width, heads, **form), block
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def place(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        tokens, offsets = super().place(tokens, sequences), sequences.offsets
        if self.position is None:
            return tokens
        begin = torch.repeat_interleave(offsets[:-1], offsets.diff())
        places = torch.arange(tokens.shape[0], device=tokens.device) - begin
        # an indexed position table would add its gradient up in no fixed order
        return tokens + F.embedding(places, self.position)

    def embed_steps(self, **more: str) -> list[Step]:
        return super().embed_steps(**more, **({} if self.position is None else {"position": "position"}))

    def block_steps(self, name: str, block: TransformerBlock) -> list[Step]:
        attention = block.attention
        form: dict[str, Any] = {} if attention.causal else {"causal": False}
        if attention.window is not None:
            form["window"] = attention.window
        steps = [
            norm_step(f"{name}.attention_norm", "x", "y"),
            dense_step(f"{name}.attention.query_key_value", "y", "y"),
            attention_step("y", "y", attention.heads, attention.bias, f"{name}.attention.bias", **form),
            *_add_branch(
                f"{name}.attention.output", f"{name}.attention_gate", block.attention_gate is not None
            ),
            norm_step(f"{name}.feed_norm", "x", "y"),
        ]
        if block.expand_gate is None:
            steps.append(dense_step(f"{name}.expand", "y", "y", activation="gelu"))
        else:
            steps.append(dense_step(f"{name}.expand_gate", "y", "gate", activation="silu"))
            steps.append(dense_step(f"{name}.expand", "y", "y"))
            steps.append(multiply_step("y", "gate", "y"))
        return steps + _add_branch(f"{name}.contract", f"{name}.feed_gate", block.feed_gate is not None)


def _add_branch(output: str, gate: str, gated: bool) -> list[Step]:
    """x = x + output(y), times sigmoid(gate(x)) where there is a gate."""
    if not gated:
        return [dense_step(output, "y", "x", residual="x")]
    return [
        dense_step(output, "y", "y"),
        dense_step(gate, "x", "gate", activation="sigmoid"),
        multiply_step("y", "gate", "x", residual="x"),
    ]
