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
  static constexpr int64_t kSharedSlices = 16, kTile = 32;  // rows whose logits are made together
  static constexpr int64_t kBuckets = 256, kMostShift = 11;

  int64_t rows, items, depth, negatives, targets;
  bool scatters;         // gradients of table or bias are wanted
  bool shared;           // all rows have the same negatives: their logits are products of matrices
  int64_t padded;        // depth, and
  int64_t padded_count;  // negatives, rounded up to 16
  int64_t slices;        // tasks that take the rows, in order
  int64_t shift;         // item >> shift: its bucket
  int64_t buckets;

  int64_t* counted;    // [N]: the rows that count
  double* slice_loss;  // [slices]
  int64_t* cursors;    // [slices, buckets]: how many shares, then where the next one goes
  int64_t* ends;       // [buckets]: behind the last share of a bucket
  ItemShare* shares;   // [N K + M] or, shared, [K + M], by bucket; within one by slice and row
  int64_t* order;      // of the same size: positions of shares, in a bucket by item
  // shared negatives alone:
  float* vectors;  // [padded_count, padded], zeros behind the last
  float* panels;   // the same as panels for logits, see gemm.h
  float* shifts;   // [padded_count]: biases; -inf behind the last
  float* sums;     // [slices, padded_count, padded]: gradients of the vectors; all slices' in the first
  float* biases;   // [slices, padded_count]
  char* threads;   // per thread, see ItemSampledLossThread
  int64_t per_thread;
  int64_t bytes;
  bool too_large;

  int64_t bucket_items() const { return int64_t{1} << shift; }
  // How many of so many rows one task takes.
  int64_t slice_of(int64_t count) const {
    return max64(kLeastRows, ceil_div(count, shared ? kSharedSlices : kSlices));
  }
  float* sums_of(int64_t slice, int64_t negative) const {
    return sums + (slice * padded_count + negative) * padded;
  }
  float* bias_sum(int64_t slice, int64_t negative) const { return biases + slice * padded_count + negative; }

  ItemSampledLossPlan(void* base, int64_t rows, int64_t items, int64_t negatives, int64_t targets,
                      int64_t depth, bool scatters, bool shared, int64_t threads_wanted);
};

// One thread's working room: of a row, or of several that share negatives; later of a bucket.
struct ItemSampledLossThread {
  float *hidden, *hidden_grad;   // [rows, padded]
  float *logits, *coefficients;  // [rows, padded_count]
  int64_t* starts;               // [bucket_items + 2]
  int64_t bytes;

  ItemSampledLossThread(void* base, const ItemSampledLossPlan& p) {
    Carver carver(base);
    const int64_t rows = p.shared ? ItemSampledLossPlan::kTile : 1;
    hidden = carver.take<float>(rows, p.padded);
    hidden_grad = carver.take<float>(rows, p.padded);
    logits = carver.take<float>(rows, p.padded_count);
    coefficients = carver.take<float>(rows, p.padded_count);
    starts = carver.take<int64_t>(p.scatters ? p.bucket_items() + 2 : 0);
    bytes = carver.used();
  }
};

inline ItemSampledLossPlan::ItemSampledLossPlan(void* base, int64_t rows, int64_t items, int64_t negatives,
                                                int64_t targets, int64_t depth, bool scatters, bool shared,
                                                int64_t threads_wanted)
    : rows(rows),
      items(items),
      depth(depth),
      negatives(negatives),
      targets(targets),
      scatters(scatters),
      shared(shared) {
  Carver carver(base);
  bytes = Carver::kLargest;
  too_large = depth > bytes || negatives > bytes || rows > bytes || items > bytes;
  if (too_large) return;
  padded = round_up(depth, 16);
  padded_count = round_up(negatives, 16);
  slices = ceil_div(rows, slice_of(rows));
  for (shift = 0; shift < kMostShift && items >> shift > kBuckets; ++shift) {
  }
  buckets = (items >> shift) + 1;
  counted = carver.take<int64_t>(rows);
  slice_loss = carver.take<double>(slices);
  cursors = carver.take<int64_t>(scatters ? slices : 0, buckets);
  ends = carver.take<int64_t>(scatters ? buckets : 0);
  const int64_t drawn = shared ? negatives : Carver::product(rows, negatives);
  const int64_t count = scatters ? Carver::sum(drawn, targets) : 0;
  shares = carver.take<ItemShare>(count);
  order = carver.take<int64_t>(count);
  vectors = carver.take<float>(shared ? padded_count : 0, padded);
  panels = carver.take<float>(shared ? padded_count : 0, padded);
  shifts = carver.take<float>(shared ? padded_count : 0);
  sums = carver.take<float>(shared && scatters ? Carver::product(slices, padded_count) : 0, padded);
  biases = carver.take<float>(shared && scatters ? slices : 0, padded_count);
  per_thread = ItemSampledLossThread(nullptr, *this).bytes;
  threads = carver.take<char>(threads_wanted, per_thread);
  bytes = carver.used();
  too_large = carver.too_large();
}

// Softmax over shared negatives is item_cross_entropy's.
inline bool shares_negatives(const ItemSampledLossArgs& args) {
  return args.hidden.shape[0] > 1 && args.negatives.stride[0] == 0 &&
         args.kind != static_cast<int64_t>(SampledLossKind::softmax);
}

inline ItemSampledLossPlan item_sampled_loss_plan(const ItemSampledLossArgs& args, int64_t threads) {
  return {args.scratch.data,
          args.hidden.shape[0],
          args.table.shape[0],
          args.negatives.shape[1],
          args.targets.shape[0],
          args.hidden.shape[1],
          args.table_grad || args.bias_grad,
          shares_negatives(args),
          threads};
}

}  // namespace
}  // namespace chronorec
