// Scores of all items for a block of queries, one tile at a time: what item_topk and item_rank share.
#pragma once
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
  const uint8_t* allow;        // or null
  int64_t allow_step;          // from query to query; 0: one mask for all

  const float* query(int64_t row) const { return queries + row * query_step; }
  const uint8_t* allowed(int64_t row) const { return allow + row * allow_step; }
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
          args.adjust_values.template as<float>(),
          args.allow.template as<uint8_t>(),
          args.allow.ndim == 2 ? args.allow.stride[0] : 0};
}

// First position in the query's adjustments whose item is not below `item`.
inline int64_t first_adjustment(const ItemScores& s, int64_t query, int64_t item) {
  if (s.adjust_offsets == nullptr) return 0;
  return first_not(s.adjust_offsets[query], s.adjust_offsets[query + 1],
                   [&](int64_t at) { return s.adjust_items[at] < item; });
}

inline float adjust(const ItemScores& s, float score, int64_t at) {
  return s.adjust_values == nullptr ? kTakenOut : score + s.adjust_values[at];
}

// body(item, at) for the adjustments of a query in [first, end), in order; the cursor, which stands at any of
// them before `end`, is moved past the last.
template <typename Body>
inline void for_each_adjustment(const ItemScores& s, int64_t query, int64_t first, int64_t end,
                                int64_t* cursor, Body&& body) {
  if (s.adjust_offsets == nullptr) return;
  const int64_t stop = s.adjust_offsets[query + 1];
  int64_t at = *cursor;
  while (at < stop && s.adjust_items[at] < first) ++at;  // of tiles that were left out
  for (; at < stop && s.adjust_items[at] < end; ++at) body(s.adjust_items[at], at);
  *cursor = at;
}

// Takes out of a tile the items that the query's mask does not allow.
inline void apply_mask(const ItemScores& s, int64_t query, int64_t first, int64_t count, float* scores) {
  if (s.allow == nullptr) return;
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  const uint8_t* allow = s.allowed(query) + first;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Bytes bytes;
    __builtin_memcpy(&bytes, allow + i, kLanes);
    store(scores + i, __builtin_convertvector(bytes, vi) != 0 ? load(scores + i) : splat(kTakenOut));
  }
  for (; i < count; ++i)
    if (!allow[i]) scores[i] = kTakenOut;
}

inline bool any_set(const uint8_t* bytes, int64_t count) {
  uint64_t any = 0, word;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __builtin_memcpy(&word, bytes + i, 8);
    any |= word;
  }
  for (; i < count; ++i) any |= bytes[i];
  return any != 0;
}

// Whether any of the queries [query, query + rows) may be answered with an item of [first, first + count).
inline bool any_allowed(const ItemScores& s, int64_t query, int64_t rows, int64_t first, int64_t count) {
  if (s.allow == nullptr) return true;
  for (int64_t row = 0; row < (s.allow_step == 0 ? 1 : rows); ++row)
    if (any_set(s.allowed(query + row) + first, count)) return true;
  return false;
}

// fill(query, rows, first, count, tile) gives the tile[row * kTileItems + item - first] of up to kTileRows
// queries, and body(row, first, count, tile row, cursor) takes it, for every row of the block of queries and
// every tile of the items [first, end) that any of the rows may be answered with, items ascending. The cursor
// stands at or before the row's first adjustment in the tile. A tile's part of the table stays in the
// second-level cache meanwhile.
template <typename Fill, typename Body>
inline void for_each_tile(const ItemScores& s, int64_t query, int64_t rows, int64_t first, int64_t end,
                          Fill&& fill, Body&& body) {
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
      if (!any_allowed(s, query + row, group, first, count)) continue;
      fill(query + row, group, first, count, tile);
      for (int64_t i = 0; i < group; ++i)
        body(row + i, first, count, tile + i * kTileItems, cursors + row + i);
    }
  }
}

// The fill of exact scores without adjustments and mask; first on a panel border.
__attribute__((noinline)) inline void fill_scores(const ItemScores& s, int64_t query, int64_t rows,
                                                  int64_t first, int64_t count, float* tile) {
  gemm(product(s.query(query), s.query_step, s.table + first * s.depth, rows, count, s.depth),
       [&](int64_t row, int64_t col, vf value) {
         if (s.bias != nullptr && col < count) value += load_some(s.bias + first + col, count - col);
         store(tile + row * kTileItems + col, value);
       });
}

// body(row, first, count, scores): exact scores, complete; up to the next full vector the rest reads as taken
// out.
template <typename Body>
inline void for_each_exact_tile(const ItemScores& s, int64_t query, int64_t rows, int64_t first, int64_t end,
                                Body&& body) {
  for_each_tile(
      s, query, rows, first, end,
      [&](int64_t at, int64_t group, int64_t item, int64_t count, float* tile) {
        fill_scores(s, at, group, item, count, tile);
      },
      [&](int64_t row, int64_t item, int64_t count, float* scores, int64_t* cursor) {
        for (int64_t i = count; i < round_up(count, kLanes); ++i) scores[i] = kTakenOut;
        for_each_adjustment(s, query + row, item, item + count, cursor, [&](int64_t adjusted, int64_t at) {
          scores[adjusted - item] = adjust(s, scores[adjusted - item], at);
        });
        apply_mask(s, query + row, item, count, scores);
        body(row, item, count, scores);
      });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
