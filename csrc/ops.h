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
// ---- The product adds over d = 0, 1, ... in the order of gemm.h, then comes the bias, then the adjustment,
// so all three functions and every batch size agree bitwise. Query b adjusts the items
// adjust_items[adjust_offsets[b]
// .. adjust_offsets[b + 1]], strictly ascending, by adjust_values, or takes them out where there are no
// values. An item is left if its score > -inf: a score of -inf or NaN, wherever it came from, means taken
// out. The adjust_* arrays are all none, or offsets and items are given (and values if wanted). D may be 0.
struct ItemTopkArgs {
  TensorView queries;         // float [B, D], rows may be strided
  TensorView table;           // float, packed by pack_panels from [V, D]: [ceil(V / 16), D, 16]
  int64_t num_items;          // V, below 2^31
  TensorView bias;            // float [V] or none
  TensorView adjust_offsets;  // int64 [B + 1] or none
  TensorView adjust_items;    // int32 [N] or none
  TensorView adjust_values;   // float [N] or none
  int64_t k;                  // K >= 1, may exceed V
  TensorView top_scores;      // float [B, K], descending, ties by ascending item; -inf where no item is left
  TensorView top_items;       // int32 [B, K]; -1 where no item is left
  TensorView scratch;
};
void item_topk(const ItemTopkArgs& args);
int64_t item_topk_scratch(int64_t queries, int64_t num_items, int64_t depth, int64_t k);

// For each target of a query: how many other items that are left score more, and how many exactly as much.
// A target that was itself taken out is a miss at every cutoff: greater = num_items, equal = 0.
struct ItemRankArgs {
  TensorView queries;  // as in ItemTopkArgs, down to adjust_values
  TensorView table;
  int64_t num_items;
  TensorView bias;
  TensorView adjust_offsets;
  TensorView adjust_items;
  TensorView adjust_values;
  TensorView targets;         // int32 [M], in [0, V)
  TensorView target_offsets;  // int64 [B + 1]
  TensorView greater;         // int64 [M]
  TensorView equal;           // int64 [M]
  TensorView scratch;
};
void item_rank(const ItemRankArgs& args);
int64_t item_rank_scratch(int64_t targets);

// The scores of listed items; -inf where the adjustment takes an item out.
struct ItemScoreArgs {
  TensorView queries;  // as in ItemTopkArgs, down to adjust_values
  TensorView table;
  int64_t num_items;
  TensorView bias;
  TensorView adjust_offsets;
  TensorView adjust_items;
  TensorView adjust_values;
  TensorView list_items;    // int32 [M], in [0, V)
  TensorView list_offsets;  // int64 [B + 1]
  TensorView scores;        // float [M]
};
void item_score(const ItemScoreArgs& args);
// ---- jagged_attention: event i of a sequence attends to the events j <= i of the same sequence ---------
// output_i = sum_j softmax_j(scale query_i . key_j) value_j, per head. A further kind of attention (both
// directions, window, pointwise SiLU, bias from time gaps) is a further field after `scale`.
struct JaggedAttentionForwardArgs {
  TensorView query, key, value;  // float/bf16 [N, A, D], rows may be strided
  TensorView offsets;            // int64 [B + 1]
  double scale;
  TensorView output;   // float/bf16 [N, A, D]
  TensorView lse;      // float [N, A] or none: log of the sum of exp(score), for backward
  TensorView scratch;  // jagged_attention_forward_scratch(B, N, D)
};
void jagged_attention_forward(const JaggedAttentionForwardArgs& args);
int64_t jagged_attention_forward_scratch(int64_t sequences, int64_t events, int64_t width);

struct JaggedAttentionBackwardArgs {
  TensorView grad_output;        // float/bf16 [N, A, D], rows may be strided
  TensorView query, key, value;  // as in forward
  TensorView offsets;            // int64 [B + 1]
  double scale;
  TensorView output;                            // float/bf16 [N, A, D], from forward
  TensorView lse;                               // float [N, A], from forward
  TensorView grad_query, grad_key, grad_value;  // float/bf16 [N, A, D]
  TensorView scratch;                           // jagged_attention_backward_scratch(B, N, D)
};
void jagged_attention_backward(const JaggedAttentionBackwardArgs& args);
int64_t jagged_attention_backward_scratch(int64_t sequences, int64_t events, int64_t width);

