#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kRowsPerTask = 64;

void normalize_row(const float* x, const float* weight, const float* bias, int64_t n, float epsilon,
                   float* y) {
  vf total = splat(0), squares = splat(0);
  for (int64_t i = 0; i < n; i += kLanes) total += load_some(x + i, n - i);
  const float mean = sum(total) / static_cast<float>(n);
  for (int64_t i = 0; i < n; i += kLanes) {
    vf d = load_some(x + i, n - i) - splat(mean);
    if (n - i < kLanes) {
      float inside[kLanes] = {};
      for (int64_t j = 0; j < n - i; ++j) inside[j] = 1;
      d *= load(inside);
    }
    squares = fma(d, d, squares);
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + epsilon);
  for (int64_t i = 0; i < n; i += kLanes) {
    vf v = (load_some(x + i, n - i) - splat(mean)) * splat(scale) * load_some(weight + i, n - i);
    if (bias != nullptr) v += load_some(bias + i, n - i);
    store_some(y + i, v, n - i);
  }
}

}  // namespace

void layer_norm(const LayerNormArgs& args) {
  const int64_t rows = args.input.shape[0], n = args.input.shape[1];
  parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t row = task * kRowsPerTask; row < min64(rows, (task + 1) * kRowsPerTask); ++row)
      normalize_row(args.input.as<float>() + row * n, args.weight.as<float>(), args.bias.as<float>(), n,
                    static_cast<float>(args.epsilon), args.output.as<float>() + row * n);
  });
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
