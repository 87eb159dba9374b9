"""The CUDA implementation of gru, lstm and rnn: products without a state by torch, the rest by one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chronorec.ops._backend import backend
from chronorec.ops._memory import packed, rows, scratch

_TILE = 16  # sequences that a block of the kernel runs together


class CudaRecurrence:
    """What runs a cell on CUDA tensors. Nothing here waits for the device.

    Args:
        name: of the functions of the module.
        gates: blocks of H rows in a weight.
        cell: whether there is a second state.
    """

    def __init__(self, name: str, gates: int, cell: bool) -> None:
        self.name, self.gates, self.cell = name, gates, cell

    def forward(
        self,
        outputs: tuple[Tensor, Tensor, Tensor, Tensor],
        values: Tensor,
        offsets: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        *rest: Any,
    ) -> None:
        """Fills the outputs: output, final state, final cell, what is saved for backward."""
        *states, reverse, save = rest
        output, final_state, final_cell, saved = outputs
        self._run(
            "recurrence",
            final_state.shape,
            values.dtype,
            _product(values, weight_ih.t()),
            offsets.contiguous(),
            _by_length(offsets),
            rows(weight_hh),
            packed(bias_ih),
            packed(bias_hh),
            *map(rows, states),
            reverse,
            output,
            final_state,
            final_cell if self.cell else None,
            saved if save else None,
        )

    def step(
        self,
        outputs: tuple[Tensor, Tensor],
        values: Tensor,
        state: Tensor,
        cell: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
    ) -> None:
        """Fills the new state and cell; weights and states of two dtypes meet in float32."""
        dtype = values.dtype if values.dtype == weight_hh.dtype else torch.float32
        new_state, new_cell = wanted = [x.to(dtype) for x in outputs]
        self._run(
            "recurrence",
            state.shape,
            dtype,
            _product(values.to(dtype), weight_ih.to(dtype).t()),
            None,
            None,
            weight_hh.to(dtype),
            *bias,
            rows(state.to(dtype)),
            None if cell is None else rows(cell.to(dtype)),
            None,
            None,
            False,
            None,
            new_state,
            new_cell if self.cell else None,
            None,
        )
        for output, x in zip(outputs, wanted, strict=True):
            if output is not x:
                output.copy_(x)

    def backward(
        self,
        grads: Sequence[Tensor | None],
        values: Tensor,
        offsets: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, ...]:
        """The gradients of values, weight_ih, weight_hh, bias_ih, bias_hh, initial state and cell."""
        *states, reverse, output, saved = rest
        hidden = weight_hh.shape[1]
        of_inputs = values.new_empty(values.shape[0], self.gates * hidden)
        of_state = torch.empty_like(output) if self.gates == 3 else None
        seen = torch.empty_like(output)
        shape = offsets.shape[0] - 1, hidden
        for_state, for_cell = values.new_empty(shape), values.new_empty(shape if self.cell else (0,))
        self._run(
            "recurrence_backward",
            shape,
            values.dtype,
            *map(rows, grads),
            offsets.contiguous(),
            _by_length(offsets),
            rows(weight_hh),
            *map(rows, states),
            reverse,
            output,
            saved,
            of_inputs,
            of_state,
            seen,
            for_state,
            for_cell if self.cell else None,
        )
        for_bias = of_inputs.sum(0)
        if of_state is None:
            for_bias_hh, for_hh = for_bias.clone(), of_inputs.t() @ seen
        else:  # the last gate takes another part of the state
            same = of_inputs[:, : 2 * hidden]
            for_bias_hh = torch.cat([for_bias[: 2 * hidden], of_state.sum(0)])
            for_hh = torch.cat([same.t() @ seen, of_state.t() @ seen])
        for_values, for_ih = of_inputs @ weight_ih, of_inputs.t() @ values
        return for_values, for_ih, for_hh, for_bias, for_bias_hh, for_state, for_cell

    def _run(self, function: str, states: Sequence[int], dtype: torch.dtype, *arguments: Any) -> None:
        """Calls it with scratch for B sequences of H units."""
        weight = next(x for x in arguments if isinstance(x, Tensor))
        module = backend(weight)
        family = self.name.split("_")[0]
        size = getattr(module, f"{family}_{function}_scratch")(*states, dtype.itemsize)
        getattr(module, f"{self.name}_{function}")(*arguments, scratch(size, weight.device))


def pack(
    weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of the weights as they stand, and both biases in float32."""
    biases = [
        weight_hh.new_zeros(weight_hh.shape[0], dtype=torch.float32) if bias is None else bias.float()
        for bias in (bias_ih, bias_hh)
    ]
    ih, hh = (x.to(dtype, memory_format=torch.contiguous_format, copy=True) for x in (weight_ih, weight_hh))
    return ih, hh, torch.stack(biases)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """In float32, also where the factors are bfloat16."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _by_length(offsets: Tensor) -> Tensor | None:
    """The sequences by falling length; None where one tile holds them all."""
    if offsets.shape[0] - 1 <= _TILE:
        return None
    return torch.argsort(offsets.diff(), descending=True, stable=True)
