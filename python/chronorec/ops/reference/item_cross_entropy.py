"""Specification of :func:`chronorec.ops.item_cross_entropy`, all logits at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def item_cross_entropy(
    hidden: Float[Tensor, "N D"],
    table: Float[Tensor, "V D"],
    targets: Int[Tensor, " M"],
    *,
    target_offsets: Int[Tensor, " N+1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    negatives: Int[Tensor, " K"] | None = None,
    negative_log_q: Float[Tensor, " K"] | None = None,
    target_log_q: Float[Tensor, " M"] | None = None,
    weights: Float[Tensor, " N"] | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Softmax loss over items in plain PyTorch, in the dtype of the inputs."""
    if negatives is None and (negative_log_q is not None or target_log_q is not None):
        raise ValueError("negative_log_q and target_log_q: wanted negatives to go with them, got none")
    rows, items = hidden.shape[0], table.shape[0]
    if target_offsets is None:
        target_offsets = torch.arange(rows + 1, device=targets.device)
    if weights is None:
        weights = torch.ones(rows, device=hidden.device)
    row = torch.repeat_interleave(target_offsets.diff())  # of each target
    counted = (targets != ignore_index) & (weights[row] > 0)
    row, targets = row[counted], targets[counted]
    counts = torch.bincount(row, minlength=rows)
    logits = hidden @ table.T
    if bias is not None:
        logits = logits + bias
    logits = logits / temperature
    right = logits[row, targets]
    if negatives is None:
        normalizer = torch.logsumexp(logits, 1)
        losses = (1 - label_smoothing) * (normalizer[row] - right)
        if label_smoothing > 0:
            losses = losses + label_smoothing * (normalizer - logits.mean(1))[row]
    else:
        is_target = torch.zeros(rows, items, dtype=torch.bool, device=targets.device)
        is_target[row, targets] = True
        rivals = logits[:, negatives]
        if negative_log_q is not None:
            rivals = rivals - negative_log_q
        if target_log_q is not None:
            right = right - target_log_q[counted]
        rivals = rivals.masked_fill(is_target[:, negatives], -torch.inf)
        losses = torch.logsumexp(torch.cat([right[:, None], rivals[row]], 1), 1) - right
    total = weights[counts > 0].double().sum()
    share = weights[row].double() / (counts[row] * total)
    return (losses * share.to(losses.dtype)).sum()
