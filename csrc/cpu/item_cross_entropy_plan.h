// How item_cross_entropy cuts its work, and where everything lies in the scratch. Plain arithmetic, shared by
// the scratch size (csrc/ops) and the kernels (csrc/cpu); nothing here but the room per thread depends on
// threads.
#pragma once
#include <stdint.h>

namespace chronorec {
namespace {

struct ItemCrossEntropyPlan {
  int64_t rows, cols, targets, depth;  // cols: items (full) or negatives (sampled)
  bool sampled, rounded;               // rounded: gradients are bf16, so they are summed in scratch
  bool hidden_grad, table_grad, bias_grad;

  int64_t padded = 0;             // depth rounded up to a panel
  int64_t block = 0;              // rows that share one sweep over the columns
  int64_t chunk = 0, chunks = 0;  // columns per task
  // Offsets into the scratch, in floats.
  int64_t block_ids = 0, hidden_rows = 0, hidden_panels = 0, chunk_max = 0, chunk_sum = 0, row_loss = 0,
          coefficients = 0, partials = 0, weights = 0, tiles = 0, work = 0, shifts = 0, table_sum = 0,
          bias_sum = 0, size = 0;

  bool keeps_weights() const { return table_grad || bias_grad; }
  bool sums_in_scratch() const { return sampled || rounded; }
};

inline int64_t plan_clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}
inline int64_t plan_round(int64_t x) { return (x + 15) / 16 * 16; }

// The first nine fields come filled in.
inline void finish_plan(ItemCrossEntropyPlan* plan, int64_t threads) {
  ItemCrossEntropyPlan& p = *plan;
  constexpr int64_t kWeights = 7 << 20;  // 28 MiB of exponentials between the two sweeps
  p.padded = plan_round(p.depth);
  p.chunk = plan_clamp(plan_round(p.cols / 32), 64, 512);
  p.chunks = (p.cols + p.chunk - 1) / p.chunk;
  p.block = p.keeps_weights() && p.cols > 0 ? plan_clamp(kWeights / p.cols / 16 * 16, 16, 256) : 256;
  p.block = plan_clamp(plan_round(p.rows), 16, p.block);
  p.size = 0;
  const auto take = [&p](int64_t floats) {
    const int64_t at = p.size;
    p.size += plan_round(floats);
    return at;
  };
  const int64_t tall = p.chunk > p.block ? p.chunk : p.block;
  p.block_ids = take(p.block * 2);  // int64
  p.hidden_rows = take(p.block * p.padded);
  p.hidden_panels = take(p.block * p.depth);
  p.chunk_max = take(p.chunks * p.block);
  p.chunk_sum = take(p.chunks * p.block);
  p.row_loss = take(p.block * 2);  // doubles
  p.coefficients = take(p.targets);
  p.partials = take(p.hidden_grad ? p.chunks * p.block * p.padded : 0);
  p.weights = take(p.keeps_weights() ? p.chunks * p.chunk * p.block : 0);
  p.tiles = take(p.keeps_weights() ? 0 : threads * p.chunk * p.block);
  p.work = take(threads * tall * p.padded);
  p.shifts = take(threads * p.chunk);
  p.table_sum = take(p.table_grad && p.sums_in_scratch() ? p.cols * p.depth : 0);
  p.bias_sum = take(p.bias_grad && p.sums_in_scratch() ? p.cols : 0);
}

}  // namespace
}  // namespace chronorec
