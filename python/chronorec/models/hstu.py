"""HSTU: pointwise attention with learned biases by position and time (Zhai et al., ICML 2024)."""

from __future__ import annotations

from typing import Any

from torch import nn

from chronorec.models._blocks import BlockModel
from chronorec.models._steps import Step, attention_step, dense_step, multiply_step, norm_step
from chronorec.models.base import receptive_length
from chronorec.nn import HSTUBlock


class HSTU(BlockModel):
    """Embedding -> HSTU blocks -> layer norm; position is in the attention alone.

    Args:
        num_items: catalogue size.
        width: size of item embeddings and tokens.
        blocks: number of HSTU blocks.
        heads: attention heads of a block.
        max_length: how many tokens a token sees in a block.
        time_bias: whether attention knows the gaps of time; else those of position alone.
        memory: whether training is on segments in order, which remember what came before; excludes ``copy``.
        common: what every :class:`SequenceModel` takes.
    """

    name = "hstu"

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        max_length: int = 200,
        time_bias: bool = True,
        memory: bool = False,
        **common: Any,
    ) -> None:
        longest = receptive_length(max_length, blocks, common)
        super().__init__(num_items, width=width, max_length=longest, **common)
        self.needs_time |= time_bias
        if memory and self.copy is not None:
            raise ValueError("memory: wanted a model without a copy head")
        self.memory_window = max_length if memory else None
        self.blocks = nn.ModuleList(
            HSTUBlock(width, heads, window=max_length, time_bias=time_bias, dropout=self.dropout.p)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def block_steps(self, name: str, block: HSTUBlock) -> list[Step]:
        silu = {"activation": "silu", "divisor": float(block.window), "window": block.window}
        return [
            norm_step(f"{name}.norm", "x", "y"),
            dense_step(f"{name}.gate", "y", "gate", activation="silu"),
            dense_step(f"{name}.query_key_value", "y", "y", activation="silu"),
            attention_step("y", "y", block.heads, block.bias, f"{name}.bias", **silu),
            norm_step(f"{name}.attention_norm", "y", "y"),
            multiply_step("y", "gate", "y"),
            dense_step(f"{name}.output", "y", "x", residual="x"),
        ]
