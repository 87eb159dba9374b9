"""Models that are a stack of attention blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from chronorec.models._steps import Step, norm_step
from chronorec.models.base import SequenceModel, Sequences


class BlockModel(SequenceModel):
    """Embedding -> ``blocks``, each of which takes tokens [N, D], offsets and times -> ``norm``."""

    blocks: nn.ModuleList
    norm: nn.LayerNorm

    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, sequences.offsets, sequences.times)
        normed: Tensor = self.norm(tokens)
        return normed

    @abstractmethod
    def block_steps(self, name: str, block: Any) -> list[Step]:
        """The steps of the block whose weights are called ``name``, from register "x" to "x"."""

    def encoder_steps(self) -> list[Step]:
        steps: list[Step] = []
        for index, block in enumerate(self.blocks):
            steps += self.block_steps(f"blocks.{index}", block)
        return [*steps, {"call": "last", "in": "x", "out": "x"}, norm_step("norm", "x", "x")]
