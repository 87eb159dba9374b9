#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/transpose.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kWorkPerTask = 1 << 21;    // products: some 20 us, less than waking a thread may cost
constexpr int64_t kPackedPerTask = 1 << 16;  // elements: below, waking a thread costs more than it saves

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

// One panel: `count` rows of `depth` to packed[d][row], zero beyond `count`.
template <typename T>
void pack_panel(Rows<const T> rows, int64_t count, int64_t depth, float* packed) {
  for (int64_t d = 0; d < depth; d += kLanes)
    for (int64_t first = 0; first < kPanel; first += kLanes) {
      vf m[kLanes];
      load_transposed<T>({rows.data + first * rows.step + d, rows.step}, count - first, depth - d, m);
      float* out = packed + d * kPanel + first;
      if (depth - d >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(out + i * kPanel, m[i]);
      } else {
        for (int64_t i = 0; i < depth - d; ++i) store(out + i * kPanel, m[i]);
      }
    }
}

template <typename T>
void pack(const PackPanelsArgs& args) {
  const int64_t count = args.rows.shape[0], depth = args.rows.shape[1];
  const Rows<const T> rows = {args.rows.as<const T>(), args.rows.stride[0]};
  const int64_t step = kPanel * max64(1, kPackedPerTask / (kPanel * max64(depth, 1)));
  parallel_for((count + step - 1) / step, [&](int64_t task, int) {
    const int64_t end = min64(count, (task + 1) * step);
    for (int64_t first = task * step; first < end; first += kPanel)
      pack_panel<T>(from_row(rows, first), min64(kPanel, end - first), depth,
                    args.packed.as<float>() + first * depth);
  });
}

}  // namespace

void dense(const DenseArgs& args) {
  const int64_t rows = args.input.shape[0], depth = args.input.shape[1], cols = args.output.shape[1];
  const auto activation = static_cast<Activation>(args.activation);
  const float* bias = args.bias.as<float>();
  const float* residual = args.residual.as<float>();
  float* output = args.output.as<float>();
  const int64_t size = kRowsPerTask * max64(1, kWorkPerTask / (kRowsPerTask * max64(1, depth * cols)));
  parallel_for((rows + size - 1) / size, [&](int64_t task, int) {
    const int64_t first = task * size;
    const float* input = args.input.as<float>() + first * args.input.stride[0];
    gemm(
        product(input, args.input.stride[0], args.weight.as<float>(), min64(size, rows - first), cols, depth),
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
  if (args.rows.dtype == DType::bf16)
    pack<bf16>(args);
  else
    pack<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
