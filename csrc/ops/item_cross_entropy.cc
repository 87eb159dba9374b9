// Checks, then the kernel of the selected level.
#include "cpu/item_cross_entropy_plan.h"
#include "cpu/kernels.h"
#include "ops/item_loss_checks.h"
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

// Everything about which items compete.
void check_items(const ItemCrossEntropyArgs& args, int64_t items, int64_t targets) {
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
                                   bool rounded, bool hidden_grad, bool table_grad, bool bias_grad,
                                   bool smoothed) {
  expect_sizes({{"rows", rows}, {"cols", cols}, {"targets", targets}, {"depth", depth}});
  const ItemCrossEntropyPlan plan(
      nullptr, {rows, cols, targets, depth, sampled, rounded, hidden_grad, table_grad, bias_grad, smoothed},
      num_threads());
  expect_that(!plan.too_large, "scratch", "sizes that a machine can hold", [&] {
    return std::to_string(rows) + " x " + std::to_string(cols) + " x " + std::to_string(depth);
  });
  return plan.bytes;
}

void item_cross_entropy(const ItemCrossEntropyArgs& args) {
  expect_loss_inputs(args);
  check_items(args, args.table.shape[0], args.targets.shape[0]);
  expect_that(args.label_smoothing >= 0 && args.label_smoothing <= 1, "label_smoothing", "0 to 1",
              [&] { return std::to_string(args.label_smoothing); });
  expect_that(args.label_smoothing == 0 || !args.negatives, "label_smoothing", "0 beside negatives",
              [&] { return std::to_string(args.label_smoothing); });
  expect_loss_outputs(args);
  const ItemCrossEntropySizes s = item_cross_entropy_sizes(args);
  const ScratchThreads threads(args.scratch, [&] {
    return item_cross_entropy_scratch(s.rows, s.cols, s.targets, s.depth, s.sampled, s.rounded, s.hidden_grad,
                                      s.table_grad, s.bias_grad, s.smoothed);
  });
  kernels().item_cross_entropy(args);
}

}  // namespace chronorec