// One new event per sequence; its own key and value are the last of the cache. No keys at all: zeros. Equal
// to jagged_attention_forward up to rounding, and bitwise independent of the other sequences.
struct JaggedAttentionStepArgs {
  TensorView query;                   // float/bf16 [B, A, D], rows may be strided
  TensorView key_cache, value_cache;  // float/bf16 [N, A, D], rows may be strided
  TensorView offsets;                 // int64 [B + 1], of the cache
  double scale;
  TensorView output;   // float/bf16 [B, A, D]
  TensorView scratch;  // jagged_attention_step_scratch(D)
};
void jagged_attention_step(const JaggedAttentionStepArgs& args);
int64_t jagged_attention_step_scratch(int64_t width);

// Of a forward or backward scratch, the head that holds the order of the work.
int64_t jagged_attention_order_bytes(int64_t sequences, int64_t events);

// Tiles of the attention kernels: queries taken together and keys per pass (a tile's last pass may hold
// kAttentionQueries more keys). Backward never divides a sequence up to kAttentionShort, always one above
// kAttentionWhole, and one in between where there are too few others for the threads; then into parts of
// kAttentionPart. A thread's scratch holds the sums of kAttentionWhole keys: 2 MB at D = 64.
constexpr int64_t kAttentionQueries = 48, kAttentionKeys = 192;
constexpr int64_t kAttentionShort = 20 * kAttentionQueries, kAttentionPart = 10 * kAttentionQueries;
constexpr int64_t kAttentionWhole = 84 * kAttentionQueries;
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
// ---- gru: one GRU layer over jagged sequences; gates in the order r, z, n -------------------------------
//   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
//   h' = n + z (h - n)
// P = round_up(H, 16). A weight [3H, K] is packed gate by gate: pack_panels of each [H, K] third, so that
// the three gates of a unit stand in the same lane. The state is carried in fp32 whatever the dtype.
struct GruForwardArgs {
  TensorView values;         // float/bf16 [N, I], rows may be strided
  TensorView offsets;        // int64 [B + 1]
  TensorView weight_ih;      // float [3, P / 16, I, 16], packed gate by gate
  TensorView weight_hh;      // float [3, P / 16, H, 16], packed gate by gate
  TensorView bias_ih;        // float [3H] or none
  TensorView bias_hh;        // float [3H] or none
  TensorView initial_state;  // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView output;         // float/bf16 [N, H]
  TensorView final_state;    // float/bf16 [B, H]: the initial state where a sequence is empty
  TensorView gates;          // float [N, 4, P] or none: r, z, n, W_hn h + b_hn, for gru_backward
  TensorView scratch;
};
void gru_forward(const GruForwardArgs& args);
int64_t gru_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);

// One step of B independent sequences; bitwise what gru_forward gives for a sequence of length one.
struct GruStepArgs {
  TensorView values;     // float/bf16 [B, I], rows may be strided
  TensorView state;      // float/bf16 [B, H], rows may be strided
  TensorView weight_ih;  // as in GruForwardArgs
  TensorView weight_hh;  // as in GruForwardArgs
  TensorView bias_ih;    // float [3H] or none
  TensorView bias_hh;    // float [3H] or none
  TensorView new_state;  // float/bf16 [B, H]
  TensorView scratch;
};
void gru_step(const GruStepArgs& args);
int64_t gru_step_scratch(int64_t hidden_size);

struct GruBackwardArgs {
  TensorView grad_output;         // float/bf16 [N, H], rows may be strided
  TensorView grad_final_state;    // float/bf16 [B, H], rows may be strided
  TensorView values;              // float/bf16 [N, I], rows may be strided
  TensorView offsets;             // int64 [B + 1]
  TensorView weight_ih;           // float/bf16 [3H, I], rows may be strided
  TensorView weight_hh;           // float/bf16 [3H, H], rows may be strided
  TensorView initial_state;       // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView output;              // float/bf16 [N, H] of gru_forward
  TensorView gates;               // float [N, 4, P] of gru_forward
  TensorView grad_values;         // float/bf16 [N, I]
  TensorView grad_weight_ih;      // float/bf16 [3H, I]
  TensorView grad_weight_hh;      // float/bf16 [3H, H]
  TensorView grad_bias_ih;        // float/bf16 [3H] or none: not wanted
  TensorView grad_bias_hh;        // float/bf16 [3H] or none: not wanted
  TensorView grad_initial_state;  // float/bf16 [B, H] or none: not wanted
  TensorView scratch;
};
void gru_backward(const GruBackwardArgs& args);
int64_t gru_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);

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

}  // namespace chronorec
