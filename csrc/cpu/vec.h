// Vectors of the level this file is compiled for, on GNU vector extensions. Everything here has internal
// linkage, so that no level's code can be picked for another level by the linker.
#pragma once
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/integers.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#else
constexpr int kLanes = 4;
#if defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));

struct bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &wide, 4);
  return y;
}

// Round to nearest even; NaN stays NaN.
inline void from_float(float x, float* y) { *y = x; }
inline void from_float(float x, bf16* y) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  y->bits = static_cast<uint16_t>(x != x ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline vf splat(float x) { return x - vf{}; }
inline vi splat_int(int32_t x) { return x - vi{}; }

inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline vf load(const bf16* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  const vi wide = __builtin_convertvector(h, vi) << 16;
  return reinterpret_cast<vf>(wide);
}
inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
inline void store(bf16* p, vf v) {
  const vu u = reinterpret_cast<vu>(v);  // unsigned: a NaN may wrap, and is not picked
  const vu odd = (u >> 16) & 1;
  const vu rounded = (u + 0x7fff + odd) >> 16;
  const vu nan = (u >> 16) | 0x40;
  const vu picked = v != v ? nan : rounded;
  const vh h = __builtin_convertvector(picked, vh);
  __builtin_memcpy(p, &h, sizeof h);
}

inline vi lane_numbers() {
  vi lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

// The first n of kLanes; the others read as zero and are not touched in memory.
template <typename T>
inline vf load_some(const T* p, int64_t n) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = to_float(p[i]);
  return load(lanes);
}
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline __mmask16 first_bits(int64_t n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}
template <>
inline vf load_some(const float* p, int64_t n) {
  return reinterpret_cast<vf>(_mm512_maskz_loadu_ps(first_bits(n), p));
}
template <>
inline vf load_some(const bf16* p, int64_t n) {
  const __m256i some = _mm256_maskz_loadu_epi16(first_bits(n), p);
  return reinterpret_cast<vf>(__builtin_convertvector(reinterpret_cast<vh>(some), vi) << 16);
}
#elif defined(__AVX2__)
template <>
inline vf load_some(const float* p, int64_t n) {
  const vi mask = lane_numbers() < splat_int(static_cast<int32_t>(n < kLanes ? n : kLanes));
  return reinterpret_cast<vf>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(mask)));
}
#endif
template <typename T>
inline void store_some(T* p, vf v, int64_t n) {
  if (n >= kLanes) return store(p, v);
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < n; ++i) from_float(lanes[i], p + i);
}

// The first n lanes, zeros in the others.
inline vf first_lanes(vf v, int64_t n) {
  return n >= kLanes ? v : lane_numbers() < splat_int(static_cast<int32_t>(n)) ? v : splat(0);
}

inline vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted where the level has the instruction
inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vf min(vf a, vf b) { return a < b ? a : b; }

// Horizontal folds in a fixed order.
inline float sum(vf v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float max_of(vf v) {
  float lanes[kLanes];
  store(lanes, v);
  float m = lanes[0];
  for (int i = 1; i < kLanes; ++i) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
