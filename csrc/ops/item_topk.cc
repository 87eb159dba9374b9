#include "cpu/item_plan.h"
#include "cpu/kernels.h"
#include "ops/item_checks.h"
#include "ops/scratch.h"

namespace chronorec {

int64_t item_topk_scratch(int64_t queries, int64_t num_items, int64_t depth, int64_t k, int64_t code_bits) {
  expect_sizes({{"queries", queries}, {"num_items", num_items}, {"depth", depth}});
  expect_that(k >= 1, "k", "at least 1", k);
  expect_that(code_bits == 0 || code_bits == 8 || code_bits == 16, "code_bits", "0, 8 or 16", code_bits);
  return plan_topk(queries, num_items, depth, k, code_bits).bytes();
}

void item_topk(const ItemTopkArgs& args) {
  expect_scoring(args);
  const int64_t queries = args.queries.shape[0], depth = args.queries.shape[1];
  if (args.codes)
    expect_codes(args.codes, "codes", args.code_facts, "code_facts", args.num_items, depth);
  else
    expect_that(!args.code_facts, "codes", "an array beside code_facts", "None");
  expect_that(args.k >= 1, "k", "at least 1", args.k);
  expect_output(args.top_scores, "top_scores", DType::f32, {queries, args.k});
  expect_output(args.top_items, "top_items", DType::i32, {queries, args.k});
  expect_scratch(args.scratch, "scratch",
                 item_topk_scratch(queries, args.num_items, depth, args.k, code_bits(args.codes)));
  kernels().item_topk(args);
}

}  // namespace chronorec
