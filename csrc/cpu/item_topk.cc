#include "core/parallel.h"
#include "cpu/item_plan.h"
#include "cpu/item_scores.h"
#include "cpu/kernels.h"
#include "cpu/select.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Bit i says whether lane i of a exceeds lane i of b (NaN exceeds nothing).
inline uint32_t mask_greater(vf a, vf b) {
#if defined(__AVX512F__)
  return __builtin_ia32_cmpps512_mask(a, b, 30, 0xffff, 4);  // 30: greater, ordered, quiet
#elif defined(__AVX__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps256(reinterpret_cast<vf>(a > b)));
#elif defined(__SSE__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps(reinterpret_cast<vf>(a > b)));
#else
  const vi greater = a > b;
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(greater[i] & 1) << i;
  return mask;
#endif
}

// The candidates of one query in one split: everything above the k-th best seen at the last pruning. Items
// come ascending, so a later item that only equals the k-th best has lost its tie.
struct Candidates {
  uint64_t* keys;
  int64_t filled;
  float threshold;
  uint32_t* floor;  // order_of the highest k-th best that any split of the query has seen; 0 at first
};

// Items below another split's k-th best cannot win; those that equal it may, by their number. How early a
// split learns of it changes what it collects, never what is best of all.
inline void raise_threshold(Candidates& c) {
  const uint32_t floor = __atomic_load_n(c.floor, __ATOMIC_RELAXED);
  // two steps down: one step below zero is negative zero, which zero does not exceed
  if (floor > order_of(c.threshold) + 1) c.threshold = from_order(floor - 2);
}

inline void prune(Candidates& c, int64_t k) {
  if (c.filled < k) return;
  select_best(c.keys, c.filled, k);
  c.filled = k;
  c.threshold = score_of(c.keys[k - 1]);
  const uint32_t reached = order_of(c.threshold);
  uint32_t floor = __atomic_load_n(c.floor, __ATOMIC_RELAXED);
  while (floor < reached &&
         !__atomic_compare_exchange_n(c.floor, &floor, reached, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

inline void collect(Candidates& c, const float* scores, int64_t first, int64_t count, int64_t k,
                    int64_t capacity) {
  raise_threshold(c);
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t mask = mask_greater(load(scores + i), splat(c.threshold));
    if (__builtin_expect(mask == 0, 1)) continue;
    for (; mask != 0; mask &= mask - 1) {
      const int64_t at = i + __builtin_ctz(mask);
      c.keys[c.filled++] = key_of(scores[at], first + at);
    }
    if (c.filled + kLanes > capacity) prune(c, k);
  }
}

struct Scratch {
  uint64_t* keys;    // [wave, splits, capacity]
  int64_t* filled;   // [wave, splits]
  uint32_t* floors;  // [wave]
};

// One block of queries over one split of the items.
void search(const ItemScores& s, const TopkPlan& plan, const Scratch& scratch, int64_t k, int64_t wave,
            int64_t block, int64_t rows, int64_t split) {
  Candidates found[kBlockQueries];
  for (int64_t row = 0; row < rows; ++row)
    found[row] = {scratch.keys + ((block + row) * plan.cut.splits + split) * plan.capacity, 0, kTakenOut,
                  scratch.floors + block + row};
  const int64_t first = split * plan.cut.split_items;
  for_each_tile(s, wave + block, rows, first, min64(s.items, first + plan.cut.split_items),
                [&](int64_t row, int64_t item, int64_t count, const float* scores) {
                  collect(found[row], scores, item, count, k, plan.capacity);
                });
  for (int64_t row = 0; row < rows; ++row) {
    prune(found[row], k);
    scratch.filled[(block + row) * plan.cut.splits + split] = found[row].filled;
  }
}

// All splits of one query.
void merge(const TopkPlan& plan, uint64_t* keys, const int64_t* filled, int64_t k, float* scores,
           int32_t* items) {
  int64_t n = filled[0];
  for (int64_t split = 1; split < plan.cut.splits; ++split)
    for (int64_t i = 0; i < filled[split]; ++i) keys[n++] = keys[split * plan.capacity + i];
  const int64_t kept = min64(n, k);
  if (kept > 0) select_best(keys, n, kept);
  sort_descending(keys, kept, pivots_allowed(kept));
  for (int64_t i = 0; i < kept; ++i) {
    scores[i] = score_of(keys[i]);
    items[i] = item_of(keys[i]);
  }
  for (int64_t i = kept; i < k; ++i) {
    scores[i] = kTakenOut;
    items[i] = -1;
  }
}

}  // namespace

void item_topk(const ItemTopkArgs& args) {
  const ItemScores s = scores_of(args);
  const int64_t queries = args.queries.shape[0], k = args.k;
  const TopkPlan plan = plan_topk(queries, s.items, s.depth, k);
  int64_t* filled = args.scratch.as<int64_t>() + plan.keys();
  const Scratch scratch{args.scratch.as<uint64_t>(), filled,
                        reinterpret_cast<uint32_t*>(filled + plan.wave * plan.cut.splits)};
  for (int64_t wave = 0; wave < queries; wave += plan.wave) {
    const int64_t waiting = min64(plan.wave, queries - wave);
    for (int64_t query = 0; query < waiting; ++query) scratch.floors[query] = 0;
    parallel_for(plan.cut.blocks * plan.cut.splits, [&](int64_t task, int) {
      const int64_t block = task % plan.cut.blocks * kBlockQueries;
      const int64_t rows = min64(kBlockQueries, waiting - block);
      if (rows > 0) search(s, plan, scratch, k, wave, block, rows, task / plan.cut.blocks);
    });
    parallel_for(waiting, [&](int64_t query, int) {
      merge(plan, scratch.keys + query * plan.cut.splits * plan.capacity,
            scratch.filled + query * plan.cut.splits, k, args.top_scores.as<float>() + (wave + query) * k,
            args.top_items.as<int32_t>() + (wave + query) * k);
    });
    if (interrupted()) return;
  }
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
