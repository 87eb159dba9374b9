"""BERT4Rec: a bidirectional transformer that fills gaps in a history (Sun et al., CIKM 2019)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.models._steps import Step
from chronorec.models.base import Predictions, Sequences
from chronorec.models.sasrec import SASRec


class BERT4Rec(SASRec):
    """Blocks in which every token sees all others; a last token, the query, asks what comes next.

    In training every window ends with the query too, and tokens inside it are hidden and asked for at random.
    Of the query and of hidden tokens only the place and, with ``time_features``, the time is known.

    Args:
        num_items: catalogue size.
        mask_share: probability of hiding a token in training.
        position: as in :class:`SASRec`. Absolute, the query of a history longer than those of training
            stands at a place that was never learned.
        common: what :class:`SASRec` takes, but ``request_time``: with ``time_features`` the query has it.
    """

    name = "bert4rec"
    causal: ClassVar[bool] = False

    def __init__(
        self,
        num_items: int,
        *,
        mask_share: float = 0.3,
        position: Literal["absolute", "relative"] = "relative",
        **common: Any,
    ) -> None:
        super().__init__(num_items, position=position, **common)
        if self.request_time is not None:
            raise ValueError("request_time: bert4rec's query has a time of its own; take time_features")
        if self.profile is not None:
            raise ValueError("profile: bert4rec has no state of a user; take another model")
        self.mask_share = mask_share
        self.mask = nn.Parameter(0.02 * torch.randn(self.item_embedding.shape[1]))
        self.max_length = max(self.max_length - 1, 1)  # the query is a token too

    def forward(self, sequences: Sequences) -> Tensor:
        """States [B, D] of the queries: what comes after each sequence."""
        joined = _with_queries(sequences)
        hidden = torch.zeros_like(joined.order, dtype=torch.bool)
        return self._fill(sequences, joined, hidden)[joined.queries]

    def last_states(self, sequences: Sequences) -> Tensor:
        return self(sequences)  # type: ignore[no-any-return]

    def predictions(
        self, sequences: Sequences, targets: Tensor, target_offsets: Tensor | None
    ) -> Predictions:
        """States of queries and of hidden tokens, and what stands in their place."""
        joined = _with_queries(sequences)
        hidden = torch.rand(len(joined.order), device=targets.device) < self.mask_share
        hidden[joined.queries] = True
        states = self._fill(sequences, joined, hidden)[hidden]
        pool = torch.cat([sequences.items, targets])
        ends = sequences.offsets[1:] - 1  # the query's target is that of the last token
        if sequences.bag_offsets is None or target_offsets is None:
            places = torch.cat([_count(len(sequences.items), ends), len(sequences.items) + ends])
            return Predictions(states, pool[places[joined.order[hidden]]], None)
        begin = torch.cat([sequences.bag_offsets[:-1], len(sequences.items) + target_offsets[ends]])
        sizes = torch.cat([sequences.bag_offsets.diff(), target_offsets.diff()[ends]])
        begin, sizes = begin[joined.order[hidden]], sizes[joined.order[hidden]]
        offsets = F.pad(sizes.cumsum(0), (1, 0))
        places = _count(int(offsets[-1]), offsets) + torch.repeat_interleave(begin - offsets[:-1], sizes)
        return Predictions(states, pool[places], offsets)

    def _fill(self, sequences: Sequences, joined: _Joined, hidden: Tensor) -> Tensor:
        """States [N + B, D] of tokens and queries, in which nothing sees what ``hidden`` [N + B] marks."""
        items = self.embed_items(sequences)
        masks = self.mask.expand(len(joined.queries), -1)
        tokens = F.embedding(joined.order, torch.cat([items, masks]))
        tokens = torch.where(hidden[:, None], self.mask, tokens)
        sequences = joined.sequences
        if sequences.types is not None:  # what is hidden has no type either
            sequences = sequences._replace(types=sequences.types.masked_fill(hidden, -1))
        return self.encode(self.dropout(self.place(tokens, sequences)), sequences)

    def embed_steps(self, **more: str) -> list[Step]:
        return super().embed_steps(**more, query="mask")


class _Joined(NamedTuple):
    """N tokens and B queries, one after each sequence.

    Attributes:
        sequences: their offsets, times and types, without items.
        order: int64 [N + B]: row i is token ``order[i]``, or query ``order[i] - N``.
        queries: int64 [B], the rows of the queries.
    """

    sequences: Sequences
    order: Tensor
    queries: Tensor


def _count(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, device=like.device)


def _with_queries(sequences: Sequences) -> _Joined:
    batch, tokens = len(sequences.offsets) - 1, int(sequences.offsets[-1])
    offsets = sequences.offsets + _count(batch + 1, sequences.offsets)
    queries = offsets[1:] - 1
    order = _count(tokens + batch, offsets) - torch.repeat_interleave(offsets.diff())
    order[queries] = tokens + _count(batch, offsets)
    times = types = None
    if sequences.types is not None:
        types = F.pad(sequences.types, (0, batch), value=-1)[order]
    if sequences.times is not None and sequences.asked is not None:
        times = torch.cat([sequences.times, sequences.asked[sequences.offsets[1:] - 1]])[order]
    return _Joined(Sequences(sequences.items[:0], offsets, None, times, None, types), order, queries)
