"""The op behind :func:`chronorec.ops.item_cross_entropy` where negatives belong to rows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from chronorec import _core
from chronorec.ops._backend import in_triton
from chronorec.ops._item_loss import (
    Outputs,
    counted_targets,
    define_loss_gradient,
    loss_outputs,
    wanted_gradients,
)
from chronorec.ops._memory import packed, rows, scratch
from chronorec.ops._register import define_op
from chronorec.ops.reference.item_cross_entropy import gbce_exponent

KINDS = ("softmax", "gbce", "bpr")  # in the order of the core's numbers


class Inputs(NamedTuple):
    """What the op takes, in the order of its schema."""

    hidden: Tensor
    table: Tensor
    targets: Tensor
    target_offsets: Tensor | None
    bias: Tensor | None
    negatives: Tensor
    negative_log_q: Tensor | None
    target_log_q: Tensor | None
    weights: Tensor | None
    temperature: float
    kind: int
    calibration: float
    ignore_index: int
    hidden_grad: bool
    table_grad: bool
    bias_grad: bool


def _cpu(*arguments: Any) -> Outputs:
    x = Inputs(*arguments)
    outputs = _fake(*arguments)
    targets, offsets, target_log_q = counted_targets(
        x.targets, x.target_offsets, x.target_log_q, x.ignore_index
    )
    items, negatives = x.table.shape[0], by_row(x.negatives, x.hidden)
    count = negatives.shape[1]
    scatters = x.table_grad or x.bias_grad
    shared = len(x.hidden) > 1 and negatives.stride(0) == 0 and x.kind != KINDS.index("softmax")
    size = _core.item_sampled_loss_scratch(
        x.hidden.shape[0], items, count, targets.shape[0], x.hidden.shape[1], scatters, shared
    )
    _core.item_sampled_loss(
        rows(x.hidden),
        rows(x.table),
        targets,
        offsets,
        packed(x.bias),
        negatives,
        None if x.negative_log_q is None else by_row(x.negative_log_q, x.hidden),
        target_log_q,
        packed(x.weights),
        x.temperature,
        x.kind,
        gbce_exponent(count, items, x.calibration),
        outputs[0].view(1),
        *wanted_gradients(outputs, x[-3:]),
        scratch(size),
    )
    return outputs


def by_row(value: Tensor, hidden: Tensor) -> Tensor:
    """One row per row of ``hidden``; what all rows share stays where it is."""
    return rows(value) if value.dim() == 2 else value.detach().contiguous().expand(len(hidden), -1)


def _fake(*arguments: Any) -> Outputs:
    x = Inputs(*arguments)
    return loss_outputs(x.hidden, x.table, x.bias, *x[-3:])


sampled_loss = define_op(
    "item_sampled_loss(Tensor hidden, Tensor table, Tensor targets, Tensor? target_offsets, Tensor? bias, "
    "Tensor negatives, Tensor? negative_log_q, Tensor? target_log_q, Tensor? weights, float temperature, "
    "int kind, float calibration, int ignore_index, bool hidden_grad, bool table_grad, bool bias_grad) "
    "-> (Tensor loss, Tensor grad_hidden, Tensor grad_table, Tensor grad_bias)",
    cpu=_cpu,
    cuda=in_triton("item_sampled_loss", "sampled_loss"),
    fake=_fake,
)
define_loss_gradient(sampled_loss, Inputs._fields)
