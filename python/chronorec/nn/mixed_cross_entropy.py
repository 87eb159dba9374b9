"""Softmax cross entropy over all items where some of them have additional weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chronorec.nn.copy import Candidates

#: Logits that are there at a time.
_CHUNK = 1 << 22


def mixed_cross_entropy(
    hidden: Tensor,
    table: Tensor,
    bias: Tensor | None,
    candidates: Candidates,
    targets: Tensor,
    target_offsets: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the weights ``exp(hidden @ table.T + bias) + exp(log_weights)``, mean over rows.

    The log_weights of a row's candidates count for these items alone; for all others they are nothing. Of a
    row with several targets the mean over them counts; rows without are left out. The gradient is computed
    beside the loss, over chunks of rows; gradients of gradients are not supported.

    Args:
        hidden: [N, D].
        table: [V, D].
        bias: [V] or None.
        candidates: of the N rows; an item comes once in a row.
        targets: int64 [N], or [M] where ``target_offsets`` int64 [N + 1] say whose they are.
    """
    if target_offsets is None:
        target_offsets = torch.arange(len(hidden) + 1, device=hidden.device)
    loss: Tensor = _Mixed.apply(  # type: ignore[no-untyped-call]
        hidden, table, bias, *candidates, targets, target_offsets
    )
    return loss


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        bias: Tensor | None,
        offsets: Tensor,
        items: Tensor,
        log_weights: Tensor,
        targets: Tensor,
        target_offsets: Tensor,
    ) -> Tensor:
        rows = len(hidden)
        grads = torch.empty_like(hidden), torch.zeros_like(table), torch.zeros_like(table[:, 0])
        grad_weights = torch.empty_like(log_weights)
        sizes = target_offsets.diff()
        counted = int((sizes > 0).sum())
        total = hidden.new_zeros(())
        step = max(_CHUNK // max(len(table), 1), 1)
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            part = slice(begin, end)
            logits = hidden[part] @ table.T
            if bias is not None:
                logits += bias
            flat = logits.view(-1)
            some = slice(int(offsets[begin]), int(offsets[end]))
            places = _places(offsets[begin : end + 1], items[some], len(table))
            own, added = flat[places], log_weights[some]
            share = torch.sigmoid(added - own)
            flat[places] = torch.logaddexp(own, added)
            normalizer = logits.logsumexp(1, keepdim=True)
            right = slice(int(target_offsets[begin]), int(target_offsets[end]))
            goals = _places(target_offsets[begin : end + 1], targets[right], len(table))
            row = goals // len(table)
            shares = 1 / (sizes[part][row].to(hidden.dtype) * max(counted, 1))
            total += ((normalizer[row, 0] - flat[goals]) * shares).sum()
            logits.sub_(normalizer).exp_().mul_((sizes[part] > 0)[:, None] / max(counted, 1))
            flat[goals] -= shares  # targets of a row are distinct
            gradient = flat[places]
            grad_weights[some] = gradient * share
            flat[places] = gradient * (1 - share)
            grads[0][part] = logits @ table
            grads[1].addmm_(logits.T, hidden[part])
            grads[2].add_(logits.sum(0))
        ctx.save_for_backward(*grads, grad_weights)
        ctx.biased = bias is not None
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, table, bias, weights = (grad * saved for saved in ctx.saved_tensors)
        return hidden, table, bias if ctx.biased else None, None, None, weights, None, None


def _places(offsets: Tensor, items: Tensor, num_items: int) -> Tensor:
    """Where the items of each row lie in rows of ``num_items``."""
    return torch.repeat_interleave(offsets.diff()) * num_items + items
