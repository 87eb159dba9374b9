"""The best items of a catalogue, in plain PyTorch: all scores, then a stable sort."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chronorec.ops.reference.item_score import ItemAdjustment, all_scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class TopK(NamedTuple):
    """Scores [B, K], descending, and items int64 [B, K]; ``-inf`` and ``-1`` where no item is left."""

    scores: Tensor
    items: Tensor


def item_topk(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"],
    k: int,
    *,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> TopK:
    """Specification of :func:`chronorec.ops.item_topk`."""
    scores = all_scores(queries, table, bias, adjust, allow)
    scores = torch.where(scores > -torch.inf, scores, -torch.inf)
    scores = torch.nn.functional.pad(scores, (0, k), value=-torch.inf)
    best = torch.sort(scores, dim=1, descending=True, stable=True)  # stable: ties by ascending item
    found = best.values[:, :k]
    return TopK(found, torch.where(found > -torch.inf, best.indices[:, :k], -1))
