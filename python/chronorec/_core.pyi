"""Compiled core. Arguments are the fields of the function's args struct in csrc/ops.h, positional."""

from typing import Any, Final

__version__: Final[str]
level: Final[str]
best_level: Final[str]
amx: Final[bool]

Array = Any  # torch tensor, numpy array, or anything with __dlpack__ or the buffer protocol

def num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def set_amx(on: bool, /) -> None: ...
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
def item_topk_scratch(queries: int, num_items: int, depth: int, k: int, code_bits: int, /) -> int: ...
def item_topk(
    queries: Array,
    table: Array,
    num_items: int,
    bias: Array | None,
    adjust_offsets: Array | None,
    adjust_items: Array | None,
    adjust_values: Array | None,
    allow: Array | None,
    codes: Array | None,
    code_facts: Array | None,
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
    allow: Array | None,
    targets: Array,
    target_offsets: Array | None,
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
    allow: Array | None,
    list_items: Array,
    list_offsets: Array | None,
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
    causal: bool,
    window: int,
    silu: bool,
    divisor: float,
    position: Array | None,
    times: Array | None,
    time_boundaries: Array | None,
    time_table: Array | None,
    places: Array | None,
    distance_boundaries: Array | None,
    distance_table: Array | None,
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
    causal: bool,
    window: int,
    silu: bool,
    divisor: float,
    position: Array | None,
    times: Array | None,
    time_boundaries: Array | None,
    time_table: Array | None,
    places: Array | None,
    distance_boundaries: Array | None,
    distance_table: Array | None,
    output: Array | None,
    lse: Array | None,
    grad_query: Array,
    grad_key: Array,
    grad_value: Array,
    grad_position: Array | None,
    grad_time_table: Array | None,
    grad_distance_table: Array | None,
    scratch: Array,
    /,
) -> None: ...
def jagged_attention_step(
    query: Array,
    key_cache: Array,
    value_cache: Array,
    offsets: Array,
    scale: float,
    causal: bool,
    window: int,
    silu: bool,
    divisor: float,
    position: Array | None,
    times: Array | None,
    time_boundaries: Array | None,
    time_table: Array | None,
    places: Array | None,
    distance_boundaries: Array | None,
    distance_table: Array | None,
    output: Array,
    scratch: Array,
    /,
) -> None: ...
def jagged_attention_forward_scratch(sequences: int, events: int, width: int, /) -> int: ...
def jagged_attention_backward_scratch(sequences: int, events: int, width: int, table_size: int, /) -> int: ...
def jagged_attention_step_scratch(width: int, biased: bool, /) -> int: ...

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
    weights: Array | None,
    temperature: float,
    label_smoothing: float,
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
    smoothed: bool,
    /,
) -> int: ...

# gru, lstm, rnn: one signature
def gru_pack(
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    packed_ih: Array,
    packed_hh: Array,
    packed_bias: Array,
    /,
) -> None: ...
def gru_forward(
    values: Array,
    offsets: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array,
    initial_state: Array | None,
    initial_cell: Array | None,
    recurrent_mask: Array | None,
    zoneout_mask: Array | None,
    reverse: bool,
    output: Array,
    final_state: Array,
    final_cell: Array | None,
    saved: Array | None,
    scratch: Array,
    /,
) -> None: ...
def gru_step(
    values: Array,
    state: Array,
    cell: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array,
    new_state: Array,
    new_cell: Array | None,
    scratch: Array,
    /,
) -> None: ...
def gru_backward(
    grad_output: Array | None,
    grad_final_state: Array | None,
    grad_final_cell: Array | None,
    values: Array,
    offsets: Array,
    weight_ih: Array,
    weight_hh: Array,
    initial_state: Array | None,
    initial_cell: Array | None,
    recurrent_mask: Array | None,
    zoneout_mask: Array | None,
    reverse: bool,
    output: Array,
    saved: Array,
    grad_values: Array,
    grad_weight_ih: Array,
    grad_weight_hh: Array,
    grad_bias_ih: Array | None,
    grad_bias_hh: Array | None,
    grad_initial_state: Array | None,
    grad_initial_cell: Array | None,
    scratch: Array,
    /,
) -> None: ...
def gru_forward_scratch(sequences: int, events: int, hidden_size: int, /) -> int: ...
def gru_step_scratch(hidden_size: int, /) -> int: ...
def gru_backward_scratch(sequences: int, events: int, input_size: int, hidden_size: int, /) -> int: ...

