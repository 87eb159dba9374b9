#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kRowsPerTask = 64;

constexpr int kSums = 4;  // side by side, since one sum waits for each addition

// The sum of add(i, sum) over `count` vectors.
template <typename Add>
inline vf sum_vectors(int64_t count, Add add) {
  vf sums[kSums] = {splat(0), splat(0), splat(0), splat(0)};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int s = 0; s < kSums; ++s) sums[s] = add(i + s, sums[s]);
  for (; i < count; ++i) sums[0] = add(i, sums[0]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

void normalize_row(const float* x, const float* weight, const float* bias, int64_t n, float epsilon,
                   float* y) {
  const int64_t whole = n / kLanes, at = whole * kLanes, left = n - at;
  vf total = sum_vectors(whole, [&](int64_t i, vf sum) { return sum + load(x + i * kLanes); });
  if (left > 0) total += load_some(x + at, left);
  const float mean = sum(total) / static_cast<float>(n);
  vf squares = sum_vectors(whole, [&](int64_t i, vf sum) {
    const vf d = load(x + i * kLanes) - splat(mean);
    return fma(d, d, sum);
  });
  for (int64_t j = 0; j < left; ++j) squares[0] += (x[at + j] - mean) * (x[at + j] - mean);
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + epsilon);
  for (int64_t i = 0; i < at; i += kLanes) {
    vf v = (load(x + i) - splat(mean)) * splat(scale) * load(weight + i);
    if (bias != nullptr) v += load(bias + i);
    store(y + i, v);
  }
  if (left == 0) return;
  vf v = (load_some(x + at, left) - splat(mean)) * splat(scale) * load_some(weight + at, left);
  if (bias != nullptr) v += load_some(bias + at, left);
  store_some(y + at, v, left);
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
