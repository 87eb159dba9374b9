// sigmoid and tanh for recurrent gates, by the type of what the layer gives: in fp32 within 3 units in the
// last place, and cheaper than those of vec_math.h since every value that goes through exp is clamped to
// where 2^n is a float; in bf16, where there is AVX-512, within 1e-4 of the true value, at half the cost. NaN
// goes through.
#pragma once
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// 1 / x by an estimate and a correction: a division takes as long as sixteen products.
inline vf reciprocal(vf x) {
#if defined(__AVX512F__)
  const vf near = reinterpret_cast<vf>(_mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(x)));
  return fma(near, splat(1) - x * near, near);
#else
  return splat(1) / x;
#endif
}

inline vf divide(vf a, vf b) {
#if defined(__AVX512F__)
  const vf inverse = reciprocal(b), quotient = a * inverse;
  return fma(a - quotient * b, inverse, quotient);
#else
  return a / b;
#endif
}

// x 2^n
inline vf times_power(vf x, vf n) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(n)));
#else
  return x * reinterpret_cast<vf>((__builtin_convertvector(n, vi) + 127) << 23);
#endif
}

// To [-bound, bound]; NaN stays.
inline vf clamp(vf x, float bound) {
  const vf high = splat(bound), low = splat(-bound);
#if defined(__AVX512F__)
  const __m512 above =
      _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(low), reinterpret_cast<__m512>(x));
  return reinterpret_cast<vf>(_mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(high), above));
#else
  const vf above = low > x ? low : x;
  return high < above ? high : above;
#endif
}

template <typename T>
inline vf gate_sigmoid(vf x) {
  const Exponential e = split_exp(clamp(-x, 87.0f));
  return reciprocal(splat(1) + times_power(splat(1) + e.rest, e.n));
}

// (e - 1) / (e + 1) with e = exp(2x), where e - 1 is taken without cancellation.
template <typename T>
inline vf gate_tanh(vf x) {
  const Exponential e = split_exp(clamp(x + x, 20.0f));
  const vf power = times_power(splat(1), e.n);
  const vf less_one = fma(e.rest, power, power - splat(1));
  return divide(less_one, less_one + splat(2));
}

#if defined(__AVX512DQ__)
// Within 1e-4 of 1 - sigmoid(x) too, relative to it: long memories depend on that.
template <>
inline vf gate_sigmoid<bf16>(vf x) {
  const vf power = clamp(x, 87.0f) * splat(-1.44269504f);
  // the part behind the point; scaling takes the whole number below
  const vf f = reinterpret_cast<vf>(_mm512_maskz_reduce_ps(0xffff, reinterpret_cast<__m512>(power), 0x09));
  const vf p = fma(fma(fma(splat(7.802451947e-02f), f, splat(2.260671784e-01f)), f, splat(6.958335221e-01f)),
                   f, splat(9.999252214e-01f));
  return reciprocal(splat(1) + times_power(p, power));
}

// A quotient of polynomials, with the error relative to the true value.
template <>
inline vf gate_tanh<bf16>(vf x) {
  const vf y = clamp(x, 5.0f), u = y * y;
  const vf above = fma(fma(splat(6.705644465e-04f), u, splat(1.024176577e-01f)), u, splat(9.999480475e-01f));
  const vf below = fma(fma(splat(1.281987719e-02f), u, splat(4.354324507e-01f)), u, splat(1));
  return y * above * reciprocal(below);
}
#endif

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
