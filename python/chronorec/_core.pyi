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

# ---- jagged_attention
def jagged_attention_forward(
    query: Array,
    key: Array,
    value: Array,
    offsets: Array,
    scale: float,
    output: Array,
    lse: Array | None,
    scratch: Array,
    /,
) -> None: ...
def jagged_attention_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    offsets: Array,
    scale: float,
    output: Array,
    lse: Array,
    grad_query: Array,
    grad_key: Array,
    grad_value: Array,
    scratch: Array,
    /,
) -> None: ...
def jagged_attention_step(
    query: Array,
    key_cache: Array,
    value_cache: Array,
    offsets: Array,
    scale: float,
    output: Array,
    scratch: Array,
    /,
) -> None: ...
def jagged_attention_forward_scratch(sequences: int, events: int, width: int, /) -> int: ...
def jagged_attention_backward_scratch(sequences: int, events: int, width: int, /) -> int: ...
def jagged_attention_step_scratch(width: int, /) -> int: ...
