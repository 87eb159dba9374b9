// Tiles of logits to exponentials, and what else item_cross_entropy does to vectors.
#pragma once
#include "cpu/gemm_bf16.h"
#include "cpu/transpose.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr float kNoLogit = -3.4e38f;  // maximum of a chunk in which everything is masked; finite
constexpr int64_t kTermsPerSum = 32;  // long sums have two levels, against rounding

// log(1 + e), 0 <= e <= 1, within 1e-7: twice the series of atanh(e / (2 + e)).
inline vf log1p_unit(vf e) {
  const vf t = e / (e + splat(2)), s = t * t;
  vf p = splat(1.0f / 15);
  p = fma(p, s, splat(1.0f / 13));
  p = fma(p, s, splat(1.0f / 11));
  p = fma(p, s, splat(1.0f / 9));
  p = fma(p, s, splat(1.0f / 7));
  p = fma(p, s, splat(1.0f / 5));
  p = fma(p, s, splat(1.0f / 3));
  p = fma(p, s, splat(1.0f));
  return (t + t) * p;
}

struct Softplus {
  vf value, slope;  // log(1 + exp(x)) and sigmoid(x)
  explicit Softplus(vf x) {
    const vf e = exp_of_negative(x > splat(0) ? -x : x), below = splat(1) / (splat(1) + e);
    slope = x > splat(0) ? below : e * below;
    value = (x > splat(0) ? x : splat(0)) + log1p_unit(e);
    value = x != x ? x : value;
  }
};

// The bits of the nearest bf16 in every lane.
inline vu bf16_bits(vf v) {
  const vu u = reinterpret_cast<vu>(v);
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
  return reinterpret_cast<vu>(v != v ? reinterpret_cast<vi>(nan) : reinterpret_cast<vi>(rounded));
}

// Rounds two vectors to bf16 pairs (a[i], b[i]); also one by one to a_to and b_to where these are given.
inline __attribute__((always_inline)) void store_pairs(vf a, vf b, bf16* pairs, bf16* a_to, bf16* b_to) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr uint16_t kPick[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
  if (pairs != nullptr) {
    const __m512i pick = _mm512_load_si512(kPick);
    _mm512_storeu_si512(pairs, _mm512_maskz_permutexvar_epi16(~0u, pick, both));
  }
  if (a_to == nullptr) return;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(a_to), _mm512_maskz_extracti64x4_epi64(0xf, both, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(b_to), _mm512_maskz_extracti64x4_epi64(0xf, both, 1));
#else
  const vu first = bf16_bits(a), second = bf16_bits(b);
  const vu both = first | second << 16;
  if (pairs != nullptr) __builtin_memcpy(pairs, &both, sizeof both);
  if (a_to == nullptr) return;
  const vh first_half = __builtin_convertvector(first, vh), second_half = __builtin_convertvector(second, vh);
  __builtin_memcpy(a_to, &first_half, sizeof first_half);
  __builtin_memcpy(b_to, &second_half, sizeof second_half);
#endif
}

// kLanes rows of a softmax over columns that come in chunks: the exponentials so far count relative to `top`.
struct RunningSum {
  vf top = splat(kNoLogit), total = splat(0), shrink = splat(1);  // shrink: of what was before this chunk

  // The chunk's logits: kLanes rows, `step` floats from one column to the next.
  void raise(const float* tile, int64_t step, int64_t count) {
    vf high = top;
    for (int64_t j = 0; j < count; ++j) high = max(load(tile + j * step), high);
    shrink = exp_of_negative(top - high);
    total *= shrink;
    top = high;
  }
};

// Logits to exponentials in place.
inline void exponentials(float* tile, int64_t step, int64_t count, RunningSum* rows) {
  rows->raise(tile, step, count);
  for (int64_t j = 0; j < count;) {
    vf part = splat(0);
    for (const int64_t end = min64(j + kTermsPerSum, count); j < end; ++j) {
      const vf e = exp_of_negative(load(tile + j * step) - rows->top);
      store(tile + j * step, e);
      part += e;
    }
    rows->total += part;
  }
}

// Logits to exponentials in bf16: kept[j * step + lane] and pairs[j / 2][kPairPanel][2], each where wanted;
// pairs get zeros from `count` to the end of the run.
inline void exponentials(const float* tile, int64_t step, int64_t count, RunningSum* rows, bf16* kept,
                         bf16* pairs) {
  rows->raise(tile, step, count);
  const vf top = rows->top;
  const int64_t end = round_up(count, kRun);
  for (int64_t run = 0; run < count; run += kTermsPerSum) {
    vf part = splat(0);
    for (int64_t j = run; j < run + kTermsPerSum && j < end; j += 2) {
      const vf a = j < count ? exp_of_negative(load(tile + j * step) - top) : splat(0);
      const vf b = j + 1 < count ? exp_of_negative(load(tile + (j + 1) * step) - top) : splat(0);
      part += a + b;
      bf16* at = kept == nullptr ? nullptr : kept + j * step;
      store_pairs(a, b, pairs == nullptr ? nullptr : pairs + j * kPairPanel, at,
                  at == nullptr ? at : at + step);
    }
    rows->total += part;
  }
}

// rows[i] * factors[i], rounded, as the right side of a product over the rows: [padded / 16][count /
// 2][16][2].
inline void pack_scaled(const float* rows, const float* factors, int64_t count, int64_t padded, bf16* to) {
  for (int64_t d0 = 0; d0 < padded; d0 += kPairPanel)
    for (int64_t i = 0; i < count; i += 2, to += 2 * kPairPanel)
      for (int64_t d = 0; d < kPairPanel; d += kLanes) {
        const float* row = rows + i * padded + d0 + d;
        store_pairs(load(row) * splat(factors[i]), load(row + padded) * splat(factors[i + 1]), to + 2 * d,
                    nullptr, nullptr);
      }
}

// y[0 .. n) += scale * x
template <typename T>
inline void add_scaled(float* y, float scale, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_some(y + i, fma(splat(scale), load_some(x + i, n - i), load_some(y + i, n - i)), n - i);
}

template <typename T>
inline void fill_zero(T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_some(y + i, splat(0), n - i);
}

// Copies a row to fp32, zero padded.
template <typename T>
inline void widen(const T* row, int64_t depth, int64_t padded, float* to) {
  for (int64_t i = 0; i < padded; i += kLanes) store(to + i, load_some(row + i, depth - i));
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
