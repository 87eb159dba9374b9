// Contract of dense, embed and layer_norm: what the engine needs beside the ops; the legend is in ops.h.
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

// ---- embed: output[n] = scale * mean of table[item] over the items of bag n ----------------------------
// (+ position[place of n in its sequence])
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

// ---- layer_norm: (input - mean) / sqrt(variance + epsilon) * weight + bias, over the last dimension ----
struct LayerNormArgs {
  TensorView input;   // float [N, D]
  TensorView weight;  // float [D]
  TensorView bias;    // float [D] or none
  double epsilon;
  TensorView output;  // float [N, D]
};
void layer_norm(const LayerNormArgs& args);

}  // namespace chronorec
