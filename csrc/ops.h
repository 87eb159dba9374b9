// The contract of the core: one args struct per function, every pointer with its shape.
//
// Legend: B sequences or queries, N events in all, T steps, I input size, H hidden size, D head or state
// width, A attention heads, V items, K results kept or negatives drawn, M targets or list entries in all.
// Arrays are C-contiguous unless "rows may be strided" is said. Offsets are int64 [B + 1], ascending from 0
// to the total. float means fp32; "float/bf16" arrays of one call share one dtype. Outputs and scratch belong
// to the caller, are written in full (scratch: no promise on its content) and may not overlap anything else.
// `scratch` is uint8, aligned to 64, of at least <function>_scratch(...) bytes. The size may depend on
// num_threads(): a call whose scratch was sized for fewer threads than are wanted by then runs on as many as
// it has room for. Bad arguments throw ShapeError or DTypeError (core/check.h) before anything is written.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- dense: output = activation(input weight^T + bias) ------------------------------------------------
enum class Activation : int64_t { none = 0, relu = 1, gelu = 2, silu = 3, sigmoid = 4, tanh = 5 };

struct DenseArgs {
  TensorView input;     // float [N, I], rows may be strided
  TensorView weight;    // float, packed by pack_panels from [O, I]: [ceil(O / 16), I, 16]
  TensorView bias;      // float [O] or none
  TensorView residual;  // float [N, O] or none: added after the activation
  int64_t activation;   // Activation
  TensorView output;    // float [N, O]
};
void dense(const DenseArgs& args);

// Packs rows (an item table or a weight matrix) for `dense`, `item_topk` and `item_rank`.
struct PackPanelsArgs {
  TensorView rows;    // float/bf16 [V, D], rows may be strided
  TensorView packed;  // float [ceil(V / 16), D, 16], zero padded
};
void pack_panels(const PackPanelsArgs& args);

// ---- embed: output[n] = scale * mean of table[item] over the items of bag n (+ position[place of n in its
// sequence])
struct EmbedArgs {
  TensorView table;        // float [V, D]
  TensorView items;        // int32 [M], ids in [0, V)
  TensorView bag_offsets;  // int64 [N + 1] or none: one item per bag; an empty bag gives zeros
  double scale;
  TensorView position;          // float [P, D] or none
  TensorView sequence_offsets;  // int64 [B + 1], sequences of bags, none longer than P; given with position
  TensorView output;            // float [N, D]
};
void embed(const EmbedArgs& args);

// ---- layer_norm: output = (input - mean) / sqrt(variance + epsilon) * weight + bias, over the last
// dimension
struct LayerNormArgs {
  TensorView input;   // float [N, D]
  TensorView weight;  // float [D]
  TensorView bias;    // float [D] or none
  double epsilon;
  TensorView output;  // float [N, D]
};
void layer_norm(const LayerNormArgs& args);

// ---- item_topk, item_rank, item_score: score(b, v) = queries[b] . table[v] + bias[v] + adjustment(b, v)
// The product adds over d = 0, 1, ... in the order of gemm.h, then comes the bias, then the adjustment,
// so all three functions and every batch size agree bitwise. Query b adjusts the items
// adjust_items[adjust_offsets[b] .. adjust_offsets[b + 1]], strictly ascending, by adjust_values, or takes
// them out where there are no values; items whose byte of `allow` is 0 are taken out too. An item is left if
// its score > -inf: a score of -inf or NaN, wherever it came from, means taken out. The adjust_* arrays are
// all none, or offsets and items are given (and values if wanted). D may be 0.
struct ItemTopkArgs {
  TensorView queries;         // float [B, D], rows may be strided
  TensorView table;           // float, packed by pack_panels from [V, D]: [ceil(V / 16), D, 16]
  int64_t num_items;          // V, below 2^31
  TensorView bias;            // float [V] or none
  TensorView adjust_offsets;  // int64 [B + 1] or none
  TensorView adjust_items;    // int32 [N] or none
  TensorView adjust_values;   // float [N] or none
  TensorView allow;           // uint8 [V], or [B, V] whose rows may be strided, or none
  TensorView codes;           // the table as pack_item_codes made it on this machine, or none
  TensorView code_facts;      // with codes: only rows whose approximate score may be among the best are read
  int64_t k;                  // K >= 1, may exceed V
  TensorView top_scores;      // float [B, K], descending, ties by ascending item; -inf where no item is left
  TensorView top_items;       // int32 [B, K]; -1 where no item is left
  TensorView scratch;         // item_topk_scratch(B, V, D, K, code_bits(codes))
};
void item_topk(const ItemTopkArgs& args);
int64_t item_topk_scratch(int64_t queries, int64_t num_items, int64_t depth, int64_t k, int64_t code_bits);
// 0 without codes.
CHRONOREC_INLINE int64_t code_bits(const TensorView& codes) { return codes ? 8 * size_of(codes.dtype) : 0; }

