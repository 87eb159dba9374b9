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

# item_cross_entropy
def item_cross_entropy(
    hidden: Array,
    table: Array,
    targets: Array,
    target_offsets: Array | None,
    target_order: Array | None,
    bias: Array | None,
    negatives: Array | None,
    negative_log_q: Array | None,
    target_log_q: Array | None,
    loss: Array,
    hidden_grad: Array | None,
    table_grad: Array | None,
    bias_grad: Array | None,
    scratch: Array,
    /,
) -> None: ...
def item_cross_entropy_scratch(
    rows: int,
    cols: int,
    targets: int,
    depth: int,
    sampled: bool,
    rounded: bool,
    hidden_grad: bool,
    table_grad: bool,
    bias_grad: bool,
    /,
) -> int: ...
