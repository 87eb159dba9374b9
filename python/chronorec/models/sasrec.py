"""SASRec: a causal transformer over the items of a history (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.models._steps import dense_step, norm_step
from chronorec.models.base import SequenceModel, Sequences
from chronorec.nn import TransformerBlock


class SASRec(SequenceModel):
    """Embedding + learned position -> pre-norm transformer blocks -> layer norm.

    Args:
        num_items: catalogue size.
        width: size of item embeddings and tokens.
        blocks: number of transformer blocks.
        heads: attention heads of a block.
        inner_factor: width of the feed-forward layer over the width of a token.
        dropout: on embeddings and on every branch of a block.
        max_length: longest sequence of tokens; positions count from the start of the cut history.
        item_bias: whether items have a learned bias.
    """

    name = "sasrec"

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        inner_factor: int = 4,
        dropout: float = 0.2,
        max_length: int = 200,
        item_bias: bool = False,
    ) -> None:
        super().__init__(num_items, width, max_length, dropout, item_bias)
        self.position = nn.Parameter(torch.empty(max_length, width))
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, inner_factor * width, dropout) for _ in range(blocks)
        )
        self.heads = heads
        self.norm = nn.LayerNorm(width)

    def forward(self, sequences: Sequences) -> Tensor:
        tokens = self.embed(sequences)
        offsets = sequences.offsets
        lengths = offsets.diff()
        places = torch.arange(tokens.shape[0]) - torch.repeat_interleave(offsets[:-1], lengths)
        # an indexed position table would add its gradient up in no fixed order
        tokens = self.dropout(tokens + F.embedding(places, self.position))
        for block in self.blocks:
            tokens = block(tokens, offsets)
        normed: Tensor = self.norm(tokens)
        return normed

    def program(self) -> list[dict[str, Any]]:
        steps = self.embed_steps(position="position")
        for index in range(len(self.blocks)):
            steps += _block_steps(f"blocks.{index}", self.heads)
        return [*steps, {"call": "last", "in": "x", "out": "x"}, norm_step("norm", "x", "x")]


def _block_steps(block: str, heads: int) -> list[dict[str, Any]]:
    return [
        norm_step(f"{block}.attention_norm", "x", "y"),
        dense_step(f"{block}.attention.query_key_value", "y", "y"),
        {"call": "attention", "in": "y", "heads": heads, "out": "y"},
        dense_step(f"{block}.attention.output", "y", "x", residual="x"),
        norm_step(f"{block}.feed_norm", "x", "y"),
        dense_step(f"{block}.expand", "y", "y", activation="gelu"),
        dense_step(f"{block}.contract", "y", "x", residual="x"),
    ]
