"""A second stage: candidates attend to the items of the history."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rescore(nn.Module):
    """What a candidate's score gains from its own look at the history.

    With item vectors times sqrt(D), as at a model's input, q, u = candidate(vector of the candidate) and
    k, v = history(vector of a history's item),
    ``gain = sum_j softmax_j(q . k_j / sqrt(D) + rank_j) (u . v_j) / sqrt(D)``, where ``rank`` is a bias by
    how many tokens ago. An empty history gives 0. Starts at 0, since ``u`` does.

    Source: attention by candidate is Zhou et al., "Deep Interest Network" (KDD 2018).

    Args:
        width: size D of item vectors.
        length: how many of the last tokens are looked at.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.candidate = nn.Linear(width, 2 * width)
        self.history = nn.Linear(width, 2 * width)
        self.rank = nn.Parameter(torch.zeros(length))
        with torch.no_grad():
            self.candidate.weight[width:].zero_()
            self.candidate.bias[width:].zero_()

    def forward(self, table: Tensor, candidates: Tensor, items: Tensor, ago: Tensor, known: Tensor) -> Tensor:
        """Gains [P, C].

        Args:
            table: item vectors [V, D].
            candidates: int64 [P, C].
            items: int64 [P, L], of each history; any item where ``known`` is false.
            ago: int64 [P, L], how many tokens before the last each came, less than ``length``.
            known: bool [P, L].
        """
        scale = table.shape[1] ** -0.5
        table = table / scale
        # an indexed table would add its gradient up in no fixed order
        query, output = F.embedding(candidates, self.candidate(table)).chunk(2, dim=-1)
        key, value = F.embedding(items, self.history(table)).chunk(2, dim=-1)
        bias = F.embedding(ago, self.rank[:, None]).squeeze(-1)
        scores = query @ key.mT * scale + bias[:, None]
        scores = scores.masked_fill(~known[:, None], -torch.inf)
        weights = torch.where(known.any(1)[:, None, None], scores, 0.0).softmax(-1)
        gains: Tensor = (weights * (output @ value.mT)).masked_fill(~known[:, None], 0.0).sum(-1) * scale
        return gains
