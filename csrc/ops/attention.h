// Contract of jagged_attention; the legend is in ops.h.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

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

}  // namespace chronorec
