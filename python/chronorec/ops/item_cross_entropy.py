"""Losses over the item table, without storing the logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._backend import in_triton
from chronorec.ops._check import FLOATS, check_same_device_or_triton, check_tensor
from chronorec.ops._item_loss import (
    Outputs,
    SoftmaxInputs,
    counted_targets,
    define_loss_gradient,
    loss_outputs,
    wanted_gradients,
)
from chronorec.ops._item_sampled_loss import KINDS, sampled_loss
from chronorec.ops._memory import packed, rows, scratch
from chronorec.ops._register import define_op

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64


def item_cross_entropy(
    hidden: Float[Tensor, "N D"],
    table: Float[Tensor, "V D"],
    targets: Int64[Tensor, " M"],
    *,
    target_offsets: Int64[Tensor, " N+1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    loss: Literal["softmax", "gbce", "bpr"] = "softmax",
    negatives: Int64[Tensor, " K"] | Int64[Tensor, "N K"] | None = None,
    negative_log_q: Float32[Tensor, " K"] | Float32[Tensor, "N K"] | None = None,
    target_log_q: Float32[Tensor, " M"] | None = None,
    weights: Float32[Tensor, " N"] | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    calibration: float = 0.75,
) -> Float32[Tensor, ""]:
    """Loss of the logits ``(hidden @ table.T + bias) / temperature`` against target items, mean over rows.

    The logit of item ``v`` for row ``n`` is ``s(n, v) = (hidden[n] . table[v] + bias[v]) / temperature``. The
    N x V logits never exist: memory beyond the gradients is under 64 MB at N = 4096, V = 100,000, D = 64.

    A row's loss is the mean over its targets ``t`` of:

    - full softmax (no ``negatives``): ``logsumexp_v s(n, v) - s(n, t)``. With ``label_smoothing`` e, the
      target's logit becomes ``(1 - e) s(n, t) + e mean_v s(n, v)``.
    - sampled softmax: ``logaddexp(s'(n, t), logsumexp_k s'(n, k)) - s'(n, t)``, where logits are corrected by
      the logarithm of how often each item is expected in the sample (logQ correction):
      ``s'(n, v) = s(n, v) - log_q(v)``.
    - ``"gbce"``: ``-(b log sigmoid(s(n, t)) + sum_k log(1 - sigmoid(s(n, k)))) / (K' + 1)`` with
      ``b = a (c (1 - 1/a) + 1/a)``, c being ``calibration``, a = K / (V - 1) the share sampled.
    - ``"bpr"``: ``-mean_k log sigmoid(s(n, t) - s(n, k))``.

    ``k`` runs over the K' negatives of the row that are not among its targets (accidental hits are masked;
    duplicates count each). The mean over rows is weighted by ``weights``; rows without targets, and rows of
    weight 0, do not count.

    Where a gradient is wanted, the call computes it beside the loss, while the logits are in cache, and
    backward only scales it. The gradient of ``table`` is dense. Gradients of gradients are not supported.
    Softmax, full or over shared negatives, is matrix products: in bfloat16 the probabilities are rounded for
    those of the gradients, while the loss is that of float32. gBCE and BPR over shared negatives are products
    in float32 (on a GPU they gather); losses over negatives of each row gather them.

    Args:
        hidden: float32 or bfloat16, one row per prediction.
        table: same dtype: one row per item.
        targets: item ids. One per row, or as ``target_offsets`` says.
        target_offsets: row ``n`` has the targets ``targets[target_offsets[n]:target_offsets[n + 1]]`` (a next
            basket).
        bias: same dtype as ``hidden``.
        loss: ``"softmax"``, or over negatives ``"gbce"`` or ``"bpr"``.
        negatives: item ids of one sample for all rows, or of one for each.
        negative_log_q: log of the expected count of each negative; none: no correction. Softmax alone.
        target_log_q: the same for each target.
        weights: per row, finite and not negative; none: all 1.
        temperature: divides the logits, before any correction.
        label_smoothing: 0 to 1; not beside negatives.
        ignore_index: targets of this value are as if they were not there.
        calibration: 0 to 1: how far gbce's probabilities are drawn back from the overconfidence that sampling
            gives them.

    Returns:
        The loss, float32 for every input dtype. Zero, with zero gradients, if no row counts.

    Raises:
        TypeError: a dtype is not supported (float64, float16, int32 ids, mixed dtypes).
        ValueError: shapes do not fit, an id or a number is out of range, offsets do not run from 0 to M, or
            an argument comes without the negatives or the loss that it belongs to.
        RuntimeError: ``backward(create_graph=True)``.

    Sampled softmax with correction: Bengio and Senecal 2008; Yi et al. 2019 (RecSys). gBCE: Petrov and
    Macdonald 2023 (gSASRec, RecSys). BPR: Rendle et al. 2009 (UAI). Gradients in the forward pass: Hsu et al.
    2024, Liger Kernel, arXiv 2410.10989.
    """
    _check_tensors(
        hidden, table, targets, target_offsets, bias, negatives, negative_log_q, target_log_q, weights
    )
    _check_options(loss, negatives, negative_log_q, target_log_q, temperature, label_smoothing, calibration)
    learning = torch.is_grad_enabled()
    wanted = [learning and x is not None and x.requires_grad for x in (hidden, table, bias)]
    data = hidden, table, targets, target_offsets, bias, negatives, negative_log_q, target_log_q, weights
    if negatives is not None and (loss != "softmax" or negatives.dim() == 2):
        kind = KINDS.index(loss)
        return sampled_loss(*data, temperature, kind, calibration, ignore_index, *wanted)[0]  # type: ignore[no-any-return]
    return _softmax_loss(*data, temperature, label_smoothing, ignore_index, *wanted)[0]  # type: ignore[no-any-return]


def _check_tensors(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor | None,
    bias: Tensor | None,
    negatives: Tensor | None,
    negative_log_q: Tensor | None,
    target_log_q: Tensor | None,
    weights: Tensor | None,
) -> None:
    check_tensor(hidden, "hidden", ("N", "D"), FLOATS)
    check_tensor(table, "table", ("V", hidden.shape[1]), hidden.dtype)
    check_tensor(targets, "targets", ("M" if target_offsets is not None else hidden.shape[0],), torch.int64)
    if target_offsets is not None:
        check_tensor(target_offsets, "target_offsets", (hidden.shape[0] + 1,), torch.int64)
    if bias is not None:
        check_tensor(bias, "bias", (table.shape[0],), hidden.dtype)
    if negatives is not None:
        own = isinstance(negatives, Tensor) and negatives.dim() == 2
        check_tensor(negatives, "negatives", (hidden.shape[0], "K") if own else ("K",), torch.int64)
    for name, value, like in (
        ("negative_log_q", negative_log_q, None if negatives is None else tuple(negatives.shape)),
        ("target_log_q", target_log_q, None if negatives is None else tuple(targets.shape)),
        ("weights", weights, (hidden.shape[0],)),
    ):
        if value is None:
            continue
        if like is None:
            raise ValueError(f"{name}: wanted negatives to go with it, got negatives=None")
        check_tensor(value, name, like, torch.float32)
        if value.requires_grad:
            raise ValueError(f"{name}: wanted a constant, got a tensor that requires a gradient")
    check_same_device_or_triton(
        hidden=hidden,
        table=table,
        targets=targets,
        target_offsets=target_offsets,
        bias=bias,
        negatives=negatives,
        negative_log_q=negative_log_q,
        target_log_q=target_log_q,
        weights=weights,
    )


def _check_options(
    loss: str,
    negatives: Tensor | None,
    negative_log_q: Tensor | None,
    target_log_q: Tensor | None,
    temperature: float,
    label_smoothing: float,
    calibration: float,
) -> None:
    if loss not in KINDS:
        raise ValueError(f"loss: wanted one of {', '.join(KINDS)}, got {loss!r}")
    if loss != "softmax" and negatives is None:
        raise ValueError(f"negatives: wanted a tensor for loss={loss!r}, got None")
    for name, value in (("negative_log_q", negative_log_q), ("target_log_q", target_log_q)):
        if value is not None and loss != "softmax":
            raise ValueError(f"{name}: wanted none for loss={loss!r}, got a tensor")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: wanted a number above 0, got {temperature}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: wanted 0 to 1, got {label_smoothing}")
    if label_smoothing > 0 and negatives is not None:
        raise ValueError(f"label_smoothing: wanted 0 beside negatives, got {label_smoothing}")
    if not 0 <= calibration <= 1:
        raise ValueError(f"calibration: wanted 0 to 1, got {calibration}")


def _cpu(*arguments: Any) -> Outputs:
    x = SoftmaxInputs(*arguments)
    outputs = _fake(*arguments)
    targets, offsets, target_log_q = counted_targets(
        x.targets, x.target_offsets, x.target_log_q, x.ignore_index
    )
    order = torch.argsort(targets, stable=True) if x.table_grad or x.bias_grad else None
    negatives, negative_log_q = x.negatives, x.negative_log_q
    if negatives is not None:
        # a sum over negatives has no order: sorted, duplicates and accidental hits are found by bisection
        negatives, by_item = torch.sort(negatives, stable=True)
        negative_log_q = None if negative_log_q is None else negative_log_q[by_item]
    size = _core.item_cross_entropy_scratch(
        x.hidden.shape[0],
        x.table.shape[0] if negatives is None else negatives.shape[0],
        targets.shape[0],
        x.hidden.shape[1],
        negatives is not None,
        x.hidden.dtype == torch.bfloat16,
        *x[-3:],
        x.label_smoothing > 0,
    )
    _core.item_cross_entropy(
        rows(x.hidden),
        rows(x.table),
        targets,
        offsets,
        order,
        packed(x.bias),
        negatives,
        negative_log_q,
        target_log_q,
        packed(x.weights),
        x.temperature,
        x.label_smoothing,
        outputs[0].view(1),
        *wanted_gradients(outputs, x[-3:]),
        scratch(size),
    )
    return outputs


def _fake(*arguments: Any) -> Outputs:
    x = SoftmaxInputs(*arguments)
    return loss_outputs(x.hidden, x.table, x.bias, *x[-3:])


_softmax_loss = define_op(
    "item_cross_entropy(Tensor hidden, Tensor table, Tensor targets, Tensor? target_offsets, Tensor? bias, "
    "Tensor? negatives, Tensor? negative_log_q, Tensor? target_log_q, Tensor? weights, float temperature, "
    "float label_smoothing, int ignore_index, bool hidden_grad, bool table_grad, bool bias_grad) "
    "-> (Tensor loss, Tensor grad_hidden, Tensor grad_table, Tensor grad_bias)",
    cpu=_cpu,
    cuda=in_triton("item_cross_entropy", "softmax_loss"),
    fake=_fake,
)
define_loss_gradient(_softmax_loss, SoftmaxInputs._fields)
