"""Specification of :func:`chronorec.ops.item_cross_entropy`, all logits at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
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
    loss: Literal["softmax", "gbce", "bpr"] = "softmax",
    negatives: Int[Tensor, " K"] | Int[Tensor, "N K"] | None = None,
    negative_log_q: Float[Tensor, " K"] | Float[Tensor, "N K"] | None = None,
    target_log_q: Float[Tensor, " M"] | None = None,
    weights: Float[Tensor, " N"] | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    calibration: float = 0.75,
) -> Float[Tensor, ""]:
    """Loss over items in plain PyTorch, in the dtype of the inputs."""
    rows, items = hidden.shape[0], table.shape[0]
    if target_offsets is None:
        target_offsets = torch.arange(rows + 1, device=targets.device)
    if weights is None:
        weights = torch.ones(rows, device=hidden.device)
    row = torch.repeat_interleave(target_offsets.diff())  # of each target
    counted = (targets != ignore_index) & (weights[row] > 0)
    row, targets = row[counted], targets[counted]
    logits = hidden @ table.T
    if bias is not None:
        logits = logits + bias
    logits = logits / temperature
    right = logits[row, targets]
    if target_log_q is not None:
        right = right - target_log_q[counted]
    if negatives is None:
        normalizer = torch.logsumexp(logits, 1)
        losses = (1 - label_smoothing) * (normalizer[row] - right)
        if label_smoothing > 0:
            losses = losses + label_smoothing * (normalizer - logits.mean(1))[row]
    else:
        negatives = negatives.expand(rows, -1)
        is_target = torch.zeros(rows, items, dtype=torch.bool, device=targets.device)
        is_target[row, targets] = True
        hit = is_target.gather(1, negatives)
        rivals = logits.gather(1, negatives)
        if negative_log_q is not None:
            rivals = rivals - negative_log_q
        losses = _sampled(loss, right, rivals[row], hit[row], gbce_exponent(hit.shape[1], items, calibration))
    counts = torch.bincount(row, minlength=rows)
    total = weights[counts > 0].double().sum()
    share = weights[row].double() / (counts[row] * total)
    return (losses * share.to(losses.dtype)).sum()


def _sampled(loss: str, right: Tensor, rivals: Tensor, hit: Tensor, exponent: float) -> Tensor:
    """The loss of each target against its row's negatives."""
    kept = (~hit).sum(1)
    if loss == "softmax":
        rivals = rivals.masked_fill(hit, -torch.inf)
        return torch.logsumexp(torch.cat([right[:, None], rivals], 1), 1) - right
    if loss == "gbce":
        wrong = F.softplus(rivals).masked_fill(hit, 0).sum(1)
        return (exponent * F.softplus(-right) + wrong) / (kept + 1)
    return F.softplus(rivals - right[:, None]).masked_fill(hit, 0).sum(1) / kept.clamp(min=1)


def gbce_exponent(negatives: int, items: int, calibration: float) -> float:
    """The power of the target's probability in gBCE: 1 uncalibrated, the sampled share in full."""
    share = min(negatives / max(items - 1, 1), 1.0)
    return 1 - calibration * (1 - share)
