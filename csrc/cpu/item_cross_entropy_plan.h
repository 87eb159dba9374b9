// How item_cross_entropy cuts its work, and where everything lies in the scratch. Plain arithmetic, shared by
// the scratch size (csrc/ops) and the kernels (csrc/cpu); nothing here but the room per thread depends on
// threads.
#pragma once
#include "core/carve.h"
#include "cpu/integers.h"
#include "ops.h"

namespace chronorec {
namespace {

// What decides about the cuts.
struct ItemCrossEntropySizes {
  int64_t rows, cols, targets, depth;  // cols: items (full) or negatives (sampled)
  bool sampled, rounded;               // rounded: inputs and gradients are bf16
  bool hidden_grad, table_grad, bias_grad, smoothed;
};

struct ItemCrossEntropyPlan : ItemCrossEntropySizes {
  static constexpr int64_t kGroup = 32;       // bf16: rows whose logits are in the nearest cache together
  static constexpr int64_t kMostRows = 256;   // of a block
  static constexpr int64_t kMeanSlices = 64;  // parts of the sum over the table

  int64_t padded;         // depth rounded up to a panel; bf16: to a tile
  int64_t block;          // rows that share one sweep over the columns
  int64_t chunk, chunks;  // columns whose exponentials share a maximum
  int64_t span, spans;    // chunks whose part of the hidden gradient is summed on the way: one task

  // Arrays in the scratch. E: fp32 or bf16, as the inputs.
  int64_t* block_ids;   // [block]
  float* hidden_rows;   // [block, padded]
  char* hidden_packed;  // E, packed for the logits: panels or pairs
  float* chunk_max;     // [chunks, block], later the factors of the chunk's exponentials
  float* span_max;      // [spans, block], later factors
  float* span_sum;      // [spans, block]
  double* row_loss;     // [block]
  float* row_uniform;   // [block]: coefficient of the uniform part of the labels
  float* coefficients;  // [M]: what a target adds to its item's gradient, in hidden rows
  float* partials;      // fp32: [spans, block, padded], bf16: [spans, padded, block]
  char* weights;        // E [chunks, chunk, block]: the exponentials; bf16: in groups of kGroup rows
  float* table_sum;     // [cols, D], where sums_in_scratch()
  float* bias_sum;      // [cols], likewise
  double* table_mean;   // [padded + 1]: the mean item and the mean bias, for smoothed labels
  double* mean_parts;   // [kMeanSlices, padded + 1]
  double* uniform_sum;  // [padded + 1]: what every item's gradient gets alike, and every bias's
  char* threads;        // per thread, see ItemCrossEntropyThread
  int64_t per_thread;
  int64_t bytes;
  bool too_large;

  bool keeps_weights() const { return table_grad || bias_grad; }
  bool sums_in_scratch() const { return sampled || rounded; }
  int64_t element() const { return rounded ? 2 : 4; }

  ItemCrossEntropyPlan(void* base, const ItemCrossEntropySizes& sizes, int64_t threads);

 private:
  void cut();
};

inline ItemCrossEntropySizes item_cross_entropy_sizes(const ItemCrossEntropyArgs& args) {
  const bool sampled = static_cast<bool>(args.negatives);
  return {args.hidden.shape[0],
          sampled ? args.negatives.shape[0] : args.table.shape[0],
          args.targets.shape[0],
          args.hidden.shape[1],
          sampled,
          args.hidden.dtype == DType::bf16,
          static_cast<bool>(args.hidden_grad),
          static_cast<bool>(args.table_grad),
          static_cast<bool>(args.bias_grad),
          args.label_smoothing > 0};
}

// One thread's working room.
struct ItemCrossEntropyThread {
  float* tile;    // logits: fp32 [chunk, block] where they are not kept, bf16 [chunk, kGroup]
  char* items;    // E [chunk, padded]; in the second sweep the scaled hidden rows, E [block, padded]
  char* turned;   // bf16: the items transposed, [chunk / 32, padded, 32]
  char* pairs;    // bf16: exponentials packed for the hidden gradient, [2, chunk / 2, 16, 2]
  float* shifts;  // [chunk]
  float* row;     // [2, padded]
  int64_t bytes;

  ItemCrossEntropyThread(void* base, const ItemCrossEntropyPlan& p) {
    Carver carver(base);
    const int64_t tall = max64(p.chunk, p.block);
    tile = carver.take<float>(p.chunk, p.rounded ? p.kGroup : p.keeps_weights() ? 0 : p.block);
    items = carver.take<char>(tall, p.padded, p.element());
    turned = carver.take<char>(p.rounded ? p.chunk : 0, p.padded, p.element());
    pairs = carver.take<char>(p.rounded ? p.chunk : 0, p.kGroup, p.element());
    shifts = carver.take<float>(p.chunk);
    row = carver.take<float>(2, p.padded);
    bytes = carver.used();
  }
};

inline void ItemCrossEntropyPlan::cut() {
  constexpr int64_t kWeightBytes = 28 << 20;  // of exponentials between the two sweeps
  constexpr int64_t kPartialFloats = 1 << 21;
  const int64_t step = rounded ? 32 : 16;
  padded = round_up(depth, step);
  chunk = clamp64(round_up(cols / 32, step), 64, 512);
  chunks = ceil_div(cols, chunk);
  block = kMostRows;
  if (keeps_weights() && cols > 0)
    block = clamp64(kWeightBytes / element() / cols / step * step, step, kMostRows);
  block = clamp64(round_up(rows, step), step, block);
  const int64_t most = clamp64(kPartialFloats / (block * max64(padded, 1)), 4, 256);
  span = max64(1, ceil_div(chunks, most));
  spans = ceil_div(chunks, span);
}

inline ItemCrossEntropyPlan::ItemCrossEntropyPlan(void* base, const ItemCrossEntropySizes& sizes,
                                                  int64_t threads_wanted)
    : ItemCrossEntropySizes(sizes) {
  Carver carver(base);
  too_large = depth > Carver::kLargest || cols > Carver::kLargest || rows > Carver::kLargest;
  bytes = Carver::kLargest;
  if (too_large) return;
  cut();
  block_ids = carver.take<int64_t>(block);
  hidden_rows = carver.take<float>(block, padded);
  hidden_packed = carver.take<char>(block, padded, element());
  chunk_max = carver.take<float>(keeps_weights() ? chunks : 0, block);
  span_max = carver.take<float>(spans, block);
  span_sum = carver.take<float>(spans, block);
  row_loss = carver.take<double>(block);
  row_uniform = carver.take<float>(block);
  coefficients = carver.take<float>(targets);
  partials = carver.take<float>(hidden_grad ? spans : 0, block, padded);
  weights = carver.take<char>(keeps_weights() ? chunks : 0, chunk * block, element());
  table_sum = carver.take<float>(table_grad && sums_in_scratch() ? cols : 0, depth);
  bias_sum = carver.take<float>(bias_grad && sums_in_scratch() ? cols : 0);
  table_mean = carver.take<double>(smoothed ? padded + 1 : 0);
  mean_parts = carver.take<double>(smoothed ? kMeanSlices : 0, padded + 1);
  uniform_sum = carver.take<double>(smoothed ? padded + 1 : 0);
  per_thread = ItemCrossEntropyThread(nullptr, *this).bytes;
  this->threads = carver.take<char>(threads_wanted, per_thread);
  bytes = carver.used();
  too_large = carver.too_large();
}

}  // namespace
}  // namespace chronorec
