"""What the two ops behind :func:`chronorec.ops.item_cross_entropy` share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from chronorec.ops._memory import packed
from chronorec.ops._register import define_gradient

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


class SoftmaxInputs(NamedTuple):
    """What the op of the softmax loss takes, in the order of its schema."""

    hidden: Tensor
    table: Tensor
    targets: Tensor
    target_offsets: Tensor | None
    bias: Tensor | None
    negatives: Tensor | None
    negative_log_q: Tensor | None
    target_log_q: Tensor | None
    weights: Tensor | None
    temperature: float
    label_smoothing: float
    ignore_index: int
    hidden_grad: bool
    table_grad: bool
    bias_grad: bool


def loss_outputs(
    hidden: Tensor, table: Tensor, bias: Tensor | None, hidden_grad: bool, table_grad: bool, bias_grad: bool
) -> Outputs:
    """Loss and gradients; a gradient nobody asked for is empty."""
    return (
        hidden.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape if hidden_grad else (0,)),
        table.new_empty(table.shape if table_grad else (0,)),
        table.new_empty(bias.shape if bias is not None and bias_grad else (0,)),
    )


def wanted_gradients(
    outputs: Outputs, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of hidden, table and bias for the core: None where nobody asked."""
    hidden, table, bias = (x if flag else None for x, flag in zip(outputs[1:], wanted, strict=True))
    return hidden, table, bias


def counted_targets(
    targets: Tensor, offsets: Tensor | None, target_log_q: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Targets, offsets and log_q without the targets that are ``ignore_index``."""
    counted = targets != ignore_index
    if bool(counted.all()):
        return targets.contiguous(), packed(offsets), packed(target_log_q)
    before = torch.nn.functional.pad(counted.cumsum(0), (1, 0))
    if offsets is None:
        kept_offsets = before
    elif bool(((offsets >= 0) & (offsets <= targets.shape[0])).all()):
        kept_offsets = before[offsets]
    else:
        kept_offsets = offsets  # the core says what is wrong with them
    return targets[counted], kept_offsets, None if target_log_q is None else target_log_q[counted]


def define_loss_gradient(op: Any, fields: tuple[str, ...]) -> None:
    """Registers backward of an op that returns (loss, gradients of hidden, table and bias).

    Args:
        fields: names of the op's inputs, the last three being the flags that say which gradients are wanted.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted = inputs[-3:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("item_cross_entropy: double backward (create_graph=True) is not supported")
        gradients = list(ctx.saved_tensors)
        # A plain tensor is not being traced: its value may be looked at. It is 1 in `loss.backward()`. On a
        # GPU a look would wait for the device.
        if type(grad_loss) is not Tensor or not grad_loss.is_cpu or grad_loss.item() != 1:
            gradients = [(g * grad_loss).to(g.dtype) for g in gradients]
        of = {
            name: g if wanted else None
            for name, g, wanted in zip(("hidden", "table", "bias"), gradients, ctx.wanted, strict=True)
        }
        return tuple(of.get(field) for field in fields)

    define_gradient(op, backward, setup_context)
