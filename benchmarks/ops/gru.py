"""The GRU layer against torch.nn.GRU (padded; packed where lengths differ), and one step against GRUCell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from benchmarks.harness import Case
from chronorec import _core
from chronorec.ops import gru, gru_step, pack_gru_weights

Provider = Callable[[], object]


def jagged_lengths(sequences: int, longest: int) -> list[int]:
    """Lengths as in an event log: many short histories, few long ones; padded, the batch is mostly empty."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.empty(sequences).log_normal_(0.0, 1.0, generator=generator) * longest * 0.18
    return [min(longest, 1 + int(length)) for length in drawn.tolist()]


def work_of(events: int, inputs: int, hidden: int, backward: bool) -> int:
    """FLOPs of the matrix products."""
    return 2 * events * 3 * hidden * (inputs + hidden) * (3 if backward else 1)


class Setup:
    """One layer, one batch of sequences, and what every provider does with them."""

    def __init__(self, lengths: list[int], inputs: int, hidden: int, backward: bool) -> None:
        torch.manual_seed(0)
        self.layer = torch.nn.GRU(inputs, hidden, batch_first=True)
        self.lengths = lengths
        self.backward = backward
        self.values = torch.randn(sum(lengths), inputs, requires_grad=backward)
        self.offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
        rows = self.values.detach().split(lengths)
        self.padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).requires_grad_(backward)
        self.packed = pack_sequence(list(rows), enforce_sorted=False)
        self.grad_output = torch.randn(sum(lengths), hidden)
        grad_rows = list(self.grad_output.split(lengths))
        self.grad_padded = torch.nn.utils.rnn.pad_sequence(grad_rows, batch_first=True)
        self.grad_packed = pack_sequence(grad_rows, enforce_sorted=False).data

    def _finish(self, output: Tensor, gradient: Tensor, values: Tensor) -> object:
        return torch.autograd.grad(output, [values, *self.layer.parameters()], gradient)

    def chronorec(self) -> object:
        weights = (
            self.layer.weight_ih_l0,
            self.layer.weight_hh_l0,
            self.layer.bias_ih_l0,
            self.layer.bias_hh_l0,
        )
        if not self.backward:
            with torch.no_grad():
                return gru(self.values, self.offsets, *weights)
        return self._finish(gru(self.values, self.offsets, *weights).output, self.grad_output, self.values)

    def torch_padded(self) -> object:
        if not self.backward:
            with torch.no_grad():
                return self.layer(self.padded)
        return self._finish(self.layer(self.padded)[0], self.grad_padded, self.padded)

    def torch_packed(self) -> object:
        data = self.packed.data.detach().requires_grad_(self.backward)
        packed = PackedSequence(
            data, self.packed.batch_sizes, self.packed.sorted_indices, self.packed.unsorted_indices
        )
        if not self.backward:
            with torch.no_grad():
                return self.layer(packed)
        return self._finish(self.layer(packed)[0].data, self.grad_packed, data)

    def providers(self) -> dict[str, Provider]:
        found: dict[str, Provider] = {"chronorec": self.chronorec, "torch.nn.GRU padded": self.torch_padded}
        if len(set(self.lengths)) > 1:
            found["torch.nn.GRU packed"] = self.torch_packed
        return found


def step_setup(sequences: int, inputs: int, hidden: int) -> dict[str, Provider]:
    """One step with weights packed once: the public op, the core alone as a service runs it, and GRUCell."""
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(inputs, hidden)
    values, state = torch.randn(sequences, inputs), torch.randn(sequences, hidden)
    weights = pack_gru_weights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    new_state = torch.empty(sequences, hidden)
    scratch = torch.empty(_core.gru_step_scratch(hidden), dtype=torch.uint8)

    def torch_cell() -> object:
        with torch.no_grad():
            return cell(values, state)

    return {
        "chronorec": lambda: gru_step(values, state, weights),
        "chronorec core": lambda: _core.gru_step(values, state, *weights, new_state, scratch),
        "torch.nn.GRUCell": torch_cell,
    }


def _layer_cases(name: str, lengths: list[int], inputs: int, hidden: int) -> list[Case]:
    cases = []
    for mode in ("forward", "forward+backward"):
        backward = mode != "forward"
        cases.append(
            Case(
                op="gru",
                name=name,
                mode=mode,
                dtype="float32",
                work=work_of(sum(lengths), inputs, hidden, backward),
                unit="GF/s",
                setup=lambda backward=backward: Setup(lengths, inputs, hidden, backward).providers(),
            )
        )
    return cases


def _step_case(sequences: int, inputs: int, hidden: int) -> Case:
    return Case(
        op="gru",
        name=f"B{sequences} I{inputs} H{hidden}",
        mode="step",
        dtype="float32",
        work=work_of(sequences, inputs, hidden, False),
        unit="GF/s",
        setup=lambda: step_setup(sequences, inputs, hidden),
    )


CASES: list[Case] = [
    *_layer_cases("B128 T50 I64 H128", [50] * 128, 64, 128),
    *_layer_cases("B128 T200 I64 H64", [200] * 128, 64, 64),
    *_layer_cases("B64 T50 I256 H256", [50] * 64, 256, 256),
    *_layer_cases("B128 T<=200 I64 H128 jagged", jagged_lengths(128, 200), 64, 128),
    _step_case(1, 128, 128),
    _step_case(64, 128, 128),
]