// A table in short codes with what bounds their error, for item_topk: the answer is the same, bit by bit, and
// less memory is read for it. The order of the codes belongs to the instruction-set level.
struct PackItemCodesArgs {
  TensorView rows;  // float/bf16 [V, D], rows may be strided; D at most kMostCodedDepth
  TensorView
      codes;  // uint8 [ceil(V / 16), ceil(D / 4), 64] for 8 bits, bf16 [ceil(V / 16), ceil(D / 2), 32] for 16
  TensorView facts;  // bf16 [ceil(V / 16), 3, 16]
};
void pack_item_codes(const PackItemCodesArgs& args);
constexpr int64_t kMostCodedDepth = 1 << 16;  // sums of products of codes fit into 32 bits

// For each target of a query: how many other items that are left score more, and how many exactly as much.
// A target that was itself taken out is a miss at every cutoff: greater = num_items, equal = 0.
struct ItemRankArgs {
  TensorView queries;  // as in ItemTopkArgs, down to allow
  TensorView table;
  int64_t num_items;
  TensorView bias, adjust_offsets, adjust_items, adjust_values, allow;
  TensorView targets;         // int32/int64 [M], in [0, V)
  TensorView target_offsets;  // int64 [B + 1], or none: M = B, one target per query
  TensorView greater;         // int64 [M]
  TensorView equal;           // int64 [M]
  TensorView scratch;
};
void item_rank(const ItemRankArgs& args);
int64_t item_rank_scratch(int64_t targets);

// The scores of listed items; -inf where the adjustment or the mask takes an item out.
struct ItemScoreArgs {
  TensorView queries;  // as in ItemTopkArgs, down to allow
  TensorView table;    // or its rows themselves: float/bf16 [V, D], rows may be strided
  int64_t num_items;
  TensorView bias, adjust_offsets, adjust_items, adjust_values, allow;
  TensorView list_items;    // int32/int64 [M], in [0, V)
  TensorView list_offsets;  // int64 [B + 1], or none: M = B, one item per query
  TensorView scores;        // float [M]
};
void item_score(const ItemScoreArgs& args);
// ---- jagged_attention: event i attends to events j of the same sequence, per head -----------------------
// score_ij = scale query_i . key_j + position[i - j] + time_table[bucket of |times_i - times_j|]
//            + distance_table[bucket of |places_i - places_j|^2]
// over the j with i - window < j <= i if causal, else |i - j| < window. Softmax: output_i =
// sum_j softmax_j(score_ij) value_j; silu: output_i = sum_j score_ij sigmoid(score_ij) value_j / divisor.
// The bucket of x is the number of boundaries <= x, a gap of time being rounded to fp32 first. Column of the
// gap i - j in `position`: i - j if causal, else i - j + P / 2, in either case moved into [0, P).
struct JaggedAttentionForwardArgs {
  TensorView query, key, value;  // float/bf16 [N, A, D], rows may be strided
  TensorView offsets;            // int64 [B + 1]
  double scale;
  bool causal;
  int64_t window;  // at least 1
  bool silu;       // in place of softmax
  double divisor;  // of silu
  // A bias is none, or its table and what it needs are given. Tables: fp32, rows may be strided.
  TensorView position;             // float [A, P] or none
  TensorView times;                // int64 [N] or none
  TensorView time_boundaries;      // float [buckets - 1], ascending, or none
  TensorView time_table;           // float [A, buckets] or none, at most kAttentionBuckets
  TensorView places;               // float [N, 3] or none: points on the unit sphere
  TensorView distance_boundaries;  // float [buckets - 1], ascending, or none: squares of distances
  TensorView distance_table;       // float [A, buckets] or none, at most kAttentionBuckets
  TensorView output;               // float/bf16 [N, A, D]
  TensorView lse;                  // float [N, A] or none: log of the sum of e^score, for backward of softmax
  TensorView scratch;              // jagged_attention_forward_scratch(B, N, D)
};
void jagged_attention_forward(const JaggedAttentionForwardArgs& args);
int64_t jagged_attention_forward_scratch(int64_t sequences, int64_t events, int64_t width);

