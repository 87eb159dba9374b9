"""What a model is.

A :class:`SequenceModel` is a torch module that turns jagged token sequences into one state per token and
can write itself down as a program for the engine. A :class:`CountingModel` has no gradient: it counts
events. Both end as an :class:`~chronorec.artifact.Artifact`, and everything after that (validation,
evaluation, serving) knows only the artifact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np

    from chronorec.data.histories import Histories


def receptive_length(window: int, blocks: int) -> int:
    """How many of the last tokens a state depends on, after ``blocks`` layers that each see ``window``."""
    return blocks * (window - 1) + 1


class Sequences(NamedTuple):
    """B jagged sequences of N tokens, as models read them.

    Attributes:
        items: int64 [N], or [M] where tokens are bags (baskets).
        offsets: int64 [B + 1], tokens of each sequence.
        bag_offsets: int64 [N + 1] items of each token, or None where a token is one item.
        times: int64 [N], microseconds, when each token happened, or None.
        asked: int64 [N], when the answer after each token is asked for, or None: the time of its target.
    """

    items: Tensor
    offsets: Tensor
    bag_offsets: Tensor | None = None
    times: Tensor | None = None
    asked: Tensor | None = None


class SequenceModel(nn.Module, ABC):
    """Item embedding -> encoder -> states, scored against the same item table.

    Args:
        num_items: catalogue size V.
        width: embedding and state size D.
        max_length: how many of the last tokens a sequence may have.
        dropout: probability of dropping an element of the embedded tokens in training.
        item_bias: whether every item has a learned bias in the scores.
    """

    name: str
    #: Whether the states depend on the time of every token.
    needs_time: bool = False

    def __init__(self, num_items: int, width: int, max_length: int, dropout: float, item_bias: bool) -> None:
        super().__init__()
        self.max_length = max_length
        self.item_embedding = nn.Parameter(torch.empty(num_items, width))
        nn.init.normal_(self.item_embedding, std=0.02)
        self.item_bias = nn.Parameter(torch.zeros(num_items)) if item_bias else None
        self.dropout = nn.Dropout(dropout)

    @property
    def embedding_scale(self) -> float:
        """The factor on item embeddings at the input: the table itself stays small for the output."""
        return float(self.item_embedding.shape[1] ** 0.5)

    def embed(self, sequences: Sequences) -> Tensor:
        """Tokens [N, D]: the item of each, or the mean over its bag."""
        items, bag_offsets = sequences.items, sequences.bag_offsets
        if bag_offsets is None:
            return F.embedding(items, self.item_embedding) * self.embedding_scale
        bags = F.embedding_bag(items, self.item_embedding, bag_offsets, mode="mean", include_last_offset=True)
        return bags * self.embedding_scale

    def embed_steps(self, **more: str) -> list[dict[str, Any]]:
        """What :meth:`embed` does; the tokens are then in register "x"."""
        embed = {"call": "embed", "table": "item_embedding", "scale": self.embedding_scale, "out": "x"}
        return [{**embed, **more}]

    @torch.no_grad()
    def start_from_popularity(self, counts: Tensor) -> None:
        """Sets the item bias to log popularity, so that training begins at what everybody takes.

        Args:
            counts: training events of each item, [V].
        """
        if self.item_bias is not None:
            share = (counts + 1) / (counts + 1).sum()
            self.item_bias.copy_(share.log() - share.log().mean())

    @abstractmethod
    def forward(self, sequences: Sequences) -> Tensor:
        """States [N, D] after each token, which see no later token and no time after ``asked``."""

    @abstractmethod
    def program(self) -> list[dict[str, Any]]:
        """The steps of the encoder for the engine; see :mod:`chronorec.artifact`."""

    def export(self, items: Any, *, name: str | None = None, **fields: Any) -> Artifact:
        """The model as an artifact that owns a copy of the weights.

        Args:
            items: vocabulary table of the histories the model was trained on.
            fields: further fields of the artifact, such as ``basket`` or ``provenance``.
        """
        weights: dict[str, np.ndarray] = {
            key: value.detach().float().numpy().copy() for key, value in self.state_dict().items()
        }
        return Artifact(
            name=name or self.name,
            items=items,
            weights=weights,
            program=self.program(),
            table="item_embedding",
            bias="item_bias" if self.item_bias is not None else None,
            max_length=self.max_length,
            needs_time=self.needs_time,
            **fields,
        )


class CountingModel(ABC):
    """A model that is counted, not trained."""

    name: str

    @abstractmethod
    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        """Counts the events ``offsets[b]:end[b]`` of every user b, and nothing after them.

        Args:
            histories: the events.
            end: int64 [B], one past the last event of each user that may be looked at.
            basket: whether the next basket is asked for rather than the next event.
            exclude_seen: whether a user's earlier items leave the candidates.
        """
