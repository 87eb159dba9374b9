"""A GRU layer over jagged sequences, and one step of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import FLOATS, check_same_device, check_tensor
from chronorec.ops._register import define_gradient, define_op, run_without_gradient
from chronorec.ops.reference.gru import GruOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["GruOutput", "PackedGRU", "gru", "gru_step", "pack_gru_weights"]


class PackedGRU(NamedTuple):
    """The weights of a layer in the layout of the kernels, made once by :func:`pack_gru_weights`.

    Attributes:
        weight_ih: float32 [3, ceil(H / 16), I, 16], packed gate by gate.
        weight_hh: float32 [3, ceil(H / 16), H, 16], packed gate by gate.
        bias_ih: float32 [3H], or None for none.
        bias_hh: float32 [3H], or None for none.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


def gru(
    values: Float[Tensor, "N I"],
    offsets: Int[Tensor, " B+1"],
    weight_ih: Float[Tensor, "3*H I"],
    weight_hh: Float[Tensor, "3*H H"],
    bias_ih: Float[Tensor, " 3*H"] | None = None,
    bias_hh: Float[Tensor, " 3*H"] | None = None,
    initial_state: Float[Tensor, "B H"] | None = None,
) -> GruOutput:
    """Runs B jagged sequences through one GRU layer (Cho et al., 2014, https://arxiv.org/abs/1406.1078).

    The formula and the weights are those of ``torch.nn.GRU``: gates in the order r, z, n, with
    ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``. Sequence b is ``values[offsets[b]:offsets[b + 1]]``.
    Differentiable in everything but the offsets. In bfloat16 the state is carried, and all sums are
    taken, in float32.

    Args:
        values: [N, I], float32 or bfloat16: the events of all sequences, one after the other.
        offsets: int64 [B + 1], rising from 0 to N.
        weight_ih: [3H, I], input to gates; this and all that follow in the dtype of ``values``.
        weight_hh: [3H, H], state to gates.
        bias_ih: [3H], or None for none.
        bias_hh: [3H], or None for none.
        initial_state: [B, H], or None for zeros.

    Returns:
        ``output`` [N, H], the state after every event, and ``final_state`` [B, H], the state after the
        last event of every sequence; an empty sequence keeps its initial state.

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.gru``), or mixed ones.
        ValueError: a shape that does not fit, offsets that fall or do not span the values, mixed devices.
    """
    _check_weights(values, weight_ih, weight_hh, bias_ih, bias_hh)
    check_tensor(offsets, "offsets", ("B + 1",), torch.int64)
    if offsets.shape[0] == 0:
        raise ValueError("offsets: wanted at least one offset, got none")
    if initial_state is not None:
        check_tensor(initial_state, "initial_state", (offsets.shape[0] - 1, weight_hh.shape[1]), values.dtype)
    check_same_device(values=values, offsets=offsets, initial_state=initial_state, weight_ih=weight_ih)
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    save_gates = _needs_gradient(values, *weights, initial_state)
    output, final_state, _ = _gru(values, offsets, *weights, initial_state, save_gates)
    return GruOutput(output, final_state)


def pack_gru_weights(
    weight_ih: Float[Tensor, "3*H I"],
    weight_hh: Float[Tensor, "3*H H"],
    bias_ih: Float[Tensor, " 3*H"] | None = None,
    bias_hh: Float[Tensor, " 3*H"] | None = None,
) -> PackedGRU:
    """Packs the weights of a layer once for many calls of :func:`gru_step`.

    The copy does not follow later changes of the weights and has no gradient.

    Args:
        weight_ih: [3H, I], float32 or bfloat16, input to gates; the others in its dtype.
        weight_hh: [3H, H], state to gates.
        bias_ih: [3H], or None for none.
        bias_hh: [3H], or None for none.

    Raises:
        TypeError: a dtype that has no kernel, or mixed ones.
        ValueError: a shape that does not fit, mixed devices.
    """
    check_tensor(weight_ih, "weight_ih", ("3H", "I"), FLOATS)
    _check_weights(weight_ih, weight_ih, weight_hh, bias_ih, bias_hh)
    biases = [None if bias is None else bias.detach().float().clone() for bias in (bias_ih, bias_hh)]
    return PackedGRU(_pack_gates(weight_ih.detach()), _pack_gates(weight_hh.detach()), *biases)