struct JaggedAttentionBackwardArgs {
  TensorView grad_output;        // float/bf16 [N, A, D], rows may be strided
  TensorView query, key, value;  // as in forward, down to distance_table
  TensorView offsets;
  double scale;
  bool causal;
  int64_t window;
  bool silu;
  double divisor;
  TensorView position, times, time_boundaries, time_table, places, distance_boundaries, distance_table;
  TensorView output, lse;                       // from forward; none if silu
  TensorView grad_query, grad_key, grad_value;  // float/bf16 [N, A, D]
  // float [A, columns] of the tables; none where there is no table
  TensorView grad_position, grad_time_table, grad_distance_table;
  TensorView scratch;  // jagged_attention_backward_scratch(B, N, D, A * columns of all tables)
};
void jagged_attention_backward(const JaggedAttentionBackwardArgs& args);
int64_t jagged_attention_backward_scratch(int64_t sequences, int64_t events, int64_t width,
                                          int64_t table_size);

// One new event per sequence: the last of the cache, where its key, value, time and place stand too. No keys
// at all: zeros. Equal to jagged_attention_forward up to rounding, and bitwise independent of the other
// sequences.
struct JaggedAttentionStepArgs {
  TensorView query;                   // float/bf16 [B, A, D], rows may be strided
  TensorView key_cache, value_cache;  // float/bf16 [N, A, D], rows may be strided
  TensorView offsets;                 // int64 [B + 1], of the cache
  double scale;                       // as in forward, down to distance_table; N events of the cache
  bool causal;
  int64_t window;
  bool silu;
  double divisor;
  TensorView position, times, time_boundaries, time_table, places, distance_boundaries, distance_table;
  TensorView output;   // float/bf16 [B, A, D]
  TensorView scratch;  // jagged_attention_step_scratch(D, whether there is a bias)
};
void jagged_attention_step(const JaggedAttentionStepArgs& args);
int64_t jagged_attention_step_scratch(int64_t width, bool biased);

// Of a forward or backward scratch: what holds the order of the work, and the sums of the tables' gradients.
int64_t jagged_attention_order_bytes(int64_t sequences, int64_t events);
int64_t jagged_attention_table_bytes(int64_t sequences, int64_t events, int64_t table_size);

