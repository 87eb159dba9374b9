"""Compiled core. Arguments are the fields of the function's args struct in csrc/ops.h, positional."""

from typing import Any, Final

__version__: Final[str]
level: Final[str]
best_level: Final[str]

Array = Any  # torch tensor, numpy array, or anything with __dlpack__ or the buffer protocol

def num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def dense(
    input: Array, weight: Array, bias: Array | None, residual: Array | None, activation: int, output: Array, /
) -> None: ...
def layer_norm(input: Array, weight: Array, bias: Array | None, epsilon: float, output: Array, /) -> None: ...
def pack_panels(rows: Array, packed: Array, /) -> None: ...

# gru
def gru_forward(
    values: Array,
    offsets: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    initial_state: Array | None,
    output: Array,
    final_state: Array,
    gates: Array | None,
    scratch: Array,
    /,
) -> None: ...
def gru_step(
    values: Array,
    state: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    new_state: Array,
    scratch: Array,
    /,
) -> None: ...
def gru_backward(
    grad_output: Array,
    grad_final_state: Array,
    values: Array,
    offsets: Array,
    weight_ih: Array,
    weight_hh: Array,
    initial_state: Array | None,
    output: Array,
    gates: Array,
    grad_values: Array,
    grad_weight_ih: Array,
    grad_weight_hh: Array,
    grad_bias_ih: Array | None,
    grad_bias_hh: Array | None,
    grad_initial_state: Array | None,
    scratch: Array,
    /,
) -> None: ...
def gru_forward_scratch(sequences: int, events: int, hidden_size: int, /) -> int: ...
def gru_step_scratch(hidden_size: int, /) -> int: ...
def gru_backward_scratch(sequences: int, events: int, input_size: int, hidden_size: int, /) -> int: ...
