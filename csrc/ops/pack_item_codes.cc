#include "cpu/kernels.h"
#include "ops/item_checks.h"

namespace chronorec {

void pack_item_codes(const PackItemCodesArgs& args) {
  expect(args.rows, "rows", args.rows.dtype == DType::bf16 ? DType::bf16 : DType::f32, {kAnySize, kAnySize});
  expect_codes(args.codes, "codes", args.facts, "facts", args.rows.shape[0], args.rows.shape[1]);
  expect_output(args.codes, "codes", args.codes.dtype, {kAnySize, kAnySize, kAnySize});
  expect_output(args.facts, "facts", DType::bf16, {kAnySize, 3, 16});
  kernels().pack_item_codes(args);
}

}  // namespace chronorec