// Tiles of the attention kernels: queries taken together and keys per pass (a tile's last pass may hold
// kAttentionQueries more keys). Backward never divides a sequence up to kAttentionShort, always one above
// kAttentionWhole, and one in between where there are too few others for the threads; then into parts of
// kAttentionPart, a multiple of both. A thread's scratch holds the sums of kAttentionWhole keys: 2 MB at
// D = 64. Gradients of bias tables are summed per kAttentionPart queries first.
constexpr int64_t kAttentionQueries = 48, kAttentionKeys = 192;
constexpr int64_t kAttentionPart = 12 * kAttentionQueries;
constexpr int64_t kAttentionShort = 20 * kAttentionQueries, kAttentionWhole = 84 * kAttentionQueries;
// Of the bias: buckets of a table, pairs of events whose buckets a thread keeps for the next head, and bytes
// of a thread's scratch.
constexpr int64_t kAttentionBuckets = 256, kAttentionMemo = 1 << 17;
constexpr int64_t kAttentionBiasBytes = 48 << 10, kAttentionMemoBytes = kAttentionMemo + (24 << 10);
// ---- item_cross_entropy: softmax loss over items, weighted mean over the rows that have a target; logits
// are not stored. Logit of item v for row n: (hidden[n] . table[v] + bias[v]) / temperature; in sampled mode
// less log_q. Row n has the targets target_offsets[n] .. target_offsets[n + 1]; a row of weight 0 is as if it
// had none. Gradients are those of the loss; ask for them by passing them.
struct ItemCrossEntropyArgs {
  TensorView hidden;          // float/bf16 [N, D], rows may be strided
  TensorView table;           // float/bf16 [V, D], rows may be strided
  TensorView targets;         // int64 [M]
  TensorView target_offsets;  // int64 [N + 1], or none: M = N, one target per row
  TensorView target_order;    // int64 [M]: positions of targets, ascending by item; none without gradients of
                              // table and bias
  TensorView bias;            // float/bf16 [V] or none
  TensorView negatives;       // int64 [K], ascending, duplicates allowed; or none: all items compete
  TensorView negative_log_q;  // float [K] or none
  TensorView target_log_q;    // float [M] or none
  TensorView weights;         // float [N], finite, not negative, or none: all 1
  double temperature;         // above 0
  double label_smoothing;     // 0 to 1: the labels' part that is spread over all items; 0 in sampled mode
  TensorView loss;            // float [1]
  TensorView hidden_grad;     // float/bf16 [N, D] or none
  TensorView table_grad;      // float/bf16 [V, D] or none
  TensorView bias_grad;       // float/bf16 [V] or none
  TensorView scratch;
};
void item_cross_entropy(const ItemCrossEntropyArgs& args);
// cols: V, or K where `sampled`; `rounded`: the inputs are bf16; `smoothed`: label_smoothing is not 0; the
// other flags say which gradients are wanted.
int64_t item_cross_entropy_scratch(int64_t rows, int64_t cols, int64_t targets, int64_t depth, bool sampled,
                                   bool rounded, bool hidden_grad, bool table_grad, bool bias_grad,
                                   bool smoothed);
// ---- gru, lstm, rnn: one recurrent layer over jagged sequences, in the formulas of torch.nn ---------------
//   gru   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h +
//   b_hn)),
//         h' = n + z (h - n); blocks of H rows in a weight: r, z, n
//   lstm  c' = f c + i g, h' = o tanh(c'); i, f, o by sigmoid, g by tanh; blocks i, f, g, o
//   rnn   h' = tanh(W_i x + b_i + W_h h + b_h), or max(0, .)
// P = round_up(H, 16). G blocks of a weight, S slots of a sum, K arrays saved: gru 3, 4, 4; lstm 4, 4, 5; rnn
// 1, 1, 1 (RecurrentKind in cpu/recurrent_tiles.h). The state is carried in fp32 whatever the dtype. What has
// to do with a cell is none but for lstm. recurrent_mask multiplies the state before weight_hh does, at every
// step of a sequence; zoneout_mask m blends each new state h' with the one before it, h: m h + (1 - m) h'
// (cells likewise). In reverse a sequence runs from its last event to its first.
struct RecurrentPackArgs {
  TensorView weight_ih;         // float/bf16 [G H, I], rows may be strided
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView bias_ih, bias_hh;  // float/bf16 [G H] or none
  TensorView packed_ih;         // float [P / 16, G, I, 16]
  TensorView packed_hh;         // float [P / 16, G, H, 16]
  TensorView packed_bias;       // float [P / 16, S, 16]
};
void gru_pack(const RecurrentPackArgs& args);
void lstm_pack(const RecurrentPackArgs& args);
void rnn_pack(const RecurrentPackArgs& args);

