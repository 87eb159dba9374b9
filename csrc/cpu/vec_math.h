// exp and tanh on vectors within 2 units in the last place of the true value, sigmoid within 3. exp gives 0
// where the true value is below the smallest normal number; NaN goes through.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// exp(x) = 2^n (1 + rest), for |x| <= 88.
struct Exponential {
  vf n, rest;
};

inline Exponential split_exp(vf x) {
#if defined(__AVX512F__)
  const vf scaled = x * splat(1.44269504088896341f);
  const vf n = reinterpret_cast<vf>(_mm512_maskz_roundscale_ps(0xffff, reinterpret_cast<__m512>(scaled), 8));
#else
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const vf n = (x * splat(1.44269504088896341f) + magic) - magic;
#endif
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);  // Cephes expf
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  return {n, fma(p, r * r, r)};
}

// exp(-inf) = 0, NaN stays NaN.
inline vf exp(vf x) {
  const vf too_low = splat(-87.33654f), too_high = splat(88.72283f);
  const Exponential e = split_exp(min(max(x, too_low), too_high));
  // 2^n in two steps, since n = 128 is not a float's exponent
  const vi half = __builtin_convertvector(e.n, vi) >> 1;
  const vi left = __builtin_convertvector(e.n, vi) - half;
  const vf y = (splat(1.0f) + e.rest) * reinterpret_cast<vf>((half + 127) << 23) *
               reinterpret_cast<vf>((left + 127) << 23);
  const vf bounded = x < too_low ? splat(0) : x > too_high ? splat(__builtin_inff()) : y;
  return x != x ? x : bounded;
}

// exp for x <= 0, or a rounding above it, at half the cost: exactly 1 at 0, exactly 0 below -87.3, NaN stays
// NaN.
inline vf exp_of_negative(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23 rounds
  const vf shifted = fma(x, splat(1.44269504088896341f), magic);
  const vf n = shifted - magic;
  // ln 2 in two parts, so that the rest is exact without fused multiply-adds too
  const vf r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  vf p = splat(1.381446694e-03f);
  p = fma(p, r, splat(8.368780515e-03f));
  p = fma(p, r, splat(4.166839422e-02f));
  p = fma(p, r, splat(1.666652011e-01f));
  p = fma(p, r, splat(4.999999341e-01f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const vu power = reinterpret_cast<vu>(p) + (reinterpret_cast<vu>(shifted) << 23);  // may wrap below -87.3
  const vf bounded = x < splat(-87.33654f) ? splat(0) : reinterpret_cast<vf>(power);
  return x != x ? x : bounded;  // a NaN's own bits may have moved it
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
