// What item_cross_entropy and item_sampled_loss check alike.
#pragma once
#include <cmath>

#include "core/check.h"
#include "ops.h"

namespace chronorec {

template <typename Args>
inline DType loss_dtype(const Args& args) {
  return args.hidden.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

// Which targets each row has.
template <typename Args>
inline void expect_targets(const Args& args) {
  const int64_t rows = args.hidden.shape[0];
  expect_packed(args.targets, "targets", DType::i64, {kAnySize});
  expect_ids(args.targets, "targets", args.table.shape[0]);
  const int64_t targets = args.targets.shape[0];
  if (args.target_offsets) {
    expect_that(
        expect_offsets(args.target_offsets, "target_offsets", targets) == rows, "target_offsets",
        [&] { return "N + 1 = " + std::to_string(rows + 1) + " entries"; }, args.target_offsets.shape[0]);
  } else {
    expect_that(
        targets == rows, "targets", [&] { return "one per row of hidden, " + std::to_string(rows); },
        targets);
  }
}

template <typename Args>
inline void expect_loss_inputs(const Args& args) {
  expect(args.hidden, "hidden", loss_dtype(args), {kAnySize, kAnySize});
  expect(args.table, "table", loss_dtype(args), {kAnySize, args.hidden.shape[1]});
  if (args.bias) expect_packed(args.bias, "bias", loss_dtype(args), {args.table.shape[0]});
  expect_targets(args);
  expect_that(args.temperature > 0 && std::isfinite(args.temperature), "temperature", "a number above 0",
              [&] { return std::to_string(args.temperature); });
  if (!args.weights) return;
  const int64_t rows = args.hidden.shape[0];
  expect_packed(args.weights, "weights", DType::f32, {rows});
  const float* weights = args.weights.template as<float>();
  for (int64_t i = 0; i < rows; ++i)
    expect_that(weights[i] >= 0 && std::isfinite(weights[i]), "weights", "finite numbers, at least 0",
                [&] { return std::to_string(weights[i]) + " for row " + std::to_string(i); });
}

template <typename Args>
inline void expect_loss_outputs(const Args& args) {
  const int64_t rows = args.hidden.shape[0], items = args.table.shape[0], depth = args.hidden.shape[1];
  expect_output(args.loss, "loss", DType::f32, {1});
  if (args.hidden_grad) expect_output(args.hidden_grad, "hidden_grad", loss_dtype(args), {rows, depth});
  if (args.table_grad) expect_output(args.table_grad, "table_grad", loss_dtype(args), {items, depth});
  if (args.bias_grad) expect_output(args.bias_grad, "bias_grad", loss_dtype(args), {items});
}

}  // namespace chronorec
