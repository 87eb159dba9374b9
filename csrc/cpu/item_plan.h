// How scoring all items is cut into tasks: by the size of the work alone, never by the number of threads.
// Included by the checks (for the scratch size) and by the kernels; everything has internal linkage.
#pragma once
#include <stdint.h>

namespace chronorec {
namespace {

constexpr int64_t kBlockQueries =
    48;  // whole register blocks at every level; the table is read once per block

struct ItemPlan {
  int64_t blocks;       // of kBlockQueries queries
  int64_t splits;       // of the catalogue
  int64_t split_items;  // items per split, whole panels
};

inline int64_t ceil_div(int64_t n, int64_t step) { return (n + step - 1) / step; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Enough tasks to keep threads busy, but none shorter than the ~10 us that make waking a thread worth it,
// and none with fewer than `least_items`.
inline ItemPlan plan_items(int64_t queries, int64_t items, int64_t depth, int64_t least_items) {
  constexpr int64_t kTasks = 64, kLeastFloats = 1 << 17;
  ItemPlan plan;
  plan.blocks = ceil_div(queries, kBlockQueries);
  const int64_t least = larger(larger(least_items, 1), kLeastFloats / larger(depth, 16));
  const int64_t splits = larger(1, smaller(items / least, ceil_div(kTasks, larger(plan.blocks, 1))));
  plan.split_items = larger(16, ceil_div(ceil_div(items, splits), 16) * 16);
  plan.splits = larger(1, ceil_div(items, plan.split_items));
  return plan;
}

// item_topk: candidates are kept per query and split, `capacity` keys each, for `wave` queries at a time.
struct TopkPlan {
  int64_t wave;
  int64_t capacity;
  ItemPlan cut;  // of one wave

  int64_t keys() const { return wave * cut.splits * capacity; }
  int64_t bytes() const { return (keys() + wave * (cut.splits + 1)) * 8; }
};

inline TopkPlan plan_topk(int64_t queries, int64_t items, int64_t depth, int64_t k) {
  constexpr int64_t kWaveQueries = 16 * kBlockQueries, kWaveKeys = 1 << 23;
  TopkPlan plan;
  const int64_t kept = smaller(k, larger(items, 1));
  const int64_t most = larger(1, smaller(queries, kWaveQueries));
  plan.cut = plan_items(most, items, depth, 128 * kept);
  plan.capacity = smaller(2 * kept + 64, plan.cut.split_items + 16);
  plan.wave = larger(1, smaller(most, kWaveKeys / (plan.cut.splits * plan.capacity)));
  plan.cut.blocks = ceil_div(plan.wave, kBlockQueries);
  return plan;
}

}  // namespace
}  // namespace chronorec
