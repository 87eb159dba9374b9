// How item_sampled_loss cuts its work, and where everything lies in the scratch. Shared by the scratch size
// (csrc/ops) and the kernels (csrc/cpu).
#pragma once
#include "core/carve.h"
#include "cpu/integers.h"
#include "ops.h"

namespace chronorec {
namespace {

// What one row adds to the gradient of one item, in hidden rows.
struct ItemShare {
  int32_t item, row;
  float coefficient;
};

struct ItemSampledLossPlan {
  static constexpr int64_t kSlices = 64, kLeastRows = 16;
  static constexpr int64_t kBuckets = 256, kMostShift = 11;

  int64_t rows, items, depth, negatives, targets;
  bool scatters;          // gradients of table or bias are wanted
  int64_t padded;         // depth, and
  int64_t padded_count;   // negatives, rounded up to 16
  int64_t slice, slices;  // rows that one task takes, in order
  int64_t shift;          // item >> shift: its bucket
  int64_t buckets;

  double* slice_loss;  // [slices]
  int64_t* cursors;    // [slices, buckets]: how many shares, then where the next one goes
  int64_t* ends;       // [buckets]: behind the last share of a bucket
  ItemShare* shares;   // [N K + M], by bucket; within one by slice and row
  int64_t* order;      // [N K + M]: positions of shares, in a bucket by item
  char* threads;       // per thread, see ItemSampledLossThread
  int64_t per_thread;
  int64_t bytes;
  bool too_large;

  int64_t bucket_items() const { return int64_t{1} << shift; }

  ItemSampledLossPlan(void* base, int64_t rows, int64_t items, int64_t negatives, int64_t targets,
                      int64_t depth, bool scatters, int64_t threads_wanted);
};

// One thread's working room: of a row, later of a bucket.
struct ItemSampledLossThread {
  float *hidden, *hidden_grad;   // [padded]
  float *logits, *coefficients;  // [padded_count]
  int64_t* starts;               // [bucket_items + 2]
  int64_t bytes;

  ItemSampledLossThread(void* base, const ItemSampledLossPlan& p) {
    Carver carver(base);
    hidden = carver.take<float>(p.padded);
    hidden_grad = carver.take<float>(p.padded);
    logits = carver.take<float>(p.padded_count);
    coefficients = carver.take<float>(p.padded_count);
    starts = carver.take<int64_t>(p.scatters ? p.bucket_items() + 2 : 0);
    bytes = carver.used();
  }
};

inline ItemSampledLossPlan::ItemSampledLossPlan(void* base, int64_t rows, int64_t items, int64_t negatives,
                                                int64_t targets, int64_t depth, bool scatters,
                                                int64_t threads_wanted)
    : rows(rows), items(items), depth(depth), negatives(negatives), targets(targets), scatters(scatters) {
  Carver carver(base);
  bytes = Carver::kLargest;
  too_large = depth > bytes || negatives > bytes || rows > bytes || items > bytes;
  if (too_large) return;
  padded = round_up(depth, 16);
  padded_count = round_up(negatives, 16);
  slice = max64(kLeastRows, ceil_div(rows, kSlices));
  slices = ceil_div(rows, slice);
  for (shift = 0; shift < kMostShift && items >> shift > kBuckets; ++shift) {
  }
  buckets = (items >> shift) + 1;
  slice_loss = carver.take<double>(slices);
  cursors = carver.take<int64_t>(scatters ? slices : 0, buckets);
  ends = carver.take<int64_t>(scatters ? buckets : 0);
  const int64_t count = scatters ? Carver::sum(Carver::product(rows, negatives), targets) : 0;
  shares = carver.take<ItemShare>(count);
  order = carver.take<int64_t>(count);
  per_thread = ItemSampledLossThread(nullptr, *this).bytes;
  threads = carver.take<char>(threads_wanted, per_thread);
  bytes = carver.used();
  too_large = carver.too_large();
}

inline ItemSampledLossPlan item_sampled_loss_plan(const ItemSampledLossArgs& args, int64_t threads) {
  return {args.scratch.data,
          args.hidden.shape[0],
          args.table.shape[0],
          args.negatives.shape[1],
          args.targets.shape[0],
          args.hidden.shape[1],
          args.table_grad || args.bias_grad,
          threads};
}

}  // namespace
}  // namespace chronorec