def gru_step(
    values: Float[Tensor, "B I"], state: Float[Tensor, "B H"], weights: PackedGRU
) -> Float[Tensor, "B H"]:
    """The state of B sequences after one more event each; bitwise :func:`gru` over sequences of length one.

    Not differentiable: training goes through :func:`gru`.

    Args:
        values: [B, I], float32 or bfloat16: the next event of every sequence.
        state: [B, H], the states before it, in the dtype of ``values``.
        weights: by :func:`pack_gru_weights`, from weights of either dtype.

    Returns:
        The new states, [B, H].

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.gru``), mixed ones, or
            weights that are not packed.
        ValueError: a shape that does not fit, mixed devices.
        RuntimeError: ``values`` or ``state`` requires a gradient, outside ``torch.no_grad()``.
    """
    if not isinstance(weights, PackedGRU):
        raise TypeError(f"weights: wanted a PackedGRU of pack_gru_weights, got {type(weights).__name__}")
    _refuse_float64(values)
    check_tensor(values, "values", ("B", weights.weight_ih.shape[2]), FLOATS)
    check_tensor(state, "state", (values.shape[0], weights.weight_hh.shape[2]), values.dtype)
    check_same_device(values=values, state=state, weights=weights.weight_ih)
    if _needs_gradient(values, state):
        raise RuntimeError("gru_step: has no gradient; call gru, or gru_step under torch.no_grad()")
    new_state: Tensor = run_without_gradient(_gru_step, _gru_step_cpu, values, state, *weights)
    return new_state


def _refuse_float64(values: Tensor) -> None:
    if isinstance(values, Tensor) and values.dtype == torch.float64:
        raise TypeError("values: float64 has no kernel; use chronorec.ops.reference.gru")


