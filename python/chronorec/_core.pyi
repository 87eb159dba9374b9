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
def embed(
    table: Array,
    items: Array,
    bag_offsets: Array | None,
    scale: float,
    position: Array | None,
    sequence_offsets: Array | None,
    output: Array,
    /,
) -> None: ...
def layer_norm(input: Array, weight: Array, bias: Array | None, epsilon: float, output: Array, /) -> None: ...
def pack_panels(rows: Array, packed: Array, /) -> None: ...
