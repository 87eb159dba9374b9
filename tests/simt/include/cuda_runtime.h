// Stands in for CUDA's header of this name: the language extensions and built-in functions of device code for
// simt.h. Types, bfloat16 and half come from CUDA's own headers.
#pragma once
#include <cuda_runtime_api.h>
#include <math.h>

#include <algorithm>

#include "simt.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
// One copy in a section of its own, which the runner fills with NaN before every block.
#define __shared__ static __attribute__((section("simt_shared")))

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

inline void __syncthreads(simt::Site site = simt::Site::here()) { simt::barrier_block(site); }
inline void __syncwarp(unsigned mask = ~0u, simt::Site site = simt::Site::here()) {
  simt::meet_warp(
      "__syncwarp", mask, nullptr, 0, [](void* const*, const int*, unsigned, simt::Site) {}, site);
}
inline void __threadfence() {}
inline float __fdividef(float a, float b) { return a / b; }
[[noreturn]] inline void __trap(simt::Site site = simt::Site::here()) { simt::fail("__trap", site); }

namespace simt {

// arguments[lane] is the lane to read.
template <typename T>
void shuffle(void* const values[32], const int arguments[32], unsigned mask, Site site) {
  T before[32];
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) before[lane] = *static_cast<T*>(values[lane]);
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (!(mask >> arguments[lane] & 1)) fail("a shuffle reads a lane that is not in its mask", site);
    *static_cast<T*>(values[lane]) = before[arguments[lane]];
  }
}

template <typename T>
T shuffle(const char* call, unsigned mask, T value, int source, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8));
  meet_warp(call, mask, &value, source, shuffle<T>, site);
  return value;
}

inline void expect_width(int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail("the width of a shuffle must be a power of two up to 32", site);
}

template <typename T, typename Combine>
T reduce(const char* call, unsigned mask, T value, Site site) {
  meet_warp(
      call, mask, &value, 0,
      [](void* const values[32], const int*, unsigned members, Site) {
        T all{};
        bool first = true;
        for (int lane = 0; lane < 32; ++lane) {
          if (!(members >> lane & 1)) continue;
          const T mine = *static_cast<T*>(values[lane]);
          all = first ? mine : Combine()(all, mine);
          first = false;
        }
        for (int lane = 0; lane < 32; ++lane)
          if (members >> lane & 1) *static_cast<T*>(values[lane]) = all;
      },
      site);
  return value;
}

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
  }
};
struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Or {
  unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};

}  // namespace simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, simt::Site site = simt::Site::here()) {
  simt::expect_width(width, site);
  const int first = simt::lane() & -width;
  return simt::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, simt::Site site = simt::Site::here()) {
  simt::expect_width(width, site);
  const int source = simt::lane() ^ bits, end = (simt::lane() & -width) + width;
  return simt::shuffle("__shfl_xor_sync", mask, value, source < end ? source : simt::lane(), site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   simt::Site site = simt::Site::here()) {
  simt::expect_width(width, site);
  const int source = simt::lane() + static_cast<int>(delta), end = (simt::lane() & -width) + width;
  return simt::shuffle("__shfl_down_sync", mask, value, source < end ? source : simt::lane(), site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 simt::Site site = simt::Site::here()) {
  simt::expect_width(width, site);
  const int source = simt::lane() - static_cast<int>(delta), first = simt::lane() & -width;
  return simt::shuffle("__shfl_up_sync", mask, value, source >= first ? source : simt::lane(), site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  const unsigned mine = predicate != 0 ? 1u << simt::lane() : 0;
  return simt::reduce<unsigned, simt::Or>("__ballot_sync", mask, mine, site);
}
inline int __any_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return __ballot_sync(mask, predicate, site) == mask;
}
inline int __reduce_add_sync(unsigned mask, int value, simt::Site site = simt::Site::here()) {
  return simt::reduce<int, simt::Add>("__reduce_add_sync", mask, value, site);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, simt::Site site = simt::Site::here()) {
  return simt::reduce<unsigned, simt::Add>("__reduce_add_sync", mask, value, site);
}
inline int __reduce_min_sync(unsigned mask, int value, simt::Site site = simt::Site::here()) {
  return simt::reduce<int, simt::Min>("__reduce_min_sync", mask, value, site);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, simt::Site site = simt::Site::here()) {
  return simt::reduce<unsigned, simt::Min>("__reduce_min_sync", mask, value, site);
}
inline int __reduce_max_sync(unsigned mask, int value, simt::Site site = simt::Site::here()) {
  return simt::reduce<int, simt::Max>("__reduce_max_sync", mask, value, site);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, simt::Site site = simt::Site::here()) {
  return simt::reduce<unsigned, simt::Max>("__reduce_max_sync", mask, value, site);
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
using std::max;
using std::min;
