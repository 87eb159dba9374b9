// How scoring all items is cut into tasks: by the size of the work alone, never by the number of threads.
// Included by the checks (for the scratch size) and by the kernels; everything has internal linkage.
#pragma once
#include "cpu/integers.h"

namespace chronorec {
namespace {

constexpr int64_t kBlockQueries =
    48;  // whole register blocks at every level; the table is read once per block

struct ItemPlan {
  int64_t blocks;       // of kBlockQueries queries
  int64_t splits;       // of the catalogue
  int64_t split_items;  // items per split, whole panels
};

// Enough tasks to keep threads busy, but none shorter than the ~10 us that make waking a thread worth it,
// and none with fewer than `least_items`.
inline ItemPlan plan_items(int64_t queries, int64_t items, int64_t depth, int64_t least_items) {
  constexpr int64_t kTasks = 64, kLeastFloats = 1 << 17;
  ItemPlan plan;
  plan.blocks = ceil_div(queries, kBlockQueries);
  const int64_t least = max64(max64(least_items, 1), kLeastFloats / max64(depth, 16));
  const int64_t splits = max64(1, min64(items / least, ceil_div(kTasks, max64(plan.blocks, 1))));
  plan.split_items = max64(16, round_up(ceil_div(items, splits), 16));
  plan.splits = max64(1, ceil_div(items, plan.split_items));
  return plan;
}

// Room for one query in the form of a coded table: constants, and at least two codes in a word of 32 bits.
constexpr int64_t kQueryConstants = 8;
inline int64_t query_words(int64_t depth) { return kQueryConstants + round_up(depth, 4) / 2; }

// item_topk: candidates are kept per query and split, `capacity` keys each, for `wave` queries at a time.
// With codes the keys hold what a score can be at most, and `lower_capacity` more what it is at least.
struct TopkPlan {
  int64_t wave;
  int64_t capacity, lower_capacity;
  int64_t query_words;  // of 32 bits, per query
  ItemPlan cut;         // of one wave

  bool coded() const { return lower_capacity > 0; }
  int64_t lists() const { return wave * cut.splits; }
  // Offsets into the scratch, in words of 64 bits.
  int64_t lowers() const { return lists() * capacity; }
  int64_t filled() const { return lowers() + lists() * lower_capacity; }
  int64_t lowers_filled() const { return filled() + lists(); }
  int64_t floors() const { return lowers_filled() + (coded() ? lists() : 0); }
  int64_t queries() const { return floors() + wave; }
  int64_t bytes() const { return (queries() + wave * query_words / 2) * 8; }
};

inline TopkPlan plan_topk(int64_t queries, int64_t items, int64_t depth, int64_t k, int64_t code_bits) {
  constexpr int64_t kWaveQueries = 16 * kBlockQueries, kWaveKeys = 1 << 23;
  constexpr int64_t kLeastShare = 128;  // where k is a larger part of a split, scoring it exactly costs less
  constexpr int64_t kMostShort = 8;  // queries; with more, arithmetic takes the time, and 16 bits save none
  TopkPlan plan;
  const int64_t kept = min64(k, max64(items, 1)), most = max64(1, min64(queries, kWaveQueries));
  plan.cut = plan_items(most, items, depth, kLeastShare * kept);
  const bool saves = code_bits == 8 || (code_bits == 16 && queries <= kMostShort);
  const bool coded = saves && depth > 0 && items / kLeastShare >= kept;
  plan.capacity = coded ? 4 * kept + 1024 : min64(2 * kept + 64, plan.cut.split_items + 16);
  plan.lower_capacity = coded ? 2 * kept + 64 : 0;
  plan.query_words = coded ? query_words(depth) : 0;
  plan.wave = max64(1, min64(most, kWaveKeys / (plan.cut.splits * (plan.capacity + plan.lower_capacity))));
  plan.cut.blocks = ceil_div(plan.wave, kBlockQueries);
  return plan;
}

}  // namespace
}  // namespace chronorec
