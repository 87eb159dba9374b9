"""First-order log-bilinear model: the last item or basket through a matrix (Mnih and Hinton, ICML 2007)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chronorec.models._steps import Step, dense_step
from chronorec.models.base import SequenceModel, Sequences, receptive_length


class LogBilinear(SequenceModel):
    """Score = (C . embedding of the last token) . vector of the item + bias: a Markov chain of low rank.

    Mnih and Hinton, "Three new graphical models for statistical language modelling" (ICML 2007), with a
    context of one token. Untied, it is the item part of FPMC (Rendle et al., WWW 2010), where a basket is
    the mean of its items too.

    Args:
        num_items: catalogue size.
        common: what every :class:`SequenceModel` takes; ``max_length`` is that of training windows and of
            what ``copy`` reads.
    """

    name = "log-bilinear"

    def __init__(self, num_items: int, **common: Any) -> None:
        super().__init__(num_items, **common)
        self._memory = receptive_length(1, 1, common)
        width = self.item_embedding.shape[1]
        self.context = nn.Linear(width, width)

    @property
    def history_length(self) -> int:
        """The last token, and the one before where a gap of time counts; with copies all that has some."""
        return self._memory if self.copy is None else max(self._memory, self.max_length)

    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        states: Tensor = self.context(tokens)
        return states

    def encoder_steps(self) -> list[Step]:
        return [{"call": "last", "in": "x", "out": "x"}, dense_step("context", "x", "x")]
