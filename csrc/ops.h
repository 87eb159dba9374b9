// The contract of the core: one args struct per function, every pointer with its shape.
//
// Legend: B sequences or queries, N events in all, T steps, I input size, H hidden size, D head or state width,
// A attention heads, V items, K results kept or negatives drawn, M targets or list entries in all.
// Arrays are C-contiguous unless "rows may be strided" is said. Offsets are int64 [B + 1], ascending from 0 to the total.
// float means fp32; "float/bf16" arrays of one call share one dtype. Outputs and scratch belong to the
// caller, are written in full (scratch: no promise on its content) and may not overlap anything else.
// `scratch` is uint8, aligned to 64, of at least <function>_scratch(...) bytes.
// Bad arguments throw ShapeError or DTypeError (core/check.h) before anything is written.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- dense: output = activation(input weight^T + bias) ------------------------------------------------
enum class Activation : int64_t { none = 0, relu = 1, gelu = 2, silu = 3, sigmoid = 4, tanh = 5 };

struct DenseArgs {
  TensorView input;    // float [N, I], rows may be strided
  TensorView weight;   // float, packed by pack_panels from [O, I]: [ceil(O / 16), I, 16]
  TensorView bias;     // float [O] or none
  TensorView residual; // float [N, O] or none: added after the activation
  int64_t activation;  // Activation
  TensorView output;   // float [N, O]
};
void dense(const DenseArgs& args);

// Packs rows (an item table or a weight matrix) for `dense`, `item_topk` and `item_rank`.
struct PackPanelsArgs {
  TensorView rows;    // float/bf16 [V, D], rows may be strided
  TensorView packed;  // float [ceil(V / 16), D, 16], zero padded
};
void pack_panels(const PackPanelsArgs& args);

// ---- layer_norm: output = (input - mean) / sqrt(variance + epsilon) * weight + bias, over the last dimension
struct LayerNormArgs {
  TensorView input;   // float [N, D]
  TensorView weight;  // float [D]
  TensorView bias;    // float [D] or none
  double epsilon;
  TensorView output;  // float [N, D]
};
void layer_norm(const LayerNormArgs& args);

// ---- item_cross_entropy: softmax loss over items, mean over the rows that have a target; logits are not stored
// Logit of item v for row n: hidden[n] . table[v] + bias[v]; in sampled mode less log_q. Row n has the targets
// target_offsets[n] .. target_offsets[n + 1]. Gradients are those of the loss; ask for them by passing them.
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
  TensorView loss;            // float [1]
  TensorView hidden_grad;     // float/bf16 [N, D] or none
  TensorView table_grad;      // float/bf16 [V, D] or none
  TensorView bias_grad;       // float/bf16 [V] or none
  TensorView scratch;
};
void item_cross_entropy(const ItemCrossEntropyArgs& args);
// cols: V, or K where `sampled`; `rounded`: the inputs are bf16; the other flags say which gradients are wanted.
int64_t item_cross_entropy_scratch(int64_t rows, int64_t cols, int64_t targets, int64_t depth, bool sampled,
                                   bool rounded, bool hidden_grad, bool table_grad, bool bias_grad);

}  // namespace chronorec
