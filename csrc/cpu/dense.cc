#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kRowsPerTask = 64;

inline vf activate(vf x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x < splat(0) ? splat(0) : x;  // NaN stays NaN
    case Activation::gelu: {               // the tanh form
      const vf inner = splat(0.7978845608f) * fma(splat(0.044715f) * x * x, x, x);
      return splat(0.5f) * x * (splat(1) + tanh(inner));
    }
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
    default:
      return x;
  }
}

}  // namespace

void dense(const DenseArgs& args) {
  const int64_t rows = args.input.shape[0], depth = args.input.shape[1], cols = args.output.shape[1];
  const auto activation = static_cast<Activation>(args.activation);
  const float* bias = args.bias.as<float>();
  const float* residual = args.residual.as<float>();
  float* output = args.output.as<float>();
  parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t first = task * kRowsPerTask;
    const float* input = args.input.as<float>() + first * args.input.stride[0];
    gemm(product(input, args.input.stride[0], args.weight.as<float>(), min64(kRowsPerTask, rows - first),
                 cols, depth),
         [&](int64_t row, int64_t col, vf value) {
           if (col >= cols) return;
           const int64_t at = (first + row) * cols + col, left = cols - col;
           if (bias != nullptr) value += load_some(bias + col, left);
           value = activate(value, activation);
           if (residual != nullptr) value += load_some(residual + at, left);
           store_some(output + at, value, left);
         });
  });
}

void pack_panels(const PackPanelsArgs& args) {
  const int64_t rows = args.rows.shape[0], depth = args.rows.shape[1], step = args.rows.stride[0];
  const auto pack = [&](const auto* source) {
    parallel_for((rows + kPanel - 1) / kPanel, [&](int64_t panel, int) {
      const int64_t first = panel * kPanel;
      pack_panels(source + first * step, 1, step, depth, min64(kPanel, rows - first),
                  args.packed.as<float>() + first * depth);
    });
  };
  if (args.rows.dtype == DType::bf16)
    pack(args.rows.as<const bf16>());
  else
    pack(args.rows.as<const float>());
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
