"""Models that are a stack of attention blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from chronorec.models._steps import Step, norm_step
from chronorec.models.base import SequenceModel, Sequences
from chronorec.nn import SegmentMemory


class BlockModel(SequenceModel):
    """Embedding -> ``blocks``, each of which takes tokens [N, D], offsets and times -> ``norm``.

    Attributes:
        memory_window: how many tokens a token sees in a block, where training is on segments in order; None:
            it is on shuffled windows.
    """

    blocks: nn.ModuleList
    norm: nn.LayerNorm
    memory_window: int | None = None

    def segment_memory(self) -> SegmentMemory | None:
        return None if self.memory_window is None else SegmentMemory(self.memory_window, len(self.blocks))

    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        memory = sequences.memory
        for layer, block in enumerate(self.blocks):
            if memory is None:
                tokens = block(tokens, sequences.offsets, sequences.times)
            else:
                tokens = block(memory.join(layer, tokens), memory.offsets, memory.times, memory.own)
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
