"""Causal softmax attention on jagged sequences, whole and one event at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import FLOATS, check_same_device, check_tensor
from chronorec.ops._register import define_gradient, define_op, run_without_gradient

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def jagged_attention(
    query: Float[Tensor, "N A D"],
    key: Float[Tensor, "N A D"],
    value: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "N A D"]:
    """Event ``i`` of a sequence attends to the events ``j <= i`` of the same sequence, per head.

    ``output_i = sum_j softmax_j(scale * query_i . key_j) value_j``, in O(N) memory: backward recomputes the
    weights from one log-sum-exp per event and head. Differentiable in query, key and value.

    Source: Vaswani et al., "Attention Is All You Need" (2017); the memory-linear form is Dao et al.,
    "FlashAttention" (2022).

    Args:
        query, key, value: [N, A, D] float32 or bfloat16, all of one dtype; bfloat16 is computed in float32.
            Rows and heads may be strided (slices of one [N, 3, A, D] projection are used where they lie);
            a last dimension that is not contiguous is copied first.
        offsets: [B + 1] int64, ascending from 0 to N: sequence ``b`` is rows ``offsets[b]:offsets[b + 1]``.
        scale: factor of the scores; ``1 / sqrt(D)`` by default.

    Returns:
        [N, A, D], contiguous, in the dtype of the inputs.

    Raises:
        TypeError: dtypes other than these (float64: use ``chronorec.ops.reference``), or mixed.
        ValueError: shapes that do not fit, no width, offsets that do not start at 0, fall, or end before N.
    """
    check_tensor(query, "query", ("N", "A", "D"), FLOATS)
    check_tensor(key, "key", tuple(query.shape), query.dtype)
    check_tensor(value, "value", tuple(query.shape), query.dtype)
    check_tensor(offsets, "offsets", ("B+1",), torch.int64)
    check_same_device(query=query, key=key, value=value, offsets=offsets)
    output: Tensor = _forward(query, key, value, offsets, _factor(query, scale))[0]
    return output


def jagged_attention_step(
    query: Float[Tensor, "B A D"],
    key_cache: Float[Tensor, "N A D"],
    value_cache: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "B A D"]:
    """The output of :func:`jagged_attention` for the newest event of every sequence, up to rounding.

    A sequence's result does not depend on the others, bit for bit. The result has no gradient.

    Args:
        query: [B, A, D] float32 or bfloat16, of the newest event of each sequence.
        key_cache, value_cache: [N, A, D] in the dtype of ``query``: all events, the newest included.
        offsets: [B + 1] int64, ascending from 0 to N. A sequence without a key gives zeros.
        scale: factor of the scores; ``1 / sqrt(D)`` by default.

    Returns:
        [B, A, D], contiguous.

    Raises:
        TypeError, ValueError: as :func:`jagged_attention`; also if ``offsets`` has not one row per query.
    """
    check_tensor(query, "query", ("B", "A", "D"), FLOATS)
    check_tensor(key_cache, "key_cache", ("N", *query.shape[1:]), query.dtype)
    check_tensor(value_cache, "value_cache", tuple(key_cache.shape), query.dtype)
    check_tensor(offsets, "offsets", (query.shape[0] + 1,), torch.int64)
    check_same_device(query=query, key_cache=key_cache, value_cache=value_cache, offsets=offsets)
    arguments = query, key_cache, value_cache, offsets, _factor(query, scale)
    output: Tensor = run_without_gradient(_step, _step_cpu, *arguments)
    return output


def _factor(query: Tensor, scale: float | None) -> float:
    if query.shape[-1] == 0:
        raise ValueError("query: wanted a width of at least 1, got 0")
    return float(query.shape[-1] ** -0.5 if scale is None else scale)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _scratch(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _forward_cpu(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    events, heads, width = query.shape
    output, lse = _new(query), torch.empty(events, heads)
    scratch = _scratch(_core.jagged_attention_forward_scratch(max(len(offsets) - 1, 0), events, width))
    query, key, value = _rows(query), _rows(key), _rows(value)
    _core.jagged_attention_forward(query, key, value, offsets.contiguous(), scale, output, lse, scratch)
    return output, lse


def _forward_fake(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return _new(query), query.new_empty(query.shape[:2], dtype=torch.float32)


def _backward_cpu(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    scale: float,
    output: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    events, _, width = query.shape
    grads = _new(query), _new(query), _new(query)
    scratch = _scratch(_core.jagged_attention_backward_scratch(offsets.shape[0] - 1, events, width))
    grad_output, query, key, value = _rows(grad_output), _rows(query), _rows(key), _rows(value)
    _core.jagged_attention_backward(
        grad_output, query, key, value, offsets.contiguous(), scale, output, lse, *grads, scratch
    )
    return grads


def _backward_fake(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    scale: float,
    output: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new(query), _new(query), _new(query)


def _step_cpu(query: Tensor, key_cache: Tensor, value_cache: Tensor, offsets: Tensor, scale: float) -> Tensor:
    output = _new(query)
    scratch = _scratch(_core.jagged_attention_step_scratch(query.shape[-1]))
    query, key_cache, value_cache = _rows(query), _rows(key_cache), _rows(value_cache)
    _core.jagged_attention_step(query, key_cache, value_cache, offsets.contiguous(), scale, output, scratch)
    return output


def _step_fake(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, offsets: Tensor, scale: float
) -> Tensor:
    return _new(query)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, offsets, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, offsets, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(
    ctx: Any, grad_output: Tensor, grad_lse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, None, None]:
    query, key, value, offsets, output, lse = ctx.saved_tensors
    grads = _backward(grad_output, query, key, value, offsets, ctx.scale, output, lse)
    return (*grads, None, None)


_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor offsets, float scale"
_forward = define_op(
    f"jagged_attention_forward({_INPUTS}) -> (Tensor, Tensor)", cpu=_forward_cpu, fake=_forward_fake
)
_backward = define_op(
    f"jagged_attention_backward(Tensor grad_output, {_INPUTS}, Tensor output, Tensor lse)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    fake=_backward_fake,
)
_step = define_op(
    "jagged_attention_step(Tensor query, Tensor key_cache, Tensor value_cache, Tensor offsets, float scale)"
    " -> Tensor",
    cpu=_step_cpu,
    fake=_step_fake,
)
define_gradient(_forward, _differentiate, _save)
