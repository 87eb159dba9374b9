"""gru, lstm and rnn under the same tests: their arguments, and what they and their references give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from chronorec import ops
from chronorec.ops.reference import gru as gru_reference
from chronorec.ops.reference import lstm as lstm_reference
from chronorec.ops.reference import rnn as rnn_reference
from tests.support.budget import assert_within_budget
from tests.support.jagged import offsets_of

FLOATS = [torch.float32, torch.bfloat16]
WEIGHTS = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


@dataclass(frozen=True)
class Cell:
    """An op and its kin.

    Attributes:
        op: name of the public function.
        gates: blocks of H rows in a weight.
        reference: the module of the specification.
        options: keyword arguments of the op, its packing and its step in the reference.
        states: names of the initial states.
        torch_layer: the twin in ``torch.nn``.
        raw: name of the torch op.
    """

    op: str
    gates: int
    reference: ModuleType
    options: dict[str, Any]
    states: tuple[str, ...]
    torch_layer: Callable[..., torch.nn.RNNBase]
    raw: str

    def run(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return getattr(ops, self.op)(*arguments, **self.options, **options)

    def specify(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return getattr(self.reference, self.op)(*arguments, **self.options, **options)

    def pack(self, *weights: Tensor | None, **options: Any) -> Any:
        return getattr(ops, f"pack_{self.op}_weights")(*weights, **self.options, **options)

    def step(self, values: Tensor, states: Sequence[Tensor], packed: Any) -> tuple[Tensor, ...]:
        stepped = getattr(ops, f"{self.op}_step")(values, *states, packed)
        return stepped if isinstance(stepped, tuple) else (stepped,)

    def specify_step(self, values: Tensor, states: Sequence[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        stepped = getattr(self.reference, f"{self.op}_step")(values, *states, *weights, **self.options)
        return stepped if isinstance(stepped, tuple) else (stepped,)

    @property
    def names(self) -> list[str]:
        """Of the differentiable arguments, in the order of :meth:`inputs`."""
        return ["values", *WEIGHTS, *self.states]

    @property
    def outputs(self) -> list[str]:
        return ["output", "final_state", "final_cell"][: 1 + len(self.states)]

    def inputs(
        self,
        lengths: list[int],
        inputs: int,
        hidden: int,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> list[Tensor]:
        """Arguments of the op: values, offsets, the weights, the biases, the initial states."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * scale).to(dtype)

        rows = self.gates * hidden
        return [
            draw(sum(lengths), inputs),
            offsets_of(lengths),
            draw(rows, inputs, scale=inputs**-0.5),
            draw(rows, hidden, scale=hidden**-0.5),
            draw(rows, scale=0.3),
            draw(rows, scale=0.3),
            *(draw(len(lengths), hidden, scale=0.5) for _ in self.states),
        ]

    def results(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        arguments: Sequence[Tensor],
        dtype: torch.dtype,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Outputs and all gradients of a fixed random function of all outputs."""
        leaves = [a.to(dtype, copy=True).requires_grad_() if a.is_floating_point() else a for a in arguments]
        cast = {k: x.to(dtype) if isinstance(x, Tensor) else x for k, x in options.items()}
        outputs = function(*leaves, **cast)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).bfloat16().to(dtype) for x in outputs]
        wanted = [x for x in leaves if x.is_floating_point()]
        reached = [(x, w) for x, w in zip(outputs, weights, strict=True) if x.requires_grad]
        gradients = torch.autograd.grad(
            [x for x, _ in reached],
            wanted,
            [w for _, w in reached],
            allow_unused=True,
            materialize_grads=True,
        )
        names = zip(self.outputs, (x.detach() for x in outputs), strict=True)
        return dict(names) | dict(zip(self.names, gradients, strict=True))

    def masks(
        self, lengths: list[int], hidden: int, dtype: torch.dtype = torch.float32, seed: int = 5
    ) -> dict[str, Tensor]:
        """A recurrent mask scaled by what it keeps, and a zoneout mask with ones, zeros and in-betweens."""
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(len(lengths), hidden, generator=generator) < 0.75
        drawn = torch.rand(sum(lengths), hidden, generator=generator)
        blend = torch.where(drawn < 0.2, 1.0, torch.where(drawn < 0.8, 0.0, drawn))
        return {"recurrent_mask": (kept / 0.75).to(dtype), "zoneout_mask": blend.to(dtype)}

    def assert_correct(
        self,
        lengths: list[int],
        inputs: int,
        hidden: int,
        dtype: torch.dtype = torch.float32,
        scale: float = 1.0,
        draws: int = 3,
        **options: Any,
    ) -> None:
        """Every output and gradient alone within twice the reference's own error, and one rounding.

        That own error is the largest over a few draws, since a small tensor may be exact by luck. In bfloat16
        it is that of the reference in float32, rounded once: outputs must carry the state in float32.
        Gradients have the reference's bfloat16 error beside it, because backward reads the states as output,
        rounded.
        """
        own: dict[str, float] = {}
        for seed in reversed(range(draws)):
            arguments = self.inputs(lengths, inputs, hidden, dtype, seed)
            arguments[0] = arguments[0] * scale
            exact = self.results(self.specify, arguments, torch.float64, **options)
            single = self.results(self.specify, arguments, torch.float32, **options)
            near = {name: x.to(dtype) for name, x in single.items()}
            coarse = (
                near if dtype == torch.float32 else self.results(self.specify, arguments, dtype, **options)
            )
            for name, wanted in exact.items():
                if wanted.numel():
                    given = near if name in self.outputs else coarse
                    error = (given[name].double() - wanted).abs().max().item()
                    own[name] = max(own.get(name, 0.0), error)
        for name, actual in self.results(self.run, arguments, dtype, **options).items():
            assert actual.dtype == dtype, name
            assert_within_budget(actual, exact[name] + own.get(name, 0.0), exact[name], name)


def _torch_rnn(nonlinearity: str) -> Callable[..., torch.nn.RNNBase]:
    return lambda *args, **options: torch.nn.RNN(*args, nonlinearity=nonlinearity, **options)


GRU = Cell("gru", 3, gru_reference, {}, ("initial_state",), torch.nn.GRU, "gru")
LSTM = Cell("lstm", 4, lstm_reference, {}, ("initial_state", "initial_cell"), torch.nn.LSTM, "lstm")
RNNS = [
    Cell("rnn", 1, rnn_reference, {"nonlinearity": n}, ("initial_state",), _torch_rnn(n), f"rnn_{n}")
    for n in ("tanh", "relu")
]
CELLS = [GRU, LSTM, *RNNS]


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