struct RecurrentForwardArgs {
  TensorView values;          // float/bf16 [N, I], rows may be strided
  TensorView offsets;         // int64 [B + 1]
  TensorView weight_ih;       // float, packed_ih of RecurrentPackArgs
  TensorView weight_hh;       // float, packed_hh
  TensorView bias;            // float, packed_bias
  TensorView initial_state;   // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView initial_cell;    // likewise
  TensorView recurrent_mask;  // float/bf16 [B, H], rows may be strided, or none
  TensorView zoneout_mask;    // float/bf16 [N, H], rows may be strided, or none
  bool reverse;
  TensorView output;       // float/bf16 [N, H]
  TensorView final_state;  // float/bf16 [B, H]: the initial state where a sequence is empty
  TensorView final_cell;   // likewise
  TensorView saved;        // float [N, P / 16, K, 16] or none: for backward
  TensorView scratch;
};
void gru_forward(const RecurrentForwardArgs& args);
void lstm_forward(const RecurrentForwardArgs& args);
void rnn_tanh_forward(const RecurrentForwardArgs& args);
void rnn_relu_forward(const RecurrentForwardArgs& args);
int64_t gru_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);
int64_t lstm_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);
int64_t rnn_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);

// One step of B independent sequences; bitwise what forward gives for a sequence of length one.
struct RecurrentStepArgs {
  TensorView values;                      // float/bf16 [B, I], rows may be strided
  TensorView state;                       // float/bf16 [B, H], rows may be strided
  TensorView cell;                        // likewise
  TensorView weight_ih, weight_hh, bias;  // as in RecurrentForwardArgs
  TensorView new_state;                   // float/bf16 [B, H]
  TensorView new_cell;                    // likewise
  TensorView scratch;
};
void gru_step(const RecurrentStepArgs& args);
void lstm_step(const RecurrentStepArgs& args);
void rnn_tanh_step(const RecurrentStepArgs& args);
void rnn_relu_step(const RecurrentStepArgs& args);
int64_t gru_step_scratch(int64_t hidden_size);
int64_t lstm_step_scratch(int64_t hidden_size);
int64_t rnn_step_scratch(int64_t hidden_size);

struct RecurrentBackwardArgs {
  TensorView grad_output;       // float/bf16 [N, H], rows may be strided, or none: zeros
  TensorView grad_final_state;  // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView grad_final_cell;   // likewise
  TensorView values;            // float/bf16 [N, I], rows may be strided
  TensorView offsets;           // int64 [B + 1]
  TensorView weight_ih;         // float/bf16 [G H, I], rows may be strided
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView initial_state, initial_cell, recurrent_mask, zoneout_mask;  // as in RecurrentForwardArgs
  bool reverse;
  TensorView output;                      // float/bf16 [N, H] of forward
  TensorView saved;                       // float [N, P / 16, K, 16] of forward
  TensorView grad_values;                 // float/bf16 [N, I]
  TensorView grad_weight_ih;              // float/bf16 [G H, I]
  TensorView grad_weight_hh;              // float/bf16 [G H, H]
  TensorView grad_bias_ih, grad_bias_hh;  // float/bf16 [G H] or none: not wanted
  TensorView grad_initial_state;          // float/bf16 [B, H] or none: not wanted
  TensorView grad_initial_cell;           // likewise
  TensorView scratch;
};
void gru_backward(const RecurrentBackwardArgs& args);
void lstm_backward(const RecurrentBackwardArgs& args);
void rnn_tanh_backward(const RecurrentBackwardArgs& args);
void rnn_relu_backward(const RecurrentBackwardArgs& args);
int64_t gru_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);
int64_t lstm_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);
int64_t rnn_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);

