"""Scores of listed items, in plain PyTorch. Here stands what a score is for item_topk and item_rank too."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class ItemAdjustment(NamedTuple):
    """What each query adds to the scores of a few items: a jagged sparse list per query.

    One mechanism for excluded items, repeat consumption, personal frequencies and Markov transitions.

    Attributes:
        offsets: int64 [B + 1]: query b owns entries ``offsets[b]:offsets[b + 1]``.
        items: int32 or int64 [N], strictly ascending within a query.
        values: float [N], added to the score; ``-inf``, or no values at all, takes the item out.
    """

    offsets: Tensor
    items: Tensor
    values: Tensor | None = None


def owners(offsets: Tensor) -> Tensor:
    """The row that owns each entry of a jagged list."""
    rows = torch.arange(offsets.numel() - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff())


def all_scores(
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    adjust: ItemAdjustment | None,
    allow: Tensor | None,
) -> Tensor:
    """Scores [B, V] of every item for every query, computed in at least float32.

    An item is *left* for a query if its score exceeds ``-inf``; ``-inf`` and NaN mean taken out.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    scores = queries.to(dtype) @ table.to(dtype).T
    if bias is not None:
        scores = scores + bias.to(dtype)
    if adjust is not None:
        cells = (owners(adjust.offsets), adjust.items.long())
        if adjust.values is None:
            scores[cells] = -torch.inf
        else:
            scores[cells] += adjust.values.to(dtype)
    return scores if allow is None else scores.masked_fill(~allow, -torch.inf)


def item_score(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"],
    items: Int[Tensor, " M"],
    *,
    item_offsets: Int[Tensor, " B_plus_1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> Float[Tensor, " M"]:
    """Specification of :func:`chronorec.ops.item_score`."""
    rows = torch.arange(len(queries)) if item_offsets is None else owners(item_offsets)
    return all_scores(queries, table, bias, adjust, allow)[rows, items.long()]
