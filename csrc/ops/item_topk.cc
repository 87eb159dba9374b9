#include "cpu/item_plan.h"
#include "cpu/kernels.h"
#include "ops/item_checks.h"
#include "ops/scratch.h"

namespace chronorec {

int64_t item_topk_scratch(int64_t queries, int64_t num_items, int64_t depth, int64_t k, bool coded) {
  expect_sizes({{"queries", queries}, {"num_items", num_items}, {"depth", depth}});
  expect_that(k >= 1, "k", "at least 1", k);
  return plan_topk(queries, num_items, depth, k, coded).bytes();
}

void item_topk(const ItemTopkArgs& args) {
  expect_scoring(args);
  const int64_t queries = args.queries.shape[0], depth = args.queries.shape[1];
  const bool coded = static_cast<bool>(args.codes);
  if (coded)
    expect_codes(args.codes, "codes", args.code_facts, "code_facts", args.num_items, depth);
  else
    expect_that(!args.code_facts, "codes", "an array beside code_facts", "None");
  expect_that(args.k >= 1, "k", "at least 1", args.k);
  expect_output(args.top_scores, "top_scores", DType::f32, {queries, args.k});
  expect_output(args.top_items, "top_items", DType::i32, {queries, args.k});
  expect_scratch(args.scratch, "scratch", item_topk_scratch(queries, args.num_items, depth, args.k, coded));
  kernels().item_topk(args);
}

}  // namespace chronorec
