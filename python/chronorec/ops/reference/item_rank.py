"""The exact rank of targets among all items, in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chronorec.ops.reference.item_score import ItemAdjustment, all_scores, owners

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Rank(NamedTuple):
    """Per target, int64 [M]: how many other items score more, and how many exactly as much."""

    greater: Tensor
    equal: Tensor


def item_rank(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"],
    targets: Int[Tensor, " M"],
    *,
    target_offsets: Int[Tensor, " B_plus_1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> Rank:
    """Specification of :func:`chronorec.ops.item_rank`."""
    rows = torch.arange(len(queries)) if target_offsets is None else owners(target_offsets)
    scores = all_scores(queries, table, bias, adjust, allow)
    own = scores[rows, targets.long()]
    left = own > -torch.inf
    greater = (scores[rows] > own.unsqueeze(1)).sum(1)
    equal = (scores[rows] == own.unsqueeze(1)).sum(1) - 1
    return Rank(torch.where(left, greater, len(table)), torch.where(left, equal, 0))
