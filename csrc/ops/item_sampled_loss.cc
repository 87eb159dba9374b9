// Checks, then the kernel of the selected level.
#include "cpu/item_sampled_loss_plan.h"
#include "cpu/kernels.h"
#include "ops/item_loss_checks.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

constexpr int64_t kMostIds = int64_t{1} << 31;  // rows and items, as they stand in shares

// Row by row, since rows may share their memory.
void expect_negatives(const ItemSampledLossArgs& args, int64_t rows, int64_t items) {
  expect(args.negatives, "negatives", DType::i64, {rows, kAnySize});
  const int64_t count = args.negatives.shape[1], step = args.negatives.stride[0];
  for (int64_t row = 0; row < (step == 0 ? rows > 0 : rows); ++row) {
    TensorView ids = args.negatives;
    ids.data = args.negatives.as<int64_t>() + row * step;
    ids.ndim = 1, ids.shape[0] = count, ids.stride[0] = 1;
    expect_ids(ids, "negatives", items);
  }
}

}  // namespace

int64_t item_sampled_loss_scratch(int64_t rows, int64_t items, int64_t negatives, int64_t targets,
                                  int64_t depth, bool scatters, bool shared) {
  expect_sizes(
      {{"rows", rows}, {"items", items}, {"negatives", negatives}, {"targets", targets}, {"depth", depth}});
  const ItemSampledLossPlan plan(nullptr, rows, items, negatives, targets, depth, scatters, shared,
                                 num_threads());
  expect_that(!plan.too_large, "scratch", "sizes that a machine can hold", [&] {
    return std::to_string(rows) + " x " + std::to_string(negatives) + " x " + std::to_string(depth);
  });
  return plan.bytes;
}

void item_sampled_loss(const ItemSampledLossArgs& args) {
  expect_loss_inputs(args);
  const int64_t rows = args.hidden.shape[0], items = args.table.shape[0], targets = args.targets.shape[0];
  expect_that(rows < kMostIds, "hidden", "fewer than 2^31 rows", rows);
  expect_that(items < kMostIds, "table", "fewer than 2^31 items", items);
  expect_negatives(args, rows, items);
  const int64_t negatives = args.negatives.shape[1];
  expect_that(negatives < kMostIds - rows, "negatives", "fewer than 2^31 with the rows", negatives);
  if (args.negative_log_q) expect(args.negative_log_q, "negative_log_q", DType::f32, {rows, negatives});
  if (args.target_log_q) expect_packed(args.target_log_q, "target_log_q", DType::f32, {targets});
  const auto kind = static_cast<SampledLossKind>(args.kind);
  expect_that(args.kind >= 0 && args.kind <= 2, "kind", "0 to 2", args.kind);
  const bool corrected = args.negative_log_q || args.target_log_q;
  expect_that(kind == SampledLossKind::softmax || !corrected, "kind", "softmax beside a log_q", args.kind);
  expect_that(std::isfinite(args.exponent), "exponent", "a finite number",
              [&] { return std::to_string(args.exponent); });
  expect_loss_outputs(args);
  const ScratchThreads threads(args.scratch, [&] {
    return item_sampled_loss_scratch(rows, items, negatives, targets, args.hidden.shape[1],
                                     args.table_grad || args.bias_grad, shares_negatives(args));
  });
  kernels().item_sampled_loss(args);
}

}  // namespace chronorec
