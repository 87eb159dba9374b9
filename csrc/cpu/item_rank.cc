#include "core/parallel.h"
#include "cpu/item_plan.h"
#include "cpu/item_scores.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

inline int64_t sum_of(vi v) {
  int64_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// Adds to greater and equal how many of the scores exceed and equal `target`. Tasks of other splits add to
// the same counts; whole numbers may come in any order.
inline void count_tile(const float* scores, int64_t count, float target, int64_t* greater, int64_t* equal) {
  const vf limit = splat(target);
  vi above = splat_int(0), same = splat_int(0);
  for (int64_t i = 0; i < count; i += kLanes) {
    const vf v = load(scores + i);
    above -= v > limit;
    same -= v == limit;
  }
  __atomic_fetch_add(greater, sum_of(above), __ATOMIC_RELAXED);
  __atomic_fetch_add(equal, sum_of(same), __ATOMIC_RELAXED);
}

}  // namespace

void item_rank(const ItemRankArgs& args) {
  const ItemScores s = scores_of(args);
  const int64_t queries = args.queries.shape[0], targets = args.targets.shape[0];
  const int64_t* offsets = args.target_offsets.as<int64_t>();
  int64_t *greater = args.greater.as<int64_t>(), *equal = args.equal.as<int64_t>();
  float* limits = args.scratch.as<float>();
  score_lists(s, offsets, queries, args.targets.as<int32_t>(), limits);
  for (int64_t i = 0; i < targets; ++i) greater[i] = equal[i] = 0;
  const ItemPlan plan = plan_items(queries, s.items, s.depth, 0);
  parallel_for(plan.blocks * plan.splits, [&](int64_t task, int) {
    const int64_t query = task % plan.blocks * kBlockQueries, first = task / plan.blocks * plan.split_items;
    for_each_tile(s, query, min64(kBlockQueries, queries - query), first,
                  min64(s.items, first + plan.split_items),
                  [&](int64_t row, int64_t, int64_t count, const float* scores) {
                    for (int64_t i = offsets[query + row]; i < offsets[query + row + 1]; ++i)
                      count_tile(scores, count, limits[i], greater + i, equal + i);
                  });
  });
  for (int64_t i = 0; i < targets; ++i) {
    const bool left = limits[i] > kTakenOut;
    greater[i] = left ? greater[i] : s.items;
    equal[i] = left ? equal[i] - 1 : 0;
  }
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
