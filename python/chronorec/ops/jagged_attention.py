"""Attention on jagged sequences, whole and one event at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._backend import in_triton
from chronorec.ops._check import FLOATS, check_same_device, check_same_device_or_triton, check_tensor
from chronorec.ops._memory import rows, scratch
from chronorec.ops._register import define_gradient, define_op, runs_eagerly
from chronorec.ops.reference.jagged_attention import EARTH_RADIUS, AttentionBias

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def jagged_attention(
    query: Float[Tensor, "N A D"],
    key: Float[Tensor, "N A D"],
    value: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    activation: str = "softmax",
    divisor: float = 1.0,
    bias: AttentionBias | None = None,
) -> Float[Tensor, "N A D"]:
    """Event ``i`` of a sequence attends to events ``j`` of the same sequence, per head.

    With ``score_ij = scale * query_i . key_j + bias_ij``, over what ``causal`` and ``window`` leave:

    - ``"softmax"``: ``output_i = sum_j softmax_j(score_ij) value_j``;
    - ``"silu"``: ``output_i = sum_j score_ij sigmoid(score_ij) value_j / divisor``.

    Memory is O(N): backward recomputes the weights, and no matrix of pairs is kept, biased or not.
    Differentiable in query, key, value and the tables of ``bias``.

    Source: Vaswani et al., "Attention Is All You Need" (2017); the memory-linear form is Dao et al.,
    "FlashAttention" (2022); silu with biases by position and time is Zhai et al., "Actions Speak Louder than
    Words" (HSTU, 2024), where ``divisor`` is the largest length of a sequence.

    Args:
        query, key, value: [N, A, D] float32 or bfloat16, all of one dtype; bfloat16 is computed in float32.
            Rows and heads may be strided (slices of one [N, 3, A, D] projection are used where they lie);
            a last dimension that is not contiguous is copied first.
        offsets: [B + 1] int64, ascending from 0 to N: sequence ``b`` is rows ``offsets[b]:offsets[b + 1]``.
        scale: factor of the products; ``1 / sqrt(D)`` by default.
        causal: whether an event sees itself and those before it, or all.
        window: if given, only events less than this far away in the sequence are seen, ``|i - j| < window``;
            at least 1, which leaves an event itself. Cost falls with it.
        activation: ``"softmax"`` or ``"silu"``.
        divisor: of silu; not 0.
        bias: learned biases by position, time and place; see :class:`AttentionBias`.

    Returns:
        [N, A, D], contiguous, in the dtype of the inputs.

    Raises:
        TypeError: dtypes other than these (float64: use ``chronorec.ops.reference``), or mixed.
        ValueError: shapes that do not fit, no width, offsets that do not start at 0, fall, or end before N, a
            window below 1, an unknown activation, a divisor of 0 or without silu, an incomplete bias,
            boundaries that fall, more than 256 buckets.
    """
    check_tensor(query, "query", ("N", "A", "D"), FLOATS)
    check_tensor(key, "key", tuple(query.shape), query.dtype)
    check_tensor(value, "value", tuple(query.shape), query.dtype)
    check_tensor(offsets, "offsets", ("B+1",), torch.int64)
    check_same_device_or_triton(query=query, key=key, value=value, offsets=offsets)
    form = _form(query, scale, causal, window, activation, divisor)
    output: Tensor = _forward(query, key, value, offsets, *form, *_tables(bias, key))[0]
    return output


def jagged_attention_step(
    query: Float[Tensor, "B A D"],
    key_cache: Float[Tensor, "N A D"],
    value_cache: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    activation: str = "softmax",
    divisor: float = 1.0,
    bias: AttentionBias | None = None,
) -> Float[Tensor, "B A D"]:
    """The output of :func:`jagged_attention` for the newest event of every sequence, up to rounding.

    A sequence's result does not depend on the others, bit for bit. The result has no gradient.

    Args:
        query: [B, A, D] float32 or bfloat16, of the newest event of each sequence.
        key_cache, value_cache: [N, A, D] in the dtype of ``query``: all events, the newest included.
        offsets: [B + 1] int64, ascending from 0 to N. A sequence without a key gives zeros.
        scale, causal, window, activation, divisor: as in :func:`jagged_attention`; ``causal`` only says how
            the columns of ``bias.position`` are counted.
        bias: as in :func:`jagged_attention`, with times and places of the N events of the cache.

    Returns:
        [B, A, D], contiguous.

    Raises:
        TypeError, ValueError: as :func:`jagged_attention`; also if ``offsets`` has not one row per query.
    """
    tensors = query, key_cache, value_cache, offsets
    output: Tensor
    if runs_eagerly(query):
        # For a request of one row the checks below cost as much as the kernel, and the core has its own.
        try:
            form = _form(query, scale, causal, window, activation, divisor)
            output = _step_cpu(*tensors, *form, *_tables(bias, key_cache))
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            _check_step(*tensors)
            raise
        return output
    _check_step(*tensors)
    form = _form(query, scale, causal, window, activation, divisor)
    output = _step(*tensors, *form, *_tables(bias, key_cache))
    return output


def _check_step(query: Tensor, key_cache: Tensor, value_cache: Tensor, offsets: Tensor) -> None:
    check_tensor(query, "query", ("B", "A", "D"), FLOATS)
    check_tensor(key_cache, "key_cache", ("N", *query.shape[1:]), query.dtype)
    check_tensor(value_cache, "value_cache", tuple(key_cache.shape), query.dtype)
    check_tensor(offsets, "offsets", (query.shape[0] + 1,), torch.int64)
    check_same_device(query=query, key_cache=key_cache, value_cache=value_cache, offsets=offsets)


_UNBOUNDED = 1 << 62
_NO_TABLES = (None,) * 7
_BIASES = (
    ("time_table", "times", "time_boundaries"),
    ("distance_table", "places", "distance_boundaries"),
)


def _form(
    query: Tensor, scale: float | None, causal: bool, window: int | None, activation: str, divisor: float
) -> tuple[float, bool, int, bool, float]:
    """scale, causal, window, silu, divisor."""
    width = query.shape[-1]
    if width == 0:
        raise ValueError("query: wanted a width of at least 1, got 0")
    if activation not in ("softmax", "silu"):
        raise ValueError(f"activation: wanted 'softmax' or 'silu', got {activation!r}")
    if window is not None and window < 1:
        raise ValueError(f"window: wanted at least 1, got {window}")
    silu = activation == "silu"
    if divisor != 1 and not silu:
        raise ValueError(f"divisor: wanted 1 unless activation is 'silu', got {divisor}")
    if divisor == 0:
        raise ValueError("divisor: wanted a number other than 0, got 0")
    factor = width**-0.5 if scale is None else float(scale)
    return factor, causal, _UNBOUNDED if window is None else window, silu, float(divisor)


def _tables(bias: AttentionBias | None, key: Tensor) -> tuple[Tensor | None, ...]:
    """The bias as the core takes it: tables [A, columns] in float32, places and distances as chords."""
    if bias is None:
        return _NO_TABLES
    (events, heads), given = key.shape[:2], bias._asdict()
    check_same_device_or_triton(key=key, **{f"bias.{name}": tensor for name, tensor in given.items()})
    for names in _BIASES:
        for name in names:
            if given[name] is None and any(given[other] is not None for other in names):
                raise ValueError(f"bias.{name}: wanted, as {' and '.join(names)} go together, got None")
    tables = {
        name: _table(given[name], f"bias.{name}", heads)
        for name in ("position", "time_table", "distance_table")
    }
    times, time_boundaries, places, distance_boundaries = (None,) * 4
    if bias.time_table is not None:
        times = _events_of(bias.times, "bias.times", (events,), (torch.int64,))
        time_boundaries = _boundaries(bias.time_boundaries, "bias.time_boundaries", bias.time_table)
    if bias.distance_table is not None:
        places = _points(_events_of(bias.places, "bias.places", (events, 2), (torch.float32, torch.float64)))
        boundaries = _boundaries(bias.distance_boundaries, "bias.distance_boundaries", bias.distance_table)
        distance_boundaries = _squared_chords(boundaries)
    return (
        tables["position"],
        *(times, time_boundaries, tables["time_table"]),
        *(places, distance_boundaries, tables["distance_table"]),
    )


def _table(table: Tensor | None, name: str, heads: int) -> Tensor | None:
    if table is None:
        return None
    check_tensor(table, name, ("A or 1", "columns"), FLOATS)
    if table.shape[0] not in (1, heads) or table.shape[1] == 0:
        wanted = f"[{heads} or 1, at least 1]"
        raise ValueError(f"{name}: wanted shape {wanted}, got {list(table.shape)}")
    return table.float().expand(heads, -1)


def _events_of(
    values: Tensor | None, name: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
) -> Tensor:
    assert values is not None
    check_tensor(values, name, shape, dtypes)
    return values.contiguous()


def _boundaries(boundaries: Tensor | None, name: str, table: Tensor) -> Tensor:
    assert boundaries is not None
    check_tensor(boundaries, name, (table.shape[1] - 1,), torch.float32)
    return boundaries.contiguous()


def _points(places: Tensor) -> Tensor:
    """Degrees [N, 2] -> points on the unit sphere [N, 3]."""
    latitude, longitude = places.double().deg2rad().unbind(-1)
    flat = latitude.cos()
    return torch.stack([flat * longitude.cos(), flat * longitude.sin(), latitude.sin()], -1).float()


def _squared_chords(kilometres: Tensor) -> Tensor:
    """The square of the straight line on the unit sphere that spans a great-circle distance."""
    half_angle = kilometres.double() / (2 * EARTH_RADIUS)
    chord = 2 * half_angle.clamp(-math.pi / 2, math.pi / 2).sin()
    return torch.where(half_angle > math.pi / 2, torch.inf, chord * chord.abs()).float()


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _new_lse(query: Tensor, silu: bool) -> Tensor:
    return query.new_empty(0 if silu else query.shape[0], query.shape[1], dtype=torch.float32)


def _new_grads(query: Tensor, *tables: Tensor | None) -> tuple[Tensor, ...]:
    """Of query, key and value, and of the tables: empty where there is no table."""
    table_grads = (query.new_empty(() if t is None else t.shape, dtype=torch.float32) for t in tables)
    return _new(query), _new(query), _new(query), *table_grads


def _forward_cpu(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, *form: Any) -> Any:
    events, _, width = query.shape
    output, lse = _new(query), _new_lse(query, form[3])
    room = scratch(_core.jagged_attention_forward_scratch(max(len(offsets) - 1, 0), events, width))
    inputs = (rows(query), rows(key), rows(value), offsets.contiguous(), *form)
    arguments = (*inputs, output, None if form[3] else lse, room)
    _core.jagged_attention_forward(*arguments)
    return output, lse


def _forward_fake(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, *form: Any) -> Any:
    return _new(query), _new_lse(query, form[3])


def _backward_cpu(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, *rest: Any
) -> Any:
    *form, output, lse = rest
    tables = form[5], form[8], form[11]
    grads = _new_grads(query, *tables)
    columns = sum(0 if table is None else table.numel() for table in tables)
    events, _, width = query.shape
    room = scratch(_core.jagged_attention_backward_scratch(len(offsets) - 1, events, width, columns))
    inputs = (rows(grad_output), rows(query), rows(key), rows(value), offsets.contiguous(), *form)
    saved = (None, None) if form[3] else (output, lse)
    table_grads = (None if t is None else grad for t, grad in zip(tables, grads[3:], strict=True))
    arguments = (*inputs, *saved, *grads[:3], *table_grads, room)
    _core.jagged_attention_backward(*arguments)
    return grads


def _backward_fake(grad_output: Tensor, query: Tensor, *rest: Any) -> Any:
    *_, position, _, _, time_table, _, _, distance_table, _, _ = rest
    return _new_grads(query, position, time_table, distance_table)


def _step_cpu(query: Tensor, key_cache: Tensor, value_cache: Tensor, offsets: Tensor, *form: Any) -> Tensor:
    output = _new(query)
    biased = form[5] is not None or form[8] is not None or form[11] is not None
    room = scratch(_core.jagged_attention_step_scratch(query.shape[-1], biased))
    inputs = (rows(query), rows(key_cache), rows(value_cache), offsets.contiguous(), *form)
    arguments = (*inputs, output, room)
    _core.jagged_attention_step(*arguments)
    return output


def _step_fake(query: Tensor, *rest: Any) -> Tensor:
    return _new(query)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, offsets, *ctx.form = inputs[:9]
    ctx.save_for_backward(query, key, value, offsets, *inputs[9:], *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_output: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, offsets, *tables, output, lse = ctx.saved_tensors
    *grads, position, time_table, distance_table = _backward(
        grad_output, query, key, value, offsets, *ctx.form, *tables, output, lse
    )
    found = (position, None, None, time_table, None, None, distance_table)
    table_grads = (None if t is None else grad for t, grad in zip(tables, found, strict=True))
    return (*grads, None, None, None, None, None, None, *table_grads)


_FORM = (
    "Tensor offsets, float scale, bool causal, int window, bool silu, float divisor, Tensor? position,"
    " Tensor? times, Tensor? time_boundaries, Tensor? time_table,"
    " Tensor? places, Tensor? distance_boundaries, Tensor? distance_table"
)
_INPUTS = f"Tensor query, Tensor key, Tensor value, {_FORM}"
_forward = define_op(
    f"jagged_attention_forward({_INPUTS}) -> (Tensor, Tensor)",
    cpu=_forward_cpu,
    fake=_forward_fake,
    cuda=in_triton("jagged_attention", "forward"),
)
_backward = define_op(
    f"jagged_attention_backward(Tensor grad_output, {_INPUTS}, Tensor output, Tensor lse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=in_triton("jagged_attention_backward", "backward"),
    fake=_backward_fake,
)
_step = define_op(
    f"jagged_attention_step(Tensor query, Tensor key_cache, Tensor value_cache, {_FORM}) -> Tensor",
    cpu=_step_cpu,
    fake=_step_fake,
)
define_gradient(_forward, _differentiate, _save)
