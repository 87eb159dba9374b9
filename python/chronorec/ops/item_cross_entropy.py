"""Softmax loss over the item table, without storing the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import FLOATS, check_same_device, check_tensor
from chronorec.ops._register import define_gradient, define_op

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64


def item_cross_entropy(
    hidden: Float[Tensor, "N D"],
    table: Float[Tensor, "V D"],
    targets: Int64[Tensor, " M"],
    *,
    target_offsets: Int64[Tensor, " N+1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    negatives: Int64[Tensor, " K"] | None = None,
    negative_log_q: Float32[Tensor, " K"] | None = None,
    target_log_q: Float32[Tensor, " M"] | None = None,
) -> Float32[Tensor, ""]:
    """Cross entropy of ``hidden @ table.T + bias`` against target items, mean over rows.

    The logit of item ``v`` for row ``n`` is ``s(n, v) = hidden[n] . table[v] + bias[v]``. The N x V
    logits never exist: memory beyond the gradients is under 64 MB at N = 4096, V = 100,000, D = 64.

    *Full* (no ``negatives``): a row's loss is ``logsumexp_v s(n, v)`` less the mean of ``s(n, t)`` over its
    targets ``t``.

    *Sampled*: all rows share the ``negatives``. Logits are corrected by the logarithm of how often each item
    is expected in the sample (logQ correction): ``s'(n, v) = s(n, v) - log_q(v)``. A row's loss is the mean
    over its targets of ``logaddexp(s'(n, t), logsumexp_k s'(n, k)) - s'(n, t)``, where ``k`` runs over the
    negatives that are not targets of the row (accidental hits are masked; duplicates count each).

    Where a gradient is wanted, the call computes it beside the loss, while the logits are in cache, and
    backward only scales it. The gradient of ``table`` is dense. Gradients of gradients are not supported.

    Args:
        hidden: float32 or bfloat16, one row per prediction.
        table: same dtype: one row per item.
        targets: item ids. One per row, or as ``target_offsets`` says.
        target_offsets: row ``n`` has the targets ``targets[target_offsets[n]:target_offsets[n + 1]]`` (a next
            basket). Rows without targets are ignored: they do not count in the mean.
        bias: same dtype as ``hidden``.
        negatives: item ids of the shared sample.
        negative_log_q: log of the expected count of each negative; none: no correction.
        target_log_q: the same for each target.

    Returns:
        The loss, float32 for every input dtype. Zero, with zero gradients, if no row has a target.

    Raises:
        TypeError: a dtype is not supported (float64, float16, int32 ids, mixed dtypes).
        ValueError: shapes do not fit, an id is out of range, offsets do not run from 0 to M, or a log_q comes
            without negatives.
        RuntimeError: ``backward(create_graph=True)``.

    Sampled softmax with correction: Bengio and Senecal 2008; Yi et al. 2019 (RecSys). Gradients in the
    forward pass: Hsu et al. 2024, Liger Kernel, arXiv 2410.10989.
    """
    _check(hidden, table, targets, target_offsets, bias, negatives, negative_log_q, target_log_q)
    learning = torch.is_grad_enabled()
    return _forward(  # type: ignore[no-any-return]
        hidden,
        table,
        targets,
        target_offsets,
        bias,
        negatives,
        negative_log_q,
        target_log_q,
        learning and hidden.requires_grad,
        learning and table.requires_grad,
        learning and bias is not None and bias.requires_grad,
    )[0]


def _check(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor | None,
    bias: Tensor | None,
    negatives: Tensor | None,
    negative_log_q: Tensor | None,
    target_log_q: Tensor | None,
) -> None:
    check_tensor(hidden, "hidden", ("N", "D"), FLOATS)
    check_tensor(table, "table", ("V", hidden.shape[1]), hidden.dtype)
    check_tensor(targets, "targets", ("M" if target_offsets is not None else hidden.shape[0],), torch.int64)
    if target_offsets is not None:
        check_tensor(target_offsets, "target_offsets", (hidden.shape[0] + 1,), torch.int64)
    if bias is not None:
        check_tensor(bias, "bias", (table.shape[0],), hidden.dtype)
    if negatives is not None:
        check_tensor(negatives, "negatives", ("K",), torch.int64)
    for name, value, like in (
        ("negative_log_q", negative_log_q, negatives),
        ("target_log_q", target_log_q, targets),
    ):
        if value is None:
            continue
        if negatives is None or like is None:
            raise ValueError(f"{name}: wanted negatives to go with it, got negatives=None")
        check_tensor(value, name, (like.shape[0],), torch.float32)
        if value.requires_grad:
            raise ValueError(f"{name}: wanted a constant, got a tensor that requires a gradient")
    check_same_device(
        hidden=hidden,
        table=table,
        targets=targets,
        target_offsets=target_offsets,
        bias=bias,
        negatives=negatives,
        negative_log_q=negative_log_q,
        target_log_q=target_log_q,
    )


def _packed(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _rows(value: Tensor) -> Tensor:
    return value if value.stride(1) == 1 else value.contiguous()


def _outputs(
    hidden: Tensor, table: Tensor, bias: Tensor | None, hidden_grad: bool, table_grad: bool, bias_grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and gradients; a gradient nobody asked for is empty."""
    return (
        hidden.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape if hidden_grad else (0,)),
        table.new_empty(table.shape if table_grad else (0,)),
        table.new_empty(bias.shape if bias is not None and bias_grad else (0,)),
    )


