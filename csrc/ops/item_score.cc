#include "cpu/kernels.h"
#include "ops/item_checks.h"

namespace chronorec {

void item_score(const ItemScoreArgs& args) {
  expect_scoring(args, true);
  expect_lists(args.list_items, "list_items", args.list_offsets, "list_offsets", args.queries.shape[0],
               args.num_items);
  expect_output(args.scores, "scores", DType::f32, {args.list_items.shape[0]});
  kernels().item_score(args);
}

}  // namespace chronorec
