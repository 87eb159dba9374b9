// exp and tanh on vectors within 2 units in the last place of the true value, sigmoid within 3. exp gives 0
// where the true value is below the smallest normal number; NaN goes through.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// exp by 2^n * exp(r), |r| <= ln2/2, degree-6 polynomial (Cephes expf). exp(-inf) = 0, NaN stays NaN.
inline vf exp(vf x) {
  const vf too_low = splat(-87.33654f), too_high = splat(88.72283f);
  const vf clamped = min(max(x, too_low), too_high);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const vf n = (clamped * splat(1.44269504088896341f) + magic) - magic;
  vf r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  // 2^n in two steps, since n = 128 is not a float's exponent
  const vi half = __builtin_convertvector(n, vi) >> 1;
  const vi rest = __builtin_convertvector(n, vi) - half;
  const vf y = p * reinterpret_cast<vf>((half + 127) << 23) * reinterpret_cast<vf>((rest + 127) << 23);
  const vf bounded = x < too_low ? splat(0) : x > too_high ? splat(__builtin_inff()) : y;
  return x != x ? x : bounded;
}

inline vf sigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

inline vf tanh(vf x) {
  const vf magnitude = max(x, -x);
  const vf e = exp(magnitude + magnitude);
  const vf large = splat(1.0f) - splat(2.0f) / (e + splat(1.0f));
  const vf z = x * x;
  vf p = splat(-5.70498872745e-3f);  // Cephes tanhf below 0.625
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const vf small = fma(p * z, x, x);
  return magnitude < splat(0.625f) ? small : x < splat(0) ? -large : large;
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
