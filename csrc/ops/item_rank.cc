#include "cpu/kernels.h"
#include "ops/item_checks.h"
#include "ops/scratch.h"

namespace chronorec {

int64_t item_rank_scratch(int64_t targets) {
  expect_sizes({{"targets", targets}});
  return targets * static_cast<int64_t>(sizeof(float));
}

void item_rank(const ItemRankArgs& args) {
  expect_scoring(args);
  expect_lists(args.targets, "targets", args.target_offsets, "target_offsets", args.queries.shape[0],
               args.num_items);
  const int64_t targets = args.targets.shape[0];
  expect_output(args.greater, "greater", DType::i64, {targets});
  expect_output(args.equal, "equal", DType::i64, {targets});
  expect_scratch(args.scratch, "scratch", item_rank_scratch(targets));
  kernels().item_rank(args);
}

}  // namespace chronorec