def _check_weights(
    values: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None
) -> None:
    _refuse_float64(values)
    check_tensor(values, "values", ("N", "I"), FLOATS)
    check_tensor(weight_hh, "weight_hh", ("3H", "H"), values.dtype)
    hidden = weight_hh.shape[1]
    if hidden == 0:
        raise ValueError("weight_hh: wanted a hidden size of at least 1, got 0")
    check_tensor(weight_hh, "weight_hh", (3 * hidden, hidden), values.dtype)
    check_tensor(weight_ih, "weight_ih", (3 * hidden, values.shape[1]), values.dtype)
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None:
            check_tensor(bias, name, (3 * hidden,), values.dtype)
    check_same_device(
        values=values, weight_ih=weight_ih, weight_hh=weight_hh, bias_ih=bias_ih, bias_hh=bias_hh
    )


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its rows are contiguous, which the core asks for, else a copy."""
    return tensor.detach() if tensor.stride(-1) == 1 else tensor.detach().contiguous()


def _pack_gates_cpu(weight: Tensor) -> Tensor:
    """[3H, K] packed gate by gate: [3, ceil(H / 16), K, 16]."""
    packed, rows = _pack_gates_fake(weight), _rows(weight)
    hidden, (_, panels, depth, _) = weight.shape[0] // 3, packed.shape
    if hidden % 16 == 0:  # then the panels of the gates are those of the whole
        _core.pack_panels(rows, packed.view(3 * panels, depth, 16))
    else:
        for gate in range(3):
            _core.pack_panels(rows[gate * hidden : (gate + 1) * hidden], packed[gate])
    return packed


def _pack_gates_fake(weight: Tensor) -> Tensor:
    shape = (3, (weight.shape[0] // 3 + 15) // 16, weight.shape[1], 16)
    return weight.new_empty(shape, dtype=torch.float32)


def _scratch(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _gates_shape(values: Tensor, hidden: int, save_gates: bool) -> tuple[int, int, int]:
    return (values.shape[0] if save_gates else 0, 4, (hidden + 15) // 16 * 16)


def _gru_cpu(
    values: Tensor,
    offsets: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    initial_state: Tensor | None,
    save_gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, sequences = weight_hh.shape[1], offsets.shape[0] - 1
    output, final_state = values.new_empty(values.shape[0], hidden), values.new_empty(sequences, hidden)
    gates = torch.empty(_gates_shape(values, hidden, save_gates))
    _core.gru_forward(
        _rows(values),
        offsets.contiguous(),
        _pack_gates_cpu(weight_ih),
        _pack_gates_cpu(weight_hh),
        None if bias_ih is None else bias_ih.detach().float().contiguous(),
        None if bias_hh is None else bias_hh.detach().float().contiguous(),
        None if initial_state is None else _rows(initial_state),
        output,
        final_state,
        gates if save_gates else None,
        _scratch(_core.gru_forward_scratch(sequences, values.shape[0], hidden)),
    )
    return output, final_state, gates


def _gru_fake(
    values: Tensor,
    offsets: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    initial_state: Tensor | None,
    save_gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = weight_hh.shape[1]
    return (
        values.new_empty(values.shape[0], hidden),
        values.new_empty(offsets.shape[0] - 1, hidden),
        values.new_empty(_gates_shape(values, hidden, save_gates), dtype=torch.float32),
    )


def _gru_step_cpu(
    values: Tensor,
    state: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
) -> Tensor:
    new_state = torch.empty_like(state, memory_format=torch.contiguous_format)
    _core.gru_step(
        _rows(values),
        _rows(state),
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        new_state,
        _scratch(_core.gru_step_scratch(state.shape[1])),
    )
    return new_state


def _gru_step_fake(values: Tensor, state: Tensor, *weights: Tensor | None) -> Tensor:
    return torch.empty_like(state, memory_format=torch.contiguous_format)


def _gru_backward_cpu(
    grad_output: Tensor,
    grad_final_state: Tensor,
    values: Tensor,
    offsets: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    initial_state: Tensor | None,
    output: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gradients = _gru_backward_fake(
        grad_output, grad_final_state, values, offsets, weight_ih, weight_hh, initial_state, output, gates
    )
    hidden, sequences = weight_hh.shape[1], offsets.shape[0] - 1
    _core.gru_backward(
        _rows(grad_output),
        _rows(grad_final_state),
        _rows(values),
        offsets.contiguous(),
        _rows(weight_ih),
        _rows(weight_hh),
        None if initial_state is None else _rows(initial_state),
        output.detach(),
        gates.detach(),
        *gradients,
        _scratch(_core.gru_backward_scratch(sequences, values.shape[0], values.shape[1], hidden)),
    )
    return gradients


def _gru_backward_fake(
    grad_output: Tensor,
    grad_final_state: Tensor,
    values: Tensor,
    offsets: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    initial_state: Tensor | None,
    output: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias_shape = weight_ih.shape[0]
    return (
        values.new_empty(values.shape),
        values.new_empty(weight_ih.shape),
        values.new_empty(weight_hh.shape),
        values.new_empty(bias_shape),
        values.new_empty(bias_shape),
        values.new_empty(grad_final_state.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    values, offsets, weight_ih, weight_hh, bias_ih, bias_hh, initial_state, save_gates = inputs
    states, _, gates = output
    ctx.has_bias = bias_ih is not None, bias_hh is not None
    ctx.save_gates = save_gates
    ctx.save_for_backward(values, offsets, weight_ih, weight_hh, initial_state, states, gates)


def _gru_gradient(
    ctx: Any, grad_output: Tensor, grad_final_state: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    if not ctx.save_gates:
        raise RuntimeError("chronorec::gru: wanted save_gates=True where a gradient is needed, got False")
    values, offsets, weight_ih, weight_hh, initial_state, output, gates = ctx.saved_tensors
    for_values, for_ih, for_hh, for_bias_ih, for_bias_hh, for_state = _gru_backward(
        grad_output, grad_final_state, values, offsets, weight_ih, weight_hh, initial_state, output, gates
    )
    return (
        for_values,
        None,
        for_ih,
        for_hh,
        for_bias_ih if ctx.has_bias[0] else None,
        for_bias_hh if ctx.has_bias[1] else None,
        None if initial_state is None else for_state,
        None,
    )


_WEIGHTS = "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh"
_gru = define_op(
    f"gru(Tensor values, Tensor offsets, {_WEIGHTS}, Tensor? initial_state, bool save_gates) "
    "-> (Tensor output, Tensor final_state, Tensor gates)",
    cpu=_gru_cpu,
    fake=_gru_fake,
)
_pack_gates = define_op("pack_gru_gates(Tensor weight) -> Tensor", cpu=_pack_gates_cpu, fake=_pack_gates_fake)
_gru_step = define_op(
    f"gru_step(Tensor values, Tensor state, {_WEIGHTS}) -> Tensor", cpu=_gru_step_cpu, fake=_gru_step_fake
)
_gru_backward = define_op(
    "gru_backward(Tensor grad_output, Tensor grad_final_state, Tensor values, Tensor offsets, "
    "Tensor weight_ih, Tensor weight_hh, Tensor? initial_state, Tensor output, Tensor gates) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_gru_backward_cpu,
    fake=_gru_backward_fake,
)
define_gradient(_gru, _gru_gradient, _setup_context)
