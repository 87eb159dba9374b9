// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "core/parallel.h"
#include "cpu/item_cross_entropy_plan.h"
#include "cpu/kernels.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

template <typename Id>
void expect_ascending(int64_t count, const char* name, Id&& id) {
  for (int64_t i = 1; i < count; ++i)
    expect_that(id(i - 1) <= id(i), name, "ascending items",
                [&] { return std::to_string(id(i)) + " after " + std::to_string(id(i - 1)); });
}

// Positions of the targets, ascending by item, and among equal items themselves: then each stands there once.
void expect_order(const ItemCrossEntropyArgs& args, int64_t targets) {
  expect_packed(args.target_order, "target_order", DType::i64, {targets});
  expect_ids(args.target_order, "target_order", targets);
  const int64_t *ids = args.targets.as<int64_t>(), *order = args.target_order.as<int64_t>();
  const auto id = [&](int64_t i) { return ids[order[i]]; };
  expect_ascending(targets, "target_order", id);
  for (int64_t i = 1; i < targets; ++i)
    expect_that(id(i - 1) < id(i) || order[i - 1] < order[i], "target_order",
                "ascending positions among equal items",
                [&] { return std::to_string(order[i]) + " after " + std::to_string(order[i - 1]); });
}

// Everything about which items compete and which are right.
void check_items(const ItemCrossEntropyArgs& args, int64_t rows, int64_t items, int64_t targets) {
  expect_ids(args.targets, "targets", items);
  if (args.target_offsets) {
    expect_that(
        expect_offsets(args.target_offsets, "target_offsets", targets) == rows, "target_offsets",
        [&] { return "N + 1 = " + std::to_string(rows + 1) + " entries"; }, args.target_offsets.shape[0]);
  } else {
    expect_that(
        targets == rows, "targets", [&] { return "one per row of hidden, " + std::to_string(rows); },
        targets);
  }
  if (args.table_grad || args.bias_grad) expect_order(args, targets);
  if (!args.negatives) {
    expect_that(!args.negative_log_q, "negative_log_q", "negatives to go with it", "none");
    expect_that(!args.target_log_q, "target_log_q", "negatives to go with it", "none");
    return;
  }
  expect_packed(args.negatives, "negatives", DType::i64, {kAnySize});
  expect_ids(args.negatives, "negatives", items);
  const int64_t count = args.negatives.shape[0];
  const int64_t* negatives = args.negatives.as<int64_t>();
  expect_ascending(count, "negatives", [&](int64_t i) { return negatives[i]; });
  if (args.negative_log_q) expect_packed(args.negative_log_q, "negative_log_q", DType::f32, {count});
  if (args.target_log_q) expect_packed(args.target_log_q, "target_log_q", DType::f32, {targets});
}

}  // namespace

int64_t item_cross_entropy_scratch(int64_t rows, int64_t cols, int64_t targets, int64_t depth, bool sampled,
                                   bool rounded, bool hidden_grad, bool table_grad, bool bias_grad) {
  expect_sizes({{"rows", rows}, {"cols", cols}, {"targets", targets}, {"depth", depth}});
  ItemCrossEntropyPlan plan{rows, cols, targets, depth, sampled, rounded, hidden_grad, table_grad, bias_grad};
  finish_plan(&plan, num_threads());
  return plan.size * 4;
}

void item_cross_entropy(const ItemCrossEntropyArgs& args) {
  const DType dtype = args.hidden.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect(args.hidden, "hidden", dtype, {kAnySize, kAnySize});
  const int64_t rows = args.hidden.shape[0], depth = args.hidden.shape[1];
  expect(args.table, "table", dtype, {kAnySize, depth});
  const int64_t items = args.table.shape[0];
  expect_packed(args.targets, "targets", DType::i64, {kAnySize});
  const int64_t targets = args.targets.shape[0];
  if (args.bias) expect_packed(args.bias, "bias", dtype, {items});
  check_items(args, rows, items, targets);
  expect_output(args.loss, "loss", DType::f32, {1});
  if (args.hidden_grad) expect_output(args.hidden_grad, "hidden_grad", dtype, {rows, depth});
  if (args.table_grad) expect_output(args.table_grad, "table_grad", dtype, {items, depth});
  if (args.bias_grad) expect_output(args.bias_grad, "bias_grad", dtype, {items});
  const bool sampled = static_cast<bool>(args.negatives);
  const ScratchThreads threads(args.scratch, [&] {
    return item_cross_entropy_scratch(rows, sampled ? args.negatives.shape[0] : items, targets, depth,
                                      sampled, dtype == DType::bf16, static_cast<bool>(args.hidden_grad),
                                      static_cast<bool>(args.table_grad), static_cast<bool>(args.bias_grad));
  });
  kernels().item_cross_entropy(args);
}

}  // namespace chronorec
