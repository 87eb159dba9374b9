// What item_topk keeps of one query in one split of the items: by exact scores, or by what a score is at
// least and at most.
#pragma once
#include "cpu/item_codes.h"
#include "cpu/select.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Bit i says whether lane i of `lanes` is set.
inline uint32_t mask_of(vi lanes) {
#if defined(__AVX__) && !defined(__AVX512F__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps256(reinterpret_cast<vf>(lanes)));
#elif defined(__SSE__) && !defined(__AVX512F__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps(reinterpret_cast<vf>(lanes)));
#else
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(lanes[i] & 1) << i;
  return mask;
#endif
}

#if defined(__AVX512F__)
// Comparisons quiet on NaN, which exceeds nothing and is below nothing. 30: greater, 21: not less.
inline uint32_t mask_greater(vf a, vf b) { return __builtin_ia32_cmpps512_mask(a, b, 30, 0xffff, 4); }
inline uint32_t mask_not_below(vf a, vf b) { return __builtin_ia32_cmpps512_mask(a, b, 21, 0xffff, 4); }
#else
inline uint32_t mask_greater(vf a, vf b) { return mask_of(a > b); }
inline uint32_t mask_not_below(vf a, vf b) { return mask_of(~(a < b)); }
#endif

// The candidates of one query in one split: everything above the k-th best seen at the last pruning. Items
// come ascending, so a later item that only equals the k-th best has lost its tie.
struct Candidates {
  uint64_t* keys;
  int64_t filled;
  float threshold;
  uint32_t* floor;  // order_of the highest k-th best that any split of the query has seen; 0 at first
};

// Items below another split's k-th best cannot win; those that equal it may, by their number. How early a
// split learns of it changes what it collects, never what is best of all.
inline void raise_threshold(Candidates& c) {
  const uint32_t floor = __atomic_load_n(c.floor, __ATOMIC_RELAXED);
  // two steps down: one step below zero is negative zero, which zero does not exceed
  if (floor > order_of(c.threshold) + 1) c.threshold = from_order(floor - 2);
}

inline void raise_floor(uint32_t* at, uint32_t reached) {
  uint32_t floor = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (floor < reached &&
         !__atomic_compare_exchange_n(at, &floor, reached, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

inline void prune(Candidates& c, int64_t k) {
  if (c.filled < k) return;
  select_best(c.keys, c.filled, k);
  c.filled = k;
  c.threshold = score_of(c.keys[k - 1]);
  raise_floor(c.floor, order_of(c.threshold));
}

inline void collect(Candidates& c, const float* scores, int64_t first, int64_t count, int64_t k,
                    int64_t capacity) {
  raise_threshold(c);
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t mask = mask_greater(load(scores + i), splat(c.threshold));
    if (__builtin_expect(mask == 0, 1)) continue;
    for (; mask != 0; mask &= mask - 1) {
      const int64_t at = i + __builtin_ctz(mask);
      c.keys[c.filled++] = key_of(scores[at], first + at);
    }
    if (c.filled + kLanes > capacity) prune(c, k);
  }
}

// Where scores are known within bounds: every item that may be at or above the k-th best of what scores are
// at least. That k-th best is the threshold of `lowest`, and no item that only equals it is left out.
struct Bounded {
  Candidates lowest;
  uint64_t* keys;  // what the scores are at most
  int64_t filled;
  int64_t lower_capacity, capacity;
  bool overflow;  // too many to tell apart: the split has to be scored exactly
};

// Leaves out whatever is below the threshold by now.
inline void sift(Bounded& b, int64_t k) {
  prune(b.lowest, k);
  const uint32_t least = order_of(b.lowest.threshold);
  int64_t kept = 0;
  for (int64_t i = 0; i < b.filled; ++i)
    if (b.keys[i] >> 32 >= least) b.keys[kept++] = b.keys[i];
  b.filled = kept;
  b.overflow = kept > b.capacity / 2;
}

inline void add_bounded(Bounded& b, int64_t item, float lowest, float highest, int64_t k) {
  if (highest < b.lowest.threshold || b.overflow) return;
  if (lowest >= b.lowest.threshold) {
    b.lowest.keys[b.lowest.filled++] = key_of(lowest, item);
    if (b.lowest.filled == b.lower_capacity) prune(b.lowest, k);
  }
  // a score without an upper bound may be anything
  b.keys[b.filled++] = key_of(highest == highest ? highest : __builtin_inff(), item);
  if (b.filled == b.capacity) sift(b, k);
}

// The items of one vector of a tile whose bit in `mask` is set; kept out of the loop that finds none.
__attribute__((noinline)) inline void add_lanes(Bounded& b, const CodedQuery& q, const TileFacts& facts,
                                                int64_t i, vf product, vf bias, int64_t first, uint32_t mask,
                                                int64_t k) {
  const vf bound = bound_of(q, facts, i), lowest = product - bound + bias, highest = product + bound + bias;
  for (; mask != 0; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    add_bounded(b, first + i + lane, lowest[lane], highest[lane], k);
  }
}

// A whole tile of approximate products; adjusted items come first, one by one.
inline void collect_bounded(Bounded& b, const ItemScores& s, const CodedQuery& query_codes,
                            const TileFacts& facts, int64_t query, int64_t first, int64_t count,
                            float* products, int64_t* cursor, int64_t k) {
  const CodedQuery q = query_codes;
  const uint32_t floor = __atomic_load_n(b.lowest.floor, __ATOMIC_RELAXED);
  if (floor > order_of(b.lowest.threshold)) b.lowest.threshold = from_order(floor);
  for_each_adjustment(s, query, first, first + count, cursor, [&](int64_t item, int64_t at) {
    const int64_t i = item - first;
    if (s.adjust_values != nullptr && (s.allow == nullptr || s.allowed(query)[item])) {
      const float bound = bound_of(q, facts, i / kLanes * kLanes)[i % kLanes];
      const float bias = s.bias == nullptr ? 0 : s.bias[item];
      add_bounded(b, item, adjust(s, products[i] - bound + bias, at),
                  adjust(s, products[i] + bound + bias, at), k);
    }
    products[i] = kTakenOut;
  });
  apply_mask(s, query, first, count, products);
  const float* biases = s.bias == nullptr ? nullptr : s.bias + first;
  vf threshold = splat(b.lowest.threshold), bias = splat(0);
  for (int64_t i = 0; i < count; i += kLanes) {
    const vf product = load(products + i);
    if (biases != nullptr) bias = load_some(biases + i, count - i);
    uint32_t mask = mask_not_below(product + bound_of(q, facts, i) + bias, threshold);
    if (count - i < kLanes) mask &= (1u << (count - i)) - 1;
    if (__builtin_expect(mask == 0, 1)) continue;
    add_lanes(b, q, facts, i, product, bias, first, mask, k);
    if (b.overflow) return;
    threshold = splat(b.lowest.threshold);
  }
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
