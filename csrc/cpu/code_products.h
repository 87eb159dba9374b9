// Products with numbers held in short codes: bf16, or 8 bits. One multiply_add takes a group of depths, for
// kLanes columns at once.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Codes are stored per panel of 16 columns and per group of depths: [columns / 16][D / group][16][group], D
// rounded up to a multiple of kPadded; int8 codes as unsigned numbers, 128 more. A word is what the left side
// has for one group.
template <typename Code>
struct CodeTraits;

template <>
struct CodeTraits<bf16> {
  using Sums = vf;
  static constexpr int64_t kPadded = 2;
#if defined(__AVX512BF16__)
  using Word = int32_t;
  using Right = vi;
  static constexpr int64_t kGroup = 2;
#else
  using Word = float;
  using Right = vf;
  static constexpr int64_t kGroup = 1;
#endif
};

template <>
struct CodeTraits<uint8_t> {
  using Word = int32_t;
  using Right = vi;
  using Sums = vi;
  static constexpr int64_t kPadded = 4;
#if defined(__AVX512VNNI__)
  static constexpr int64_t kGroup = 4;
#else
  static constexpr int64_t kGroup = 2;
#endif
};

inline vi load_words(const void* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

#if defined(__AVX512BF16__)
inline vi load_codes(const bf16* p) { return load_words(p); }
inline vf multiply_add(int32_t left, vi right, vf acc) {
  return reinterpret_cast<vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                               reinterpret_cast<__m512bh>(right),
                                               reinterpret_cast<__m512bh>(splat_int(left))));
}
#else
inline vf load_codes(const bf16* p) { return load(p); }
inline vf multiply_add(float left, vf right, vf acc) { return fma(splat(left), right, acc); }
#endif

#if defined(__AVX512VNNI__)
inline vi load_codes(const uint8_t* p) { return load_words(p); }
inline vi multiply_add(int32_t left, vi right, vi acc) {
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc),
                                                  reinterpret_cast<__m512i>(right),
                                                  reinterpret_cast<__m512i>(splat_int(left))));
}
#else
// Pairs of codes as pairs of 16-bit numbers.
typedef int16_t CodePairs __attribute__((vector_size(kLanes * 4)));
inline vi load_codes(const uint8_t* p) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes * 2)));
  Bytes b;
  __builtin_memcpy(&b, p, sizeof b);
  return reinterpret_cast<vi>(__builtin_convertvector(b, CodePairs));
}
inline vi multiply_add(int32_t left, vi right, vi acc) {
#if defined(__AVX2__)
  return acc + reinterpret_cast<vi>(__builtin_ia32_pmaddwd256(reinterpret_cast<CodePairs>(splat_int(left)),
                                                              reinterpret_cast<CodePairs>(right)));
#elif defined(__SSE2__)
  return acc + reinterpret_cast<vi>(__builtin_ia32_pmaddwd128(reinterpret_cast<CodePairs>(splat_int(left)),
                                                              reinterpret_cast<CodePairs>(right)));
#else
  const vi pair = splat_int(left);
  return acc + (right << 16 >> 16) * (pair << 16 >> 16) + (right >> 16) * (pair >> 16);
#endif
}
#endif

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
