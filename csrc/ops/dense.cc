// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/kernels.h"

namespace chronorec {

void dense(const DenseArgs& args) {
  expect(args.input, "input", DType::f32, {kAnySize, kAnySize});
  const int64_t rows = args.input.shape[0], depth = args.input.shape[1];
  expect_output(args.output, "output", DType::f32, {rows, kAnySize});
  const int64_t cols = args.output.shape[1];
  expect_packed(args.weight, "weight", DType::f32, {(cols + 15) / 16, depth, 16});
  if (args.bias) expect_packed(args.bias, "bias", DType::f32, {cols});
  if (args.residual) expect_packed(args.residual, "residual", DType::f32, {rows, cols});
  expect_that(args.activation >= 0 && args.activation <= static_cast<int64_t>(Activation::tanh), "activation",
              "0 to 5", args.activation);
  kernels().dense(args);
}

void pack_panels(const PackPanelsArgs& args) {
  expect(args.rows, "rows", args.rows.dtype == DType::bf16 ? DType::bf16 : DType::f32, {kAnySize, kAnySize});
  const int64_t rows = args.rows.shape[0], depth = args.rows.shape[1];
  expect_output(args.packed, "packed", DType::f32, {(rows + 15) / 16, depth, 16});
  kernels().pack_panels(args);
}

}  // namespace chronorec
