// Scores of listed items, bitwise those of item_scores.h.
#pragma once
#include "core/parallel.h"
#include "cpu/item_scores.h"
#include "cpu/transpose.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// From the product to the score of one item: bias, adjustment, mask.
inline float complete_score(const ItemScores& s, int64_t query, int64_t item, float score) {
  if (s.allow != nullptr && !s.allowed(query)[item]) return kTakenOut;
  if (s.bias != nullptr) score += s.bias[item];
  if (s.adjust_offsets != nullptr) {
    const int64_t at = first_adjustment(s, query, item);
    if (at < s.adjust_offsets[query + 1] && s.adjust_items[at] == item) score = adjust(s, score, at);
  }
  return score + 0.0f;  // no negative zero
}

// The scores of `Count` items out of panels: as many independent chains as hide the latency of one.
template <int Count, typename Id>
inline void score_some(const ItemScores& s, int64_t query, const Id* items, float* scores) {
  const float* panels[Count];
  vf acc[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    const int64_t item = items[i];
    panels[i] = s.table + item / kPanel * kPanel * s.depth + item % kPanel / kLanes * kLanes;
    acc[i] = splat(0);
  }
  const float* left = s.query(query);
  for (int64_t d = 0; d < s.depth; ++d)
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = fma(splat(left[d]), load(panels[i] + d * kPanel), acc[i]);
  for (int i = 0; i < Count; ++i)
    scores[i] = complete_score(s, query, items[i], acc[i][static_cast<int64_t>(items[i]) % kLanes]);
}

template <typename Id>
inline void score_panels(const ItemScores& s, int64_t query, const Id* items, int64_t count, float* scores) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) score_some<8>(s, query, items + i, scores + i);
  for (; i < count; ++i) score_some<1>(s, query, items + i, scores + i);
}

// The same out of the rows of a table [V, D]: an item per lane.
template <typename T, typename Id>
inline void score_rows(const ItemScores& s, Rows<const T> table, int64_t query, const Id* items,
                       int64_t count, float* scores) {
  const float* left = s.query(query);
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t some = min64(kLanes, count - first);
    const T* rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = from_row(table, items[first + min64(i, some - 1)]).data;
    vf acc = splat(0);
    for (int64_t d = 0; d < s.depth; d += kLanes) {
      const int64_t width = s.depth - d;
      vf m[kLanes];
      if (width >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = load(rows[i] + d);
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) acc = fma(splat(left[d + i]), m[i], acc);
      } else {
        for (int i = 0; i < kLanes; ++i) m[i] = load_some(rows[i] + d, width);
        transpose(m);
        for (int64_t i = 0; i < width; ++i) acc = fma(splat(left[d + i]), m[i], acc);
      }
    }
    for (int64_t i = 0; i < some; ++i) scores[first + i] = complete_score(s, query, items[first + i], acc[i]);
  }
}

// score(query, begin, end) for stretches of the lists, in parallel; query b lists [offsets[b],
// offsets[b + 1]), or entry b where there are no offsets.
template <typename Score>
inline void for_each_stretch(const int64_t* offsets, int64_t queries, Score&& score) {
  // A task takes this many list entries, some ten microseconds of work, and finds their queries itself.
  constexpr int64_t kPerTask = 512;
  const int64_t total = offsets == nullptr ? queries : offsets[queries];
  parallel_for(ceil_div(total, kPerTask), [&](int64_t task, int) {
    int64_t at = task * kPerTask;
    const int64_t end = min64(total, at + kPerTask);
    if (offsets == nullptr) {
      for (; at < end; ++at) score(at, at, at + 1);
      return;
    }
    // the last query that starts at or before `at`
    int64_t query = first_not(1, queries, [&](int64_t b) { return offsets[b] <= at; }) - 1;
    for (; at < end; ++query) {
      const int64_t stop = min64(end, offsets[query + 1]);
      score(query, at, stop);
      at = stop;
    }
  });
}

template <typename Body>
inline void with_ids(const TensorView& ids, Body&& body) {
  if (ids.dtype == DType::i64)
    body(ids.as<int64_t>());
  else
    body(ids.as<int32_t>());
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
