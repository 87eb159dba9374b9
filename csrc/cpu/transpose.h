// Square blocks of a matrix, transposed in registers.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Rows of a strided matrix: row i at data + i * step.
template <typename T>
struct Rows {
  T* data;
  int64_t step;
};

template <typename T>
inline Rows<T> from_row(Rows<T> rows, int64_t first) {
  return {rows.data + first * rows.step, rows.step};
}

inline vf shuffle(vf a, vf b, vi picks) {
#if defined(__clang__)
  vf out;
  for (int i = 0; i < kLanes; ++i) out[i] = picks[i] < kLanes ? a[picks[i]] : b[picks[i] - kLanes];
  return out;
#else
  return __builtin_shuffle(a, b, picks);
#endif
}

// Blocks of `Size` lanes taken in turn from the lower (or upper) halves of every 128 bits of a and b.
template <int Size>
inline __attribute__((always_inline)) vf interleave(vf a, vf b, bool upper) {
  vi picks;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const int within = i % 4, half = upper ? 2 : 0;
    const int lane = Size == 1 ? half + within / 2 : half + within % 2;
    const bool second = Size == 1 ? within % 2 == 1 : within >= 2;
    picks[i] = i / 4 * 4 + lane + (second ? kLanes : 0);
  }
  return shuffle(a, b, picks);
}

// The even (or odd) 128-bit blocks of a, then those of b.
inline __attribute__((always_inline)) vf deal(vf a, vf b, bool odd) {
  vi picks;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) picks[i] = (2 * (i / 4) + odd) * 4 + i % 4;
  return shuffle(a, b, picks);
}

// A kLanes x kLanes block in registers: first the 4 x 4 squares, then the squares among each other. Written
// in the patterns that are single instructions.
inline __attribute__((always_inline)) void transpose(vf* m) {
  vf s[kLanes];
#pragma GCC unroll 16
  for (int g = 0; g < kLanes; g += 4) {
    const vf a = interleave<1>(m[g], m[g + 1], false), b = interleave<1>(m[g], m[g + 1], true);
    const vf c = interleave<1>(m[g + 2], m[g + 3], false), d = interleave<1>(m[g + 2], m[g + 3], true);
    s[g] = interleave<2>(a, c, false), s[g + 1] = interleave<2>(a, c, true);
    s[g + 2] = interleave<2>(b, d, false), s[g + 3] = interleave<2>(b, d, true);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    if constexpr (kLanes == 4) {
      m[c] = s[c];
    } else if constexpr (kLanes == 8) {
      m[c] = deal(s[c], s[4 + c], false), m[4 + c] = deal(s[c], s[4 + c], true);
    } else {
      const vf a = deal(s[c], s[4 + c], false), b = deal(s[c], s[4 + c], true);
      const vf d = deal(s[8 + c], s[12 + c], false), e = deal(s[8 + c], s[12 + c], true);
      m[c] = deal(a, d, false), m[4 + c] = deal(b, e, false);
      m[8 + c] = deal(a, d, true), m[12 + c] = deal(b, e, true);
    }
  }
}

// Lane i: the sum of m[i], always added in the same order.
inline __attribute__((always_inline)) vf sums_of(const vf* m) {
  vf s[kLanes / 4];
#pragma GCC unroll 16
  for (int g = 0; g < kLanes; g += 4) {
    const vf ab = interleave<1>(m[g], m[g + 1], false) + interleave<1>(m[g], m[g + 1], true);
    const vf cd = interleave<1>(m[g + 2], m[g + 3], false) + interleave<1>(m[g + 2], m[g + 3], true);
    s[g / 4] = interleave<2>(ab, cd, false) + interleave<2>(ab, cd, true);
  }
  if constexpr (kLanes == 4) return s[0];
  if constexpr (kLanes == 8) return deal(s[0], s[1], false) + deal(s[0], s[1], true);
  if constexpr (kLanes == 16) {
    const vf a = deal(s[0], s[1], false) + deal(s[0], s[1], true);
    const vf b = deal(s[2], s[3], false) + deal(s[2], s[3], true);
    return deal(a, b, false) + deal(a, b, true);
  }
}

// Loads rows [0, count) x columns [0, left) of a block and transposes it; what is missing reads as zero.
template <typename T>
inline __attribute__((always_inline)) void load_transposed(Rows<const T> rows, int64_t count, int64_t left,
                                                           vf* m) {
  if (count >= kLanes && left >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) m[i] = load(rows.data + i * rows.step);
  } else {
#pragma GCC unroll 1
    for (int i = 0; i < kLanes; ++i) m[i] = i < count ? load_some(rows.data + i * rows.step, left) : splat(0);
  }
  transpose(m);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