lstm_pack: Final = gru_pack
lstm_forward: Final = gru_forward
lstm_step: Final = gru_step
lstm_backward: Final = gru_backward
lstm_forward_scratch: Final = gru_forward_scratch
lstm_step_scratch: Final = gru_step_scratch
lstm_backward_scratch: Final = gru_backward_scratch

rnn_pack: Final = gru_pack
rnn_tanh_forward: Final = gru_forward
rnn_relu_forward: Final = gru_forward
rnn_tanh_step: Final = gru_step
rnn_relu_step: Final = gru_step
rnn_tanh_backward: Final = gru_backward
rnn_relu_backward: Final = gru_backward
rnn_forward_scratch: Final = gru_forward_scratch
rnn_step_scratch: Final = gru_step_scratch
rnn_backward_scratch: Final = gru_backward_scratch

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

# item_topk: tables in short codes
def pack_item_codes(rows: Array, codes: Array, facts: Array, /) -> None: ...

# item_sampled_loss
def item_sampled_loss(
    hidden: Array,
    table: Array,
    targets: Array,
    target_offsets: Array | None,
    bias: Array | None,
    negatives: Array,
    negative_log_q: Array | None,
    target_log_q: Array | None,
    weights: Array | None,
    temperature: float,
    kind: int,
    exponent: float,
    loss: Array,
    hidden_grad: Array | None,
    table_grad: Array | None,
    bias_grad: Array | None,
    scratch: Array,
    /,
) -> None: ...
def item_sampled_loss_scratch(
    rows: int, items: int, negatives: int, targets: int, depth: int, scatters: bool, shared: bool, /
) -> int: ...

# the engine's program, for one event after the other, and its sessions
class Program:
    def __init__(self) -> None: ...
    @staticmethod
    def streaming(
        steps: list[dict[str, Any]],
        weights: dict[str, Array],
        max_length: int,
        recurrent_weights: str,
        states: str,
        /,
    ) -> Program | None: ...
    def replay(
        self,
        items: Array,
        offsets: Array,
        times: Array | None,
        at: Array | None,
        types: Array | None,
        profile: Array | None,
        answers: Array,
        /,
    ) -> None: ...

class Sessions:
    def __init__(
        self,
        program: Program,
        panels: Array,
        num_items: int,
        bias: Array | None,
        codes: Array | None,
        code_facts: Array | None,
        memory: int,
        idle_seconds: int,
        keeps_types: bool,
        /,
    ) -> None: ...
    def append(
        self, user: str | int, items: Array, times: Array, types: Array | None, now: int, /
    ) -> int: ...
    def append_one(self, user: str | int, item: int, time: int, type_: int, now: int, /) -> int: ...
    def recommend(
        self,
        user: str | int,
        at: int,
        end: int,
        now: int,
        leave_seen: bool,
        profile: Array | None,
        exclude: Array | None,
        allow: Array | None,
        scores: Array,
        /,
    ) -> list[int]: ...
    def query(
        self, user: str | int, at: int, end: int, now: int, profile: Array | None, state: Array, /
    ) -> bytes: ...
    def events(self, user: str | int, /) -> tuple[bytes, bytes, bytes] | None: ...
    def contains(self, user: str | int, /) -> bool: ...
    def forget(self, user: str | int, /) -> bool: ...
    @property
    def num_shards(self) -> int: ...
    def shard(self, number: int, /) -> tuple[list[str | int], bytes, bytes, bytes, bytes]: ...
    def counts(self) -> dict[str, int]: ...
