// The best k of many scored items. A score and its item make one 64-bit key whose order is "higher score,
// then lower item", so keys are unique and every selection has one right answer.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Maps floats other than NaN to whole numbers of the same order.
inline uint32_t order_of(float score) {
  score += 0.0f;  // negative zero ties with zero
  uint32_t bits;
  __builtin_memcpy(&bits, &score, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float from_order(uint32_t order) {
  const uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
  float score;
  __builtin_memcpy(&score, &bits, 4);
  return score;
}

inline uint64_t key_of(float score, int64_t item) {
  return static_cast<uint64_t>(order_of(score)) << 32 | static_cast<uint32_t>(~item);
}

inline float score_of(uint64_t key) { return from_order(static_cast<uint32_t>(key >> 32)); }

inline int32_t item_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

inline void swap(uint64_t& a, uint64_t& b) {
  const uint64_t t = a;
  a = b;
  b = t;
}

inline void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t j = i;
    for (; j > 0 && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

inline void sift_down(uint64_t* heap, int64_t i, int64_t n) {
  for (int64_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1] < heap[child]) ++child;
    if (heap[i] <= heap[child]) return;
    swap(heap[i], heap[child]);
  }
}

// Descending. Taken where quicksort's pivots are bad.
inline void heap_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = n / 2; i-- > 0;) sift_down(keys, i, n);
  while (n-- > 1) {
    swap(keys[0], keys[n]);
    sift_down(keys, 0, n);
  }
}

// Hoare's: returns m in [1, n) such that no key of [0, m) is below one of [m, n). n >= 3.
inline int64_t partition(uint64_t* keys, int64_t n) {
  const uint64_t a = keys[0], b = keys[n / 2], c = keys[n - 1];
  const uint64_t low = a < b ? a : b, high = a < b ? b : a;
  const uint64_t pivot = c < low ? low : c > high ? high : c;  // the median
  for (int64_t i = -1, j = n;;) {
    do ++i;
    while (keys[i] > pivot);
    do --j;
    while (keys[j] < pivot);
    if (i >= j) return j + 1;
    swap(keys[i], keys[j]);
  }
}

constexpr int64_t kSmall = 16;

inline int pivots_allowed(int64_t n) { return 2 * (64 - __builtin_clzll(static_cast<uint64_t>(n | 1))); }

// Moves the k best of n keys to the front, the worst of them last; 1 <= k <= n.
inline void select_best(uint64_t* keys, int64_t n, int64_t k) {
  for (int pivots = pivots_allowed(n); n > kSmall; --pivots) {
    if (pivots == 0) return heap_sort(keys, n);
    const int64_t m = partition(keys, n);
    if (k <= m) {
      n = m;
    } else {
      keys += m;
      n -= m;
      k -= m;
    }
  }
  insertion_sort(keys, n);
}

inline void sort_descending(uint64_t* keys, int64_t n, int pivots) {
  for (; n > kSmall; --pivots) {
    if (pivots == 0) return heap_sort(keys, n);
    const int64_t m = partition(keys, n);
    sort_descending(keys + m, n - m, pivots - 1);
    n = m;
  }
  insertion_sort(keys, n);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