// ---- graph: a CSR matrix of R rows over V neighbours; row r has the edges offsets[r] .. offsets[r + 1]
// ----- Neighbours and edges are ids of one dtype; with int32 E is below 2^31. The transpose of a matrix
// lists for every neighbour the rows that have it, in ascending order of the edge, and the edge's place in
// the matrix. Rows are divided among threads by edges, those of more than 2048 into parts that are added in
// order.
struct GraphTransposeArgs {
  TensorView offsets;             // int64 [R + 1]
  TensorView neighbours;          // int32/int64 [E], in [0, V)
  TensorView transposed_offsets;  // int64 [V + 1]
  TensorView rows;                // as neighbours [E]: the row of each edge of the transpose
  TensorView edges;               // as neighbours [E]: its place in `neighbours`
  TensorView scratch;             // graph_transpose_scratch(V, E)
};
void graph_transpose(const GraphTransposeArgs& args);
int64_t graph_transpose_scratch(int64_t neighbours, int64_t edges);

// output[r] = row_scale[r] * sum over the edges e of row r: weight[edges[e]] * neighbour_scale[n] *
// features[n], n = neighbours[e]. What is none counts as one. With the arrays of a transpose and the scales
// swapped this is the gradient of the features.
struct GraphSumArgs {
  TensorView features;         // float/bf16 [V, D], rows may be strided
  TensorView weight;           // float [E] or none
  TensorView row_scale;        // float [R] or none
  TensorView neighbour_scale;  // float [V] or none
  TensorView offsets;          // int64 [R + 1]
  TensorView neighbours;       // int32/int64 [E], in [0, V)
  TensorView edges;            // as neighbours [E], in [0, E), or none: each its own place
  TensorView output;           // float/bf16 [R, D]
  TensorView scratch;          // graph_scratch(R, E, D)
};
void graph_sum(const GraphSumArgs& args);
int64_t graph_scratch(int64_t rows, int64_t edges, int64_t width);

// output[e] = row_scale[r] * neighbour_scale[n] * left[r] . right[n]: the gradient of the weights of
// graph_sum.
struct GraphDotArgs {
  TensorView left;             // float/bf16 [R, D], rows may be strided
  TensorView right;            // float/bf16 [V, D], rows may be strided
  TensorView row_scale;        // float [R] or none
  TensorView neighbour_scale;  // float [V] or none
  TensorView offsets;          // int64 [R + 1]
  TensorView neighbours;       // int32/int64 [E], in [0, V)
  TensorView output;           // float [E]
};
void graph_dot(const GraphDotArgs& args);

// output[r, d] = max over the edges e of row r: weight[e] * features[n, d]; zero where there is none. NaN
// wins.
struct GraphMaxArgs {
  TensorView features;    // float/bf16 [V, D], rows may be strided
  TensorView weight;      // float [E] or none
  TensorView offsets;     // int64 [R + 1], no row of 2^31 edges
  TensorView neighbours;  // int32/int64 [E], in [0, V)
  TensorView output;      // float/bf16 [R, D]
  TensorView arg;         // int32 [R, D]: which edge of the row, the first of equals; -1 where there is none
  TensorView scratch;     // graph_scratch(R, E, 2 round_up(D, 16))
};
void graph_max(const GraphMaxArgs& args);

struct GraphMaxBackwardArgs {
  TensorView grad_output;  // float/bf16 [R, D], rows may be strided
  TensorView features;     // as in GraphMaxArgs, down to neighbours
  TensorView weight;
  TensorView offsets;
  TensorView neighbours;
  TensorView transposed_offsets;  // int64 [V + 1], with rows and edges of graph_transpose
  TensorView rows;
  TensorView edges;
  TensorView arg;            // int32 [R, D] of graph_max
  TensorView grad_features;  // float/bf16 [V, D]
  TensorView grad_weight;    // float [E] or none: not wanted
  TensorView scratch;        // graph_scratch(V, E, D)
};
void graph_max_backward(const GraphMaxBackwardArgs& args);

// ---- item_sampled_loss: losses over negatives of each row's own, weighted mean over the rows that have a
// target ---- Logits, targets, rows that count and gradients as in item_cross_entropy. A negative that is one
// of the row's targets does not compete. With s the logit of a target and x those of the K' negatives left,
// the loss of a row is the mean over its targets of
//   softmax: log(1 + exp(logsumexp(x) - s)), both less log_q
//   gbce:    (-exponent log sigmoid(s) - sum log(1 - sigmoid(x))) / (K' + 1)
//   bpr:     mean of -log sigmoid(s - x), 0 where none is left
enum class SampledLossKind : int64_t { softmax = 0, gbce = 1, bpr = 2 };

