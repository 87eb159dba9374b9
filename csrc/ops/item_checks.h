// What item_topk, item_rank and item_score check alike.
#pragma once
#include "core/check.h"
#include "ops.h"

namespace chronorec {

// Strictly ascending ids in [0, bound) within every [offsets[b], offsets[b + 1]).
inline void expect_ascending(const TensorView& view, const char* name, const int64_t* offsets, int64_t rows) {
  const int32_t* ids = view.as<int32_t>();
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t i = offsets[b] + 1; i < offsets[b + 1]; ++i)
      if (ids[i] <= ids[i - 1])
        throw ShapeError(std::string(name) + ": must ascend strictly within a query, got " +
                         std::to_string(ids[i]) + " after " + std::to_string(ids[i - 1]) + " in query " +
                         std::to_string(b));
}

inline void expect_rows(int64_t rows, const char* name, int64_t queries) {
  expect_that(
      rows == queries, name,
      [&] { return "one more offset than queries (" + std::to_string(queries + 1) + ")"; }, rows + 1);
}

// One list of item ids per query; without offsets one id per query.
inline void expect_lists(const TensorView& items, const char* items_name, const TensorView& offsets,
                         const char* offsets_name, int64_t queries, int64_t num_items) {
  const DType dtype = items.dtype == DType::i64 ? DType::i64 : DType::i32;
  expect_packed(items, items_name, dtype, {offsets ? kAnySize : queries});
  if (offsets) expect_rows(expect_offsets(offsets, offsets_name, items.shape[0]), offsets_name, queries);
  expect_ids(items, items_name, num_items);
}

// A table in codes and the facts about its rows.
inline void expect_codes(const TensorView& codes, const char* codes_name, const TensorView& facts,
                         const char* facts_name, int64_t num_items, int64_t depth) {
  const int64_t panels = (num_items + 15) / 16;
  expect_that(
      depth <= kMostCodedDepth, codes_name,
      [] { return "at most " + std::to_string(kMostCodedDepth) + " dimensions"; }, depth);
  if (codes.dtype == DType::bf16)
    expect_packed(codes, codes_name, DType::bf16, {panels, (depth + 1) / 2, 32});
  else
    expect_packed(codes, codes_name, DType::u8, {panels, (depth + 3) / 4, 64});
  expect_packed(facts, facts_name, DType::bf16, {panels, 3, 16});
}

// The table is packed into panels, or may have its rows where `takes_rows`.
template <typename Args>
inline void expect_scoring(const Args& args, bool takes_rows = false) {
  expect(args.queries, "queries", DType::f32, {kAnySize, kAnySize});
  const int64_t queries = args.queries.shape[0], depth = args.queries.shape[1];
  expect_that(args.num_items >= 0 && args.num_items < int64_t{1} << 31, "num_items", "0 to 2^31 - 1",
              args.num_items);
  if (takes_rows && args.table.ndim == 2)
    expect(args.table, "table", args.table.dtype == DType::bf16 ? DType::bf16 : DType::f32,
           {args.num_items, depth});
  else
    expect_packed(args.table, "table", DType::f32, {(args.num_items + 15) / 16, depth, 16});
  if (args.bias) expect_packed(args.bias, "bias", DType::f32, {args.num_items});
  if (args.allow.ndim == 2)
    expect(args.allow, "allow", DType::u8, {queries, args.num_items});
  else if (args.allow)
    expect_packed(args.allow, "allow", DType::u8, {args.num_items});
  if (!args.adjust_offsets) {
    expect_that(!args.adjust_items && !args.adjust_values, "adjust_offsets", "an array beside adjust_items",
                "None");
    return;
  }
  expect_packed(args.adjust_items, "adjust_items", DType::i32, {kAnySize});
  expect_lists(args.adjust_items, "adjust_items", args.adjust_offsets, "adjust_offsets", queries,
               args.num_items);
  expect_ascending(args.adjust_items, "adjust_items", args.adjust_offsets.template as<int64_t>(), queries);
  if (args.adjust_values)
    expect_packed(args.adjust_values, "adjust_values", DType::f32, {args.adjust_items.shape[0]});
}

}  // namespace chronorec
