// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/kernels.h"

namespace chronorec {

void layer_norm(const LayerNormArgs& args) {
  expect_packed(args.input, "input", DType::f32, {kAnySize, kAnySize});
  const int64_t rows = args.input.shape[0], width = args.input.shape[1];
  expect_that(width > 0, "input", "at least one column", "0");
  expect_packed(args.weight, "weight", DType::f32, {width});
  if (args.bias) expect_packed(args.bias, "bias", DType::f32, {width});
  expect_output(args.output, "output", DType::f32, {rows, width});
  kernels().layer_norm(args);
}

}  // namespace chronorec
