// One call of item_cross_entropy: its state, and where everything stands.
#pragma once
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/item_cross_entropy_plan.h"
#include "cpu/item_cross_entropy_tiles.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr int64_t kItemsPerTask = 256;
constexpr int64_t kGroup = ItemCrossEntropyPlan::kGroup;

// The product of a hidden row and an item, summed in the order of gemm: in fp32 bitwise the product of the
// tile, so that a row whose target takes all the probability loses exactly nothing.
template <typename T>
inline float logit_of(const float* hidden, const T* item, int64_t depth) {
  float total = 0;
  for (int64_t k = 0; k < depth; ++k) total = to_float(item[k]) * hidden[k] + total;
  return total;
}

// Over n floats, a multiple of 16; several sums, for speed and against rounding.
inline float block_dot(const float* a, const float* b, int64_t n) {
  constexpr int kSums = 64 / kLanes;
  vf part[kSums];
  for (int s = 0; s < kSums; ++s) part[s] = splat(0);
  for (int64_t i = 0; i < n; i += kLanes)
    part[i / kLanes % kSums] = fma(load(a + i), load(b + i), part[i / kLanes % kSums]);
  vf total = part[0];
  for (int s = 1; s < kSums; ++s) total += part[s];
  return sum(total);
}

template <typename T>
struct Loss {
  const ItemCrossEntropyArgs& args;
  const ItemCrossEntropyPlan& p;
  float scale;              // of products and biases: 1 / temperature
  double total_weight = 0;  // of the rows that count
  int64_t next_row = 0;     // after the block at hand
  int64_t block_rows = 0;   // in the block at hand
  int64_t width = 0;        // block_rows rounded up; the rows between are zeros
  bool first_block = true;

  static constexpr bool kRounded = sizeof(T) == 2;

  const T* table_row(int64_t item) const { return args.table.as<T>() + item * args.table.stride[0]; }
  const T* hidden_row(int64_t row) const { return args.hidden.as<T>() + row * args.hidden.stride[0]; }
  int64_t row_of(int64_t i) const { return p.block_ids[i]; }
  int64_t item_of(int64_t col) const { return p.sampled ? args.negatives.as<int64_t>()[col] : col; }
  int64_t target(int64_t at) const { return args.targets.as<int64_t>()[at]; }
  int64_t target_begin(int64_t row) const {
    return args.target_offsets ? args.target_offsets.as<int64_t>()[row] : row;
  }
  int64_t target_row(int64_t at) const {
    if (!args.target_offsets) return at;
    const int64_t* ends = args.target_offsets.as<int64_t>() + 1;
    return first_not(0, p.rows, [&](int64_t row) { return ends[row] <= at; });
  }
  double weight(int64_t row) const {  // zero: the row does not count
    if (target_begin(row + 1) == target_begin(row)) return 0;
    return args.weights ? args.weights.as<float>()[row] : 1;
  }
  float bias(int64_t item) const { return args.bias ? to_float(args.bias.as<T>()[item]) : 0; }
  float* chunk_max(int64_t chunk) const { return p.chunk_max + chunk * p.block; }
  float* span_max(int64_t span) const { return p.span_max + span * p.block; }
  float* span_sum(int64_t span) const { return p.span_sum + span * p.block; }
  float* partial(int64_t span) const { return p.partials + span * p.block * p.padded; }
  ItemCrossEntropyThread room(int thread) const { return {p.threads + thread * p.per_thread, p}; }
  T* weights_of(int64_t chunk) const { return reinterpret_cast<T*>(p.weights) + chunk * p.chunk * p.block; }
  float* table_sum() const { return p.sums_in_scratch() ? p.table_sum : args.table_grad.as<float>(); }
  float* bias_sum() const { return p.sums_in_scratch() ? p.bias_sum : args.bias_grad.as<float>(); }

  void run();
  void clear() const;
  void average_table() const;
  void load_block();
  void sweep_span(int64_t span, int thread) const;
  const T* load_items(int64_t first, int64_t count, const ItemCrossEntropyThread& room, int64_t* step) const;
  void sweep_group(const MatrixUnit& unit, int64_t span, int64_t chunk, int64_t group, const T* items,
                   int64_t step, const ItemCrossEntropyThread& room) const;
  void mask_hits(int64_t first, int64_t count, int64_t begin, int64_t end, float* tile, int64_t step) const;
  RunningSum running(int64_t span, int64_t i, bool fresh) const;
  void keep_running(int64_t span, int64_t chunk, int64_t i, const RunningSum& rows) const;
  void finish_rows(int64_t group) const;
  float finish_row(int64_t i, float maximum, double total) const;
  void finish_hidden_grads(int64_t begin, int64_t end) const;
  void add_row_terms(int64_t i, int64_t d, vf total) const;
  void add_to_table(int64_t chunk, int thread) const;
  void add_to_bias(int64_t chunk, int64_t first, int64_t count) const;
  void finish_items(int64_t task, int thread) const;
  void add_uniform();
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
