"""What gru, lstm and rnn share: checks, packing, and the four torch ops of a cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops import _recurrent_cuda
from chronorec.ops._check import FLOATS, check_same_device_or_cuda, check_tensor
from chronorec.ops._items import Precision
from chronorec.ops._memory import packed, rows, scratch
from chronorec.ops._register import define_gradient, define_op, run_without_gradient

_LAYER = "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh"
_STATES = "Tensor? initial_state, Tensor? initial_cell, Tensor? recurrent_mask, Tensor? zoneout_mask"
_GRADS = "Tensor? grad_output, Tensor? grad_final_state, Tensor? grad_final_cell"
# The dtype of packed weights, and the depths that a panel of them has room for: up to a multiple, and more.
_PACKED = {
    "float32": (torch.float32, 1, 0),
    "bfloat16": (torch.bfloat16, 32, 0),
    "int8": (torch.uint8, 4, 4),
}


def check_layer(
    gates: int,
    values: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
) -> None:
    """Raises unless the weights belong to a layer of ``gates`` blocks of rows over such values."""
    _refuse_float64(values)
    check_tensor(values, "values", ("N", "I"), FLOATS)
    height = "H" if gates == 1 else f"{gates}H"
    check_tensor(weight_hh, "weight_hh", (height, "H"), values.dtype)
    hidden = weight_hh.shape[1]
    if hidden == 0:
        raise ValueError("weight_hh: wanted a hidden size of at least 1, got 0")
    check_tensor(weight_hh, "weight_hh", (gates * hidden, hidden), values.dtype)
    check_tensor(weight_ih, "weight_ih", (gates * hidden, values.shape[1]), values.dtype)
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None:
            check_tensor(bias, name, (gates * hidden,), values.dtype)
    check_same_device_or_cuda(
        values=values, weight_ih=weight_ih, weight_hh=weight_hh, bias_ih=bias_ih, bias_hh=bias_hh
    )


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of one of them."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _precision_of(weight: Tensor) -> Precision:
    return "bfloat16" if weight.dtype == torch.bfloat16 else "float32"


def _refuse_float64(values: Tensor) -> None:
    if isinstance(values, Tensor) and values.dtype == torch.float64:
        raise TypeError("values: float64 has no kernel; use chronorec.ops.reference")


class Recurrent:
    """A recurrent cell and its torch ops ``<name>``, ``<name>_pack``, ``<name>_step``, ``<name>_backward``.

    Args:
        name: of the op and of the functions of the core.
        family: the op whose packing and scratch it uses.
        gates: blocks of H rows in a weight.
        slots: sums a unit takes.
        saved: numbers a unit saves for backward.
        cell: whether there is a second state.
    """

    def __init__(self, name: str, family: str, *, gates: int, slots: int, saved: int, cell: bool) -> None:
        self.name, self.family = name, family
        self.gates, self.slots, self.saved, self.cell = gates, slots, saved, cell
        self._cuda = _recurrent_cuda.CudaRecurrence(name, gates, cell)
        self._forward = define_op(
            f"{name}(Tensor values, Tensor offsets, {_LAYER}, {_STATES}, bool reverse, bool save) "
            "-> (Tensor output, Tensor final_state, Tensor final_cell, Tensor saved)",
            cpu=self._forward_cpu,
            cuda=self._forward_cuda,
            fake=self._forward_fake,
        )
        self._pack = define_op(
            f"{name}_pack({_LAYER}, str precision) -> (Tensor, Tensor, Tensor)",
            cpu=self._pack_cpu,
            cuda=self._pack_cuda,
            fake=self._pack_fake,
        )
        self._step = define_op(
            f"{name}_step(Tensor values, Tensor state, Tensor? cell, Tensor weight_ih, Tensor weight_hh, "
            "Tensor bias) -> (Tensor, Tensor)",
            cpu=self._step_cpu,
            cuda=self._step_cuda,
            fake=self._step_fake,
        )
        self._backward = define_op(
            f"{name}_backward({_GRADS}, Tensor values, Tensor offsets, Tensor weight_ih, Tensor weight_hh, "
            f"{_STATES}, bool reverse, Tensor output, Tensor saved) "
            "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            cpu=self._backward_cpu,
            cuda=self._backward_cuda,
            fake=self._backward_fake,
        )
        define_gradient(self._forward, self._gradient, self._setup_context)

    # --- what the public functions call ------------------------------------------------------------

    def run(
        self,
        values: Tensor,
        offsets: Tensor,
        weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        initial_state: Tensor | None,
        initial_cell: Tensor | None,
        recurrent_mask: Tensor | None,
        zoneout_mask: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Checks and runs a layer: output, final state, final cell."""
        check_layer(self.gates, values, *weights)
        hidden = weights[1].shape[1]
        check_tensor(offsets, "offsets", ("B + 1",), torch.int64)
        if offsets.shape[0] == 0:
            raise ValueError("offsets: wanted at least one offset, got none")
        states = {"initial_state": initial_state, "initial_cell": initial_cell}
        masks = {"recurrent_mask": recurrent_mask, "zoneout_mask": zoneout_mask}
        for name, x in (states | masks).items():
            if x is not None:
                count = values.shape[0] if name == "zoneout_mask" else offsets.shape[0] - 1
                check_tensor(x, name, (count, hidden), values.dtype)
        check_same_device_or_cuda(values=values, offsets=offsets, **states, **masks)
        for name, x in masks.items():
            if needs_gradient(x):
                raise ValueError(f"{name}: has no gradient, got a tensor that requires one")
        save = needs_gradient(values, *weights, initial_state, initial_cell)
        output, final_state, final_cell, _ = self._forward(
            values,
            offsets,
            *weights,
            initial_state,
            initial_cell,
            recurrent_mask,
            zoneout_mask,
            reverse,
            save,
        )
        return output, final_state, final_cell

    def pack(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        precision: Precision | None,
    ) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """Checks and packs the weights of a layer: weight_ih, weight_hh, bias, input and hidden size."""
        height = "H" if self.gates == 1 else f"{self.gates}H"
        check_tensor(weight_ih, "weight_ih", (height, "I"), FLOATS)
        check_layer(self.gates, weight_ih, weight_ih, weight_hh, bias_ih, bias_hh)
        if precision is None:
            precision = _precision_of(weight_ih)
        if precision not in _PACKED:
            raise ValueError(f"precision: wanted 'float32', 'bfloat16' or 'int8', got {precision!r}")
        if precision == "int8" and weight_ih.is_cuda:
            raise NotImplementedError("precision: int8 has no CUDA kernel; wanted 'float32' or 'bfloat16'")
        detached = (None if x is None else x.detach() for x in (weight_ih, weight_hh, bias_ih, bias_hh))
        packed_ih, packed_hh, bias = self._pack(*detached, precision)
        return packed_ih, packed_hh, bias, weight_ih.shape[1], weight_hh.shape[1]

    def step(
        self,
        values: Tensor,
        state: Tensor,
        cell: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        input_size: int,
        hidden_size: int,
    ) -> tuple[Tensor, Tensor]:
        """Checks and takes one step with packed weights: new state, new cell."""
        _refuse_float64(values)
        check_tensor(values, "values", ("B", input_size), FLOATS)
        check_tensor(state, "state", (values.shape[0], hidden_size), values.dtype)
        if cell is not None:
            check_tensor(cell, "cell", (values.shape[0], hidden_size), values.dtype)
        check_same_device_or_cuda(values=values, state=state, cell=cell, weights=weight_ih)
        if needs_gradient(values, state, cell):
            op = self.family
            raise RuntimeError(f"{op}_step: has no gradient; call {op}, or {op}_step under torch.no_grad()")
        stepped: tuple[Tensor, Tensor] = run_without_gradient(
            self._step,
            self._step_cpu,
            *(values, state, cell, weight_ih, weight_hh, bias),
        )
        return stepped

    # --- the ops -----------------------------------------------------------------------------------

    def _core(self, function: str) -> Any:
        return getattr(_core, f"{self.name}_{function}")

    def _empty_scratch(self, function: str, *sizes: int) -> Tensor:
        return scratch(getattr(_core, f"{self.family}_{function}_scratch")(*sizes))

    def _pack_fake(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        precision: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, multiple, more = _PACKED[precision]
        if weight_hh.is_cuda:  # where the layout is that of the arguments
            biases = weight_hh.new_empty(2, weight_hh.shape[0], dtype=torch.float32)
            layer = [x.new_empty(x.shape, dtype=dtype) for x in (weight_ih, weight_hh)]
            return layer[0], layer[1], biases
        panels = (weight_hh.shape[1] + 15) // 16

        def panels_of(weight: Tensor) -> Tensor:
            depth = (weight.shape[1] + multiple - 1) // multiple * multiple + more
            return weight.new_empty((panels, self.gates, depth, 16), dtype=dtype)

        bias = weight_hh.new_empty((panels, self.slots, 16), dtype=torch.float32)
        return panels_of(weight_ih), panels_of(weight_hh), bias

    def _pack_cpu(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        precision: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer = self._pack_fake(weight_ih, weight_hh, bias_ih, bias_hh, precision)
        getattr(_core, f"{self.family}_pack")(
            rows(weight_ih), rows(weight_hh), packed(bias_ih), packed(bias_hh), *layer
        )
        return layer

    def _pack_cuda(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        weight_ih, weight_hh, bias_ih, bias_hh, precision = arguments
        return _recurrent_cuda.pack(weight_ih, weight_hh, bias_ih, bias_hh, _PACKED[precision][0])

    def _forward_fake(
        self,
        values: Tensor,
        offsets: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        initial_state: Tensor | None,
        initial_cell: Tensor | None,
        recurrent_mask: Tensor | None,
        zoneout_mask: Tensor | None,
        reverse: bool,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        events, sequences, hidden = values.shape[0], offsets.shape[0] - 1, weight_hh.shape[1]
        saved = (events if save else 0, (hidden + 15) // 16, self.saved, 16)
        return (
            values.new_empty(events, hidden),
            values.new_empty(sequences, hidden),
            values.new_empty(sequences if self.cell else 0, hidden),
            values.new_empty(saved),
        )

    def _forward_cpu(
        self, values: Tensor, offsets: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        initial_state, initial_cell, recurrent_mask, zoneout_mask, reverse, save = rest[4:]
        layer = (*rest[:4], _precision_of(values))
        output, final_state, final_cell, saved = self._forward_fake(values, offsets, *rest)
        self._core("forward")(
            rows(values),
            offsets.contiguous(),
            *self._pack_cpu(*layer),
            *map(rows, (initial_state, initial_cell, recurrent_mask, zoneout_mask)),
            reverse,
            output,
            final_state,
            final_cell if self.cell else None,
            saved if save else None,
            self._empty_scratch("forward", len(final_state), len(values), output.shape[1]),
        )
        return output, final_state, final_cell, saved

    def _forward_cuda(self, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = self._forward_fake(*inputs)
        self._cuda.forward(outputs, *inputs)
        return outputs

    def _step_fake(
        self, values: Tensor, state: Tensor, cell: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        new_cell = state.new_empty(state.shape if self.cell else (0,))
        return torch.empty_like(state, memory_format=torch.contiguous_format), new_cell

    def _step_cpu(
        self, values: Tensor, state: Tensor, cell: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        new_state, new_cell = self._step_fake(values, state, cell)
        self._core("step")(
            rows(values),
            rows(state),
            rows(cell),
            *weights,
            new_state,
            new_cell if self.cell else None,
            self._empty_scratch("step", state.shape[1]),
        )
        return new_state, new_cell

    def _step_cuda(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        outputs = self._step_fake(*inputs)
        self._cuda.step(outputs, *inputs)
        return outputs

    def _backward_fake(
        self,
        grad_output: Tensor | None,
        grad_final_state: Tensor | None,
        grad_final_cell: Tensor | None,
        values: Tensor,
        offsets: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, ...]:
        states = (offsets.shape[0] - 1, weight_hh.shape[1])
        height = weight_ih.shape[0]
        shapes = (values.shape, weight_ih.shape, weight_hh.shape, (height,), (height,), states)
        gradients = [values.new_empty(shape) for shape in shapes]
        return (*gradients, values.new_empty(states if self.cell else (0,)))

    def _backward_cpu(self, *inputs: Any) -> tuple[Tensor, ...]:
        gradients = self._backward_fake(*inputs)
        *tensors, reverse, output, saved = inputs
        values, offsets, weight_hh = tensors[3], tensors[4], tensors[6]
        tensors = [x.contiguous() if x is offsets else rows(x) for x in tensors]
        sizes = (offsets.shape[0] - 1, *values.shape, weight_hh.shape[1])
        self._core("backward")(
            *tensors,
            reverse,
            output,
            saved,
            *gradients[:-1],
            gradients[-1] if self.cell else None,
            self._empty_scratch("backward", *sizes),
        )
        return gradients

    def _backward_cuda(self, *inputs: Any) -> tuple[Tensor, ...]:
        return self._cuda.backward(inputs[:3], *inputs[3:])

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, offsets, weight_ih, weight_hh, bias_ih, bias_hh, *states, reverse, save = inputs
        ctx.given = [x is not None for x in (bias_ih, bias_hh, states[0], states[1])]
        ctx.reverse, ctx.save = reverse, save
        ctx.set_materialize_grads(False)  # zeros for `saved` would cost as much as writing it
        ctx.save_for_backward(values, offsets, weight_ih, weight_hh, *states, output[0], output[3])

    def _gradient(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.save:
            raise RuntimeError(
                f"chronorec::{self.name}: wanted save=True where a gradient is needed, got False"
            )
        *inputs, output, saved = ctx.saved_tensors
        grad_cell = grads[2] if self.cell else None
        for_values, for_ih, for_hh, *rest = self._backward(
            grads[0], grads[1], grad_cell, *inputs, ctx.reverse, output, saved
        )
        optional = [x if given else None for x, given in zip(rest, ctx.given, strict=True)]
        return for_values, None, for_ih, for_hh, *optional, None, None, None, None
