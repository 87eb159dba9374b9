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

# items: best of all, rank among all, scores of some
def item_topk_scratch(queries: int, num_items: int, depth: int, k: int, /) -> int: ...
def item_topk(
    queries: Array,
    table: Array,
    num_items: int,
    bias: Array | None,
    adjust_offsets: Array | None,
    adjust_items: Array | None,
    adjust_values: Array | None,
    k: int,
    top_scores: Array,
    top_items: Array,
    scratch: Array,
    /,
) -> None: ...
def item_rank_scratch(targets: int, /) -> int: ...
def item_rank(
    queries: Array,
    table: Array,
    num_items: int,
    bias: Array | None,
    adjust_offsets: Array | None,
    adjust_items: Array | None,
    adjust_values: Array | None,
    targets: Array,
    target_offsets: Array,
    greater: Array,
    equal: Array,
    scratch: Array,
    /,
) -> None: ...
def item_score(
    queries: Array,
    table: Array,
    num_items: int,
    bias: Array | None,
    adjust_offsets: Array | None,
    adjust_items: Array | None,
    adjust_values: Array | None,
    list_items: Array,
    list_offsets: Array,
    scores: Array,
    /,
) -> None: ...
