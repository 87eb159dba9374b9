#include "cpu/item_lists.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

inline int64_t sum_of(vi v) {
  int64_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// Tasks of other splits add to the same counts; whole numbers may come in any order.
inline void add_to(int64_t* count, vi counted) {
  const int64_t more = sum_of(counted);
  if (more != 0) __atomic_fetch_add(count, more, __ATOMIC_RELAXED);
}

// Adds to greater[t] and equal[t] how many of the scores exceed and equal limits[t], t < Targets: as many as
// share one reading of the scores.
template <int Targets>
inline void count_tile(const float* scores, int64_t count, const float* limits, int64_t* greater,
                       int64_t* equal) {
  vi above[Targets], same[Targets];
#pragma GCC unroll 4
  for (int t = 0; t < Targets; ++t) above[t] = same[t] = splat_int(0);
  for (int64_t i = 0; i < count; i += kLanes) {
    const vf v = load(scores + i);
#pragma GCC unroll 4
    for (int t = 0; t < Targets; ++t) {
      above[t] -= v > splat(limits[t]);
      same[t] -= v == splat(limits[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Targets; ++t) {
    add_to(greater + t, above[t]);
    add_to(equal + t, same[t]);
  }
}

}  // namespace

void item_rank(const ItemRankArgs& args) {
  const ItemScores s = scores_of(args);
  const int64_t queries = args.queries.shape[0], targets = args.targets.shape[0];
  const int64_t* offsets = args.target_offsets.as<int64_t>();
  int64_t *greater = args.greater.as<int64_t>(), *equal = args.equal.as<int64_t>();
  float* limits = args.scratch.as<float>();
  with_ids(args.targets, [&](const auto* items) {
    for_each_stretch(offsets, queries, [&](int64_t query, int64_t begin, int64_t end) {
      score_panels(s, query, items + begin, end - begin, limits + begin);
    });
  });
  for (int64_t i = 0; i < targets; ++i) greater[i] = equal[i] = 0;
  const ItemPlan plan = plan_items(queries, s.items, s.depth, 0);
  parallel_for(plan.blocks * plan.splits, [&](int64_t task, int) {
    const int64_t query = task % plan.blocks * kBlockQueries, first = task / plan.blocks * plan.split_items;
    for_each_exact_tile(s, query, min64(kBlockQueries, queries - query), first,
                        min64(s.items, first + plan.split_items),
                        [&](int64_t row, int64_t, int64_t count, const float* scores) {
                          int64_t i = offsets == nullptr ? query + row : offsets[query + row];
                          const int64_t end = offsets == nullptr ? i + 1 : offsets[query + row + 1];
                          for (; i + 4 <= end; i += 4)
                            count_tile<4>(scores, count, limits + i, greater + i, equal + i);
                          for (; i < end; ++i)
                            count_tile<1>(scores, count, limits + i, greater + i, equal + i);
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
