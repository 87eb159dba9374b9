// kVec neighbouring columns as they lie in memory, moved 16 bytes at a time where they are that long.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

namespace chronorec::cuda {
namespace {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(float x, bf16& out) { out = __float2bfloat16_rn(x); }

// Memory is aligned to 16 bytes if the pack is a multiple of them, else to one element.
template <typename T, int kVec>
struct Pack {
  static constexpr int kWords = kVec * static_cast<int>(sizeof(T)) / 16;
  static constexpr bool kByWords = kVec * static_cast<int>(sizeof(T)) % 16 == 0;
  T x[kVec];

  __device__ __forceinline__ void load(const T* from) {
    if constexpr (kByWords) {
      uint4 words[kWords];
#pragma unroll
      for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const uint4*>(from)[i];
      memcpy(static_cast<void*>(x), words, sizeof(x));
    } else {
#pragma unroll
      for (int i = 0; i < kVec; ++i) x[i] = from[i];
    }
  }
  __device__ __forceinline__ void store(T* to) const {
    if constexpr (kByWords) {
      uint4 words[kWords];
      memcpy(words, static_cast<const void*>(x), sizeof(x));
#pragma unroll
      for (int i = 0; i < kWords; ++i) reinterpret_cast<uint4*>(to)[i] = words[i];
    } else {
#pragma unroll
      for (int i = 0; i < kVec; ++i) to[i] = x[i];
    }
  }
};

// The products of two packs, added up.
template <typename T, int kVec>
__device__ __forceinline__ float product(const Pack<T, kVec>& a, const Pack<T, kVec>& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVec; ++i) sum += widen(a.x[i]) * widen(b.x[i]);
  return sum;
}

}  // namespace
}  // namespace chronorec::cuda
