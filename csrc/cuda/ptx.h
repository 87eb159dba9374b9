// Instructions that the compiler does not choose by itself, and what they are as host C++.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

namespace chronorec::cuda {
namespace {

// a * b in one instruction. The compiler hoists the widening of a factor out of a loop and is then left with
// a product of 64 bits, which takes three.
__device__ __forceinline__ int64_t wide_product(int a, int b) {
#ifdef __CUDACC__
  int64_t product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return static_cast<int64_t>(a) * b;
#endif
}

}  // namespace
}  // namespace chronorec::cuda
