"""Repeat consumption: weights of the items of a history, beside the scores of all items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.nn.gap_bias import gap_boundaries
from chronorec.nn.time_features import HOUR

#: The factor on table entries: they have further to go than the weights of a network at the same rate.
SCALE = 10.0
#: Tokens back that are told apart.
RANKS = 200


class Candidates(NamedTuple):
    """The items of each row's history, each once.

    Attributes:
        offsets: int64 [N + 1], candidates of row n: offsets[n] .. offsets[n + 1] - 1.
        items: int64 [G].
        log_weights: [G], the logarithm of what a candidate's ``exp(score)`` grows by.
    """

    offsets: Tensor
    items: Tensor
    log_weights: Tensor


class CopyHead(nn.Module):
    """Weighs the items of a history: RepeatNet's repeat mode (Ren et al., AAAI 2019) by learned counting.

    Row t gives item v the log_weight gate(state_t) + item_v + recency + count + log sum_j exp(e_j), over the
    occurrences j of v up to t. ``e_j`` adds learned entries by how many tokens ago j was, by whether the one
    and the two tokens before j were the last ones now (a Markov chain of the user's own), and where times are
    known by how long ago j was, how far that is from whole days and from whole weeks; the Markov chain then
    also knows how long ago the last token was. ``recency`` is an entry
    by the time since v, ``count`` one by the number of occurrences. All start at zero: an item weighs its
    count.

    Args:
        num_items: catalogue size V.
        width: size D of the states.
        timed: whether times of tokens and questions are known.
    """

    def __init__(self, num_items: int, width: int, *, timed: bool) -> None:
        super().__init__()
        self.timed = timed
        self.gate = nn.Linear(width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.boundaries: Tensor
        self.register_buffer("boundaries", gap_boundaries())
        gaps = len(self.boundaries) + 1
        sizes = {"item": num_items, "rank": RANKS, "follow": 3, "count": 16}
        if timed:
            sizes |= {"gap": gaps, "daily": 24, "weekly": 85, "recency": gaps, "follow": 3 * gaps}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size, 1)))

    def forward(
        self,
        states: Tensor,
        items: Tensor,
        offsets: Tensor,
        bag_offsets: Tensor | None,
        times: Tensor | None,
        asked: Tensor | None,
    ) -> Candidates:
        """The candidates of every token, which are its own items and those of the tokens before it.

        Args:
            states: [N, D].
            items, offsets, bag_offsets, times, asked: as in :class:`chronorec.models.Sequences`.
        """
        pairs = _pairs(items, offsets, bag_offsets)
        tokens = pairs.token_of[pairs.occurrence]
        values = self._entry("rank", (pairs.row - tokens).clamp(max=RANKS - 1))
        gap = None
        if self.timed:
            assert times is not None
            assert asked is not None
            gap = asked[pairs.row] - times[tokens]
            values = values + self._entry("gap", self._bucket(gap))
            values = values + self._entry("daily", (_distance(gap, 24 * HOUR) * 2 // HOUR).clamp(max=23))
            values = values + self._entry("weekly", (_distance(gap, 168 * HOUR) + HOUR // 2) // HOUR)
        if bag_offsets is None:
            followed = _followed(items, offsets, pairs.row, tokens)
            if times is not None and asked is not None and self.timed:
                wait = self._bucket(asked - times)[pairs.row]
                followed = followed * (len(self.boundaries) + 1) + wait
            values = values + self._entry("follow", followed)
        groups = len(pairs.items)
        sums = values.new_zeros(groups).index_add(0, pairs.group, values.exp())
        counts = torch.bincount(pairs.group, minlength=groups)
        row = torch.repeat_interleave(pairs.offsets.diff())
        # an indexed table would add its gradient up in no fixed order
        weights = (
            sums.log() + F.embedding(row, self.gate(states)).squeeze(-1) + self._entry("item", pairs.items)
        )
        weights = weights + self._entry("count", (counts - 1).clamp(max=15))
        if gap is not None:
            latest = torch.full_like(pairs.items, torch.iinfo(torch.int64).max)
            latest = latest.scatter_reduce(0, pairs.group, gap, "amin")
            weights = weights + self._entry("recency", self._bucket(latest))
        return Candidates(pairs.offsets, pairs.items, weights)

    def _entry(self, table: str, places: Tensor) -> Tensor:
        return SCALE * F.embedding(places, self.get_parameter(table)).squeeze(-1)

    def _bucket(self, gaps: Tensor) -> Tensor:
        return torch.bucketize(gaps.float(), self.boundaries.float(), right=True)


class _Pairs(NamedTuple):
    """Rows and the occurrences of items up to them.

    Attributes:
        row, occurrence, group: int64 [P]; pair p is in the candidate ``group[p]``.
        token_of: int64 [M], the token of each occurrence.
        offsets, items: of the candidates, as in :class:`Candidates`.
    """

    row: Tensor
    occurrence: Tensor
    group: Tensor
    token_of: Tensor
    offsets: Tensor
    items: Tensor


def _pairs(items: Tensor, offsets: Tensor, bag_offsets: Tensor | None) -> _Pairs:
    tokens = int(offsets[-1])
    bags = torch.arange(tokens + 1, device=items.device) if bag_offsets is None else bag_offsets
    token_of = torch.repeat_interleave(bags.diff())
    sequence = torch.repeat_interleave(offsets.diff())
    origin = bags[offsets[:-1]][sequence]  # first occurrence of a token's sequence
    row, occurrence = _ranges(origin, bags[1:] - origin)
    # Distinct items of a sequence by first appearance: the candidates of a row are then the first of them.
    bound = int(items.max()) + 1 if len(items) else 1
    keys = sequence[token_of] * bound + items
    unique, inverse = torch.unique(keys, return_inverse=True)
    occurrences = torch.arange(len(keys), device=items.device)
    first = torch.full_like(unique, len(keys)).scatter_reduce(0, inverse, occurrences, "amin")
    place = torch.empty_like(first)
    place[first.argsort()] = occurrences[: len(first)]
    is_first = items.new_zeros(len(keys) + 1, dtype=torch.int64)
    is_first[first + 1] = 1
    seen = is_first.cumsum(0)  # distinct (sequence, item) before each occurrence
    candidates = seen[bags[1:]] - seen[origin]
    candidate_offsets = F.pad(candidates.cumsum(0), (1, 0))
    group = candidate_offsets[row] + place[inverse[occurrence]] - seen[origin][row]
    by_place = items[first.sort().values]
    _, members = _ranges(seen[origin], candidates)
    return _Pairs(row, occurrence, group, token_of, candidate_offsets, by_place[members])


def _ranges(begin: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Row and index of begin[0] .. begin[0] + lengths[0] - 1, begin[1] .. and so on."""
    row = torch.repeat_interleave(lengths)
    return row, torch.arange(len(row), device=row.device) + (begin - lengths.cumsum(0) + lengths)[row]


def _followed(items: Tensor, offsets: Tensor, row: Tensor, tokens: Tensor) -> Tensor:
    """How many of the two tokens before ``tokens`` are, from the nearer one on, as those up to ``row``."""
    begin = torch.repeat_interleave(offsets[:-1], offsets.diff())[row]
    one = (tokens > begin) & (items[(tokens - 1).clamp(min=0)] == items[row])
    two = one & (tokens - 1 > begin) & (items[(tokens - 2).clamp(min=0)] == items[row - 1])
    return one.long() + two.long()


def _distance(gap: Tensor, period: int) -> Tensor:
    """To the nearest multiple of a period."""
    rest = gap.remainder(period)
    return torch.minimum(rest, period - rest)