struct ItemSampledLossArgs {
  TensorView hidden;          // float/bf16 [N, D], rows may be strided; N below 2^31
  TensorView table;           // float/bf16 [V, D], rows may be strided; V below 2^31
  TensorView targets;         // int64 [M]
  TensorView target_offsets;  // int64 [N + 1], or none: M = N, one target per row
  TensorView bias;            // float/bf16 [V] or none
  TensorView negatives;       // int64 [N, K], rows may be strided (stride 0: all rows share them)
  TensorView negative_log_q;  // float [N, K], likewise, or none; softmax alone
  TensorView target_log_q;    // float [M] or none; softmax alone
  TensorView weights;         // float [N], finite, not negative, or none: all 1
  double temperature;         // above 0
  int64_t kind;               // SampledLossKind
  double exponent;            // of gbce
  TensorView loss;            // float [1]
  TensorView hidden_grad;     // float/bf16 [N, D] or none
  TensorView table_grad;      // float/bf16 [V, D] or none
  TensorView bias_grad;       // float/bf16 [V] or none
  TensorView scratch;         // item_sampled_loss_scratch(N, V, K, M, D, table_grad or bias_grad)
};
void item_sampled_loss(const ItemSampledLossArgs& args);
int64_t item_sampled_loss_scratch(int64_t rows, int64_t items, int64_t negatives, int64_t targets,
                                  int64_t depth, bool scatters);

// ---- graph_attention: row r gathers the features of its neighbours, weighted by a softmax per head --------
// For the edge e from neighbour n: s_e = leaky_relu(source_score[n] + destination_score[r] + edge_score[e]),
// output[r] = sum_e softmax_e(s_e) features[n]. Zeros where there is no edge, or none of finite score.
struct GraphAttentionForwardArgs {
  TensorView features;           // float/bf16 [V, A, D], rows may be strided
  TensorView source_score;       // float [V, A]
  TensorView destination_score;  // float [R, A]
  TensorView edge_score;         // float [E, A] or none
  TensorView offsets;            // int64 [R + 1]
  TensorView neighbours;         // int32/int64 [E], in [0, V)
  double negative_slope;
  TensorView output;   // float/bf16 [R, A, D]
  TensorView softmax;  // float [R, 2, A]: what is taken off the scores, one over the sum of exp of the rest
  TensorView scratch;  // graph_attention_scratch(R, E, A, D)
};
void graph_attention_forward(const GraphAttentionForwardArgs& args);
int64_t graph_attention_scratch(int64_t rows, int64_t edges, int64_t heads, int64_t width);

struct GraphAttentionBackwardArgs {
  TensorView grad_output;  // float/bf16 [R, A, D], rows may be strided
  TensorView features;     // as in forward, down to edge_score
  TensorView source_score;
  TensorView destination_score;
  TensorView edge_score;
  TensorView offsets;             // int64 [R + 1]
  TensorView transposed_offsets;  // int64 [V + 1], with rows and edges of graph_transpose
  TensorView rows;
  TensorView edges;
  double negative_slope;
  TensorView output;                  // of forward
  TensorView softmax;                 // of forward
  TensorView grad_features;           // float/bf16 [V, A, D]
  TensorView grad_source_score;       // float [V, A]
  TensorView grad_destination_score;  // float [R, A]
  TensorView grad_edge_score;         // float [E, A]
  TensorView scratch;                 // graph_attention_backward_scratch(R, V, E, A, D)
};
void graph_attention_backward(const GraphAttentionBackwardArgs& args);
int64_t graph_attention_backward_scratch(int64_t rows, int64_t neighbours, int64_t edges, int64_t heads,
                                         int64_t width);

}  // namespace chronorec
