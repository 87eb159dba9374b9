// Whole-number helpers of plans, checks and kernels of every level; everything has internal linkage.
#pragma once
#include <stdint.h>

namespace chronorec {
namespace {

inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t clamp64(int64_t x, int64_t low, int64_t high) { return max64(low, min64(x, high)); }
inline int64_t ceil_div(int64_t n, int64_t step) { return (n + step - 1) / step; }
inline int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

// The first of the ascending [low, high) for which before(at) does not hold, or high.
template <typename Before>
inline int64_t first_not(int64_t low, int64_t high, Before&& before) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (before(middle))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace
}  // namespace chronorec