def _cpu(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor | None,
    bias: Tensor | None,
    negatives: Tensor | None,
    negative_log_q: Tensor | None,
    target_log_q: Tensor | None,
    hidden_grad: bool,
    table_grad: bool,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outputs = _outputs(hidden, table, bias, hidden_grad, table_grad, bias_grad)
    loss, grad_hidden, grad_table, grad_bias = outputs
    targets = targets.contiguous()
    order = torch.argsort(targets, stable=True) if table_grad or bias_grad else None
    if negatives is not None:
        # a sum over negatives has no order: sorted, duplicates and accidental hits are found by bisection
        negatives, by_item = torch.sort(negatives, stable=True)
        negative_log_q = None if negative_log_q is None else negative_log_q[by_item]
    cols = table.shape[0] if negatives is None else negatives.shape[0]
    scratch = torch.empty(
        _core.item_cross_entropy_scratch(
            hidden.shape[0],
            cols,
            targets.shape[0],
            hidden.shape[1],
            negatives is not None,
            hidden.dtype == torch.bfloat16,
            hidden_grad,
            table_grad,
            bias_grad,
        ),
        dtype=torch.uint8,
    )
    _core.item_cross_entropy(
        _rows(hidden.detach()),
        _rows(table.detach()),
        targets,
        _packed(target_offsets),
        order,
        _packed(None if bias is None else bias.detach()),
        negatives,
        negative_log_q,
        _packed(target_log_q),
        loss.view(1),
        grad_hidden if hidden_grad else None,
        grad_table if table_grad else None,
        grad_bias if bias_grad else None,
        scratch,
    )
    return outputs


def _fake(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor | None,
    bias: Tensor | None,
    negatives: Tensor | None,
    negative_log_q: Tensor | None,
    target_log_q: Tensor | None,
    hidden_grad: bool,
    table_grad: bool,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(hidden, table, bias, hidden_grad, table_grad, bias_grad)


_forward = define_op(
    "item_cross_entropy(Tensor hidden, Tensor table, Tensor targets, Tensor? target_offsets, Tensor? bias, "
    "Tensor? negatives, Tensor? negative_log_q, Tensor? target_log_q, bool hidden_grad, bool table_grad, "
    "bool bias_grad) -> (Tensor loss, Tensor grad_hidden, Tensor grad_table, Tensor grad_bias)",
    cpu=_cpu,
    fake=_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.wanted = inputs[-3:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("item_cross_entropy: double backward (create_graph=True) is not supported")
    gradients = list(ctx.saved_tensors)
    # A plain tensor is not being traced: its value may be looked at. It is 1 in `loss.backward()`.
    if type(grad_loss) is not Tensor or grad_loss.item() != 1:
        gradients = [(g * grad_loss).to(g.dtype) for g in gradients]
    hidden, table, bias = (g if wanted else None for g, wanted in zip(gradients, ctx.wanted, strict=True))
    return hidden, table, None, None, bias, None, None, None, None, None, None


define_gradient(_forward, _backward, _setup_context)
