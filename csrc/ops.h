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

}  // namespace chronorec
