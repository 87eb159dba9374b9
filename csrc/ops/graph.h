// Contract of graph_aggregate and graph_attention; the legend is in ops.h.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- graph: a CSR matrix of R rows over V neighbours; row r has the edges offsets[r] .. offsets[r + 1] ---
// Neighbours and edges are ids of one dtype; with int32 E is below 2^31. The transpose of a matrix lists for
// every neighbour the rows that have it, in ascending order of the edge, and the edge's place in the matrix.
// Rows are divided among threads by edges, those of more than 2048 into parts that are added in order.
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
