// Scores of all items for a block of queries, one tile at a time: what item_topk and item_rank share, and
// the scores of single items, bitwise the same.
#pragma once
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/item_plan.h"
#include "ops.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Whole register blocks; kTileRows rows of scores stay in the first-level cache.
constexpr int64_t kTileItems = 480;
constexpr float kTakenOut = -__builtin_inff();

struct ItemScores {
  const float* queries;
  int64_t query_step;
  const float* table;
  int64_t depth, items;
  const float* bias;              // or null
  const int64_t* adjust_offsets;  // or null
  const int32_t* adjust_items;
  const float* adjust_values;  // null: listed items are taken out
};

template <typename Args>
inline ItemScores scores_of(const Args& args) {
  return {args.queries.template as<float>(),
          args.queries.stride[0],
          args.table.template as<float>(),
          args.queries.shape[1],
          args.num_items,
          args.bias.template as<float>(),
          args.adjust_offsets.template as<int64_t>(),
          args.adjust_items.template as<int32_t>(),
          args.adjust_values.template as<float>()};
}

// First position in the query's adjustments whose item is not below `item`.
inline int64_t first_adjustment(const ItemScores& s, int64_t query, int64_t item) {
  if (s.adjust_offsets == nullptr) return 0;
  int64_t low = s.adjust_offsets[query], high = s.adjust_offsets[query + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (s.adjust_items[middle] < item)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

inline float adjust(const ItemScores& s, float score, int64_t at) {
  return s.adjust_values == nullptr ? kTakenOut : score + s.adjust_values[at];
}

// Scores of queries [query, query + rows) and items [first, first + count), first on a panel border, into
// tile[row * kTileItems + item - first]; up to the next full vector the rest reads as taken out. cursors[row]
// stands at the first adjustment not below `first` and is moved past the tile.
__attribute__((noinline)) inline void score_tile(const ItemScores& s, int64_t query, int64_t rows,
                                                 int64_t first, int64_t count, int64_t* cursors,
                                                 float* tile) {
  gemm(product(s.queries + query * s.query_step, s.query_step, s.table + first * s.depth, rows, count,
               s.depth),
       [&](int64_t row, int64_t col, vf value) {
         if (s.bias != nullptr && col < count) value += load_some(s.bias + first + col, count - col);
         store(tile + row * kTileItems + col, value);
       });
  for (int64_t row = 0; row < rows; ++row) {
    float* scores = tile + row * kTileItems;
    for (int64_t i = count; i < round_up(count, kLanes); ++i) scores[i] = kTakenOut;
    if (s.adjust_offsets == nullptr) continue;
    const int64_t end = s.adjust_offsets[query + row + 1];
    int64_t at = cursors[row];
    for (; at < end && s.adjust_items[at] < first + count; ++at) {
      float* score = scores + s.adjust_items[at] - first;
      *score = adjust(s, *score, at);
    }
    cursors[row] = at;
  }
}

// body(row, first, count, scores) for every row of the block of queries and every tile of the items
// [first, end), items ascending. The tile's part of the table stays in the second-level cache meanwhile.
template <typename Body>
inline void for_each_tile(const ItemScores& s, int64_t query, int64_t rows, int64_t first, int64_t end,
                          Body&& body) {
  constexpr int64_t kTableFloats = 1 << 16, kStep = kPanel * kTilePanels;
  const int64_t fitting = kTableFloats / max64(s.depth, 1) / kStep * kStep;
  const int64_t width = max64(kStep, min64(kTileItems, fitting));
  alignas(64) float tile[kTileRows * kTileItems];
  int64_t cursors[kBlockQueries];
  for (int64_t row = 0; row < rows; ++row) cursors[row] = first_adjustment(s, query + row, first);
  for (; first < end; first += width) {
    const int64_t count = min64(width, end - first);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t group = min64(kTileRows, rows - row);
      score_tile(s, query + row, group, first, count, cursors + row, tile);
      for (int64_t i = 0; i < group; ++i) body(row + i, first, count, tile + i * kTileItems);
    }
  }
}

// The scores of `Count` items at once: as many independent chains as hide the latency of one.
template <int Count>
inline void score_some(const ItemScores& s, int64_t query, const int32_t* items, float* scores) {
  const float* panels[Count];
  vf acc[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    const int64_t item = items[i];
    panels[i] = s.table + item / kPanel * kPanel * s.depth + item % kPanel / kLanes * kLanes;
    acc[i] = splat(0);
  }
  const float* left = s.queries + query * s.query_step;
  for (int64_t d = 0; d < s.depth; ++d)
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = fma(splat(left[d]), load(panels[i] + d * kPanel), acc[i]);
  for (int i = 0; i < Count; ++i) {
    const int64_t item = items[i];
    float score = acc[i][item % kLanes];
    if (s.bias != nullptr) score += s.bias[item];
    if (s.adjust_offsets != nullptr) {
      const int64_t at = first_adjustment(s, query, item);
      if (at < s.adjust_offsets[query + 1] && s.adjust_items[at] == item) score = adjust(s, score, at);
    }
    scores[i] = score + 0.0f;  // no negative zero
  }
}

// scores[i] of items[i] for i in [offsets[query], offsets[query + 1]), for every query.
inline void score_lists(const ItemScores& s, const int64_t* offsets, int64_t queries, const int32_t* items,
                        float* scores) {
  constexpr int64_t kPerTask = 128;  // a task takes this many list entries and finds their queries itself
  const int64_t total = offsets[queries];
  parallel_for((total + kPerTask - 1) / kPerTask, [&](int64_t task, int) {
    int64_t at = task * kPerTask, low = 0, high = queries;
    while (high - low > 1) {  // the last query that starts at or before `at`
      const int64_t middle = low + (high - low) / 2;
      if (offsets[middle] <= at)
        low = middle;
      else
        high = middle;
    }
    const int64_t end = min64(total, at + kPerTask);
    for (int64_t query = low; at < end; ++query) {
      const int64_t stop = min64(end, offsets[query + 1]);
      for (; at + 8 <= stop; at += 8) score_some<8>(s, query, items + at, scores + at);
      for (; at < stop; ++at) score_some<1>(s, query, items + at, scores + at);
    }
  });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
