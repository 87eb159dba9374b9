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

# events: arguments are the fields of the args structs in csrc/events/events.h, positional
class IntEncoder:
    def __len__(self) -> int: ...
    def encode(self, keys: Array, codes: Array, insert: bool, /) -> None: ...
    def copy_keys(self, output: Array, /) -> None: ...

class TextEncoder:
    def __len__(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def encode(self, offsets: Array, data: Array, codes: Array, insert: bool, /) -> None: ...
    def copy_keys(self, offsets: Array, data: Array, /) -> None: ...

def group_events(
    user: Array,
    key: Array | None,
    item: Array | None,
    offsets: Array,
    grouped_key: Array | None,
    grouped_item: Array | None,
    order: Array | None,
    out_of_order: Array,
    /,
) -> None: ...
def gather_events(values: Array, order: Array, output: Array, /) -> None: ...
def count_codes(codes: Array, counts: Array, /) -> None: ...
def count_duplicates(
    offsets: Array, key: Array, item: Array, extra: Array | None, duplicates: Array, /
) -> None: ...

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

# jagged_attention
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

# graph
def graph_transpose(
    offsets: Array,
    neighbours: Array,
    transposed_offsets: Array,
    rows: Array,
    edges: Array,
    scratch: Array,
    /,
) -> None: ...
def graph_transpose_scratch(neighbours: int, edges: int, /) -> int: ...
def graph_sum(
    features: Array,
    weight: Array | None,
    row_scale: Array | None,
    neighbour_scale: Array | None,
    offsets: Array,
    neighbours: Array,
    edges: Array | None,
    output: Array,
    scratch: Array,
    /,
) -> None: ...
def graph_dot(
    left: Array,
    right: Array,
    row_scale: Array | None,
    neighbour_scale: Array | None,
    offsets: Array,
    neighbours: Array,
    output: Array,
    /,
) -> None: ...
def graph_max(
    features: Array,
    weight: Array | None,
    offsets: Array,
    neighbours: Array,
    output: Array,
    arg: Array,
    scratch: Array,
    /,
) -> None: ...
def graph_max_backward(
    grad_output: Array,
    features: Array,
    weight: Array | None,
    offsets: Array,
    neighbours: Array,
    transposed_offsets: Array,
    rows: Array,
    edges: Array,
    arg: Array,
    grad_features: Array,
    grad_weight: Array | None,
    scratch: Array,
    /,
) -> None: ...
def graph_scratch(rows: int, edges: int, width: int, /) -> int: ...
def graph_attention_forward(
    features: Array,
    source_score: Array,
    destination_score: Array,
    edge_score: Array | None,
    offsets: Array,
    neighbours: Array,
    negative_slope: float,
    output: Array,
    softmax: Array,
    scratch: Array,
    /,
) -> None: ...
def graph_attention_scratch(rows: int, edges: int, heads: int, width: int, /) -> int: ...
def graph_attention_backward(
    grad_output: Array,
    features: Array,
    source_score: Array,
    destination_score: Array,
    edge_score: Array | None,
    offsets: Array,
    transposed_offsets: Array,
    rows: Array,
    edges: Array,
    negative_slope: float,
    output: Array,
    softmax: Array,
    grad_features: Array,
    grad_source_score: Array,
    grad_destination_score: Array,
    grad_edge_score: Array,
    scratch: Array,
    /,
) -> None: ...
def graph_attention_backward_scratch(
    rows: int, neighbours: int, edges: int, heads: int, width: int, /
) -> int: ...
