// What both directions of graph attention share: scores of a block of edges, head by head.
//
// The scores of an edge stand side by side at a pitch that is a power of two and at most a vector, so that in
// every vector of scores the lane tells the head. More heads than lanes are taken in groups.
#pragma once
#include "cpu/graph_rows.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kBlock = 64;  // edges whose scores are made together
constexpr int64_t kBlockScores = (kBlock + 1) * kLanes;

struct HeadGroup {
  int64_t first, heads, pitch;
};

// body(group) for all heads, kLanes at a time.
template <typename Body>
inline void for_each_group(int64_t heads, Body&& body) {
  for (int64_t first = 0; first < heads; first += kLanes) {
    const int64_t count = min64(kLanes, heads - first);
    int64_t pitch = 1;
    while (pitch < count) pitch *= 2;
    body(HeadGroup{first, count, pitch});
  }
}

// The head, within its group, of every column of a group.
inline const vi* make_head_table(int64_t width, float* scratch) {
  int32_t* table = reinterpret_cast<int32_t*>(scratch);
  for (int64_t head = 0; head <= 16; ++head)
    for (int64_t d = 0; d < width && head * width + d < 16 * (width + 1); ++d)
      table[head * width + d] = static_cast<int32_t>(head < kLanes ? head : 0);
  return reinterpret_cast<const vi*>(table);
}

inline vf pick(vf v, vi lanes) { return shuffle(v, v, lanes); }

// v in the first n lanes, `other` in the rest.
inline vf keep_first(vf v, int64_t n, vf other) {
  return n >= kLanes ? v : lane_numbers() < splat_int(static_cast<int32_t>(n)) ? v : other;
}

// One value per head, repeated over the lanes.
inline vf spread(const float* p, const HeadGroup& group) {
  const vf v = group.heads < kLanes ? load_some(p, group.heads) : load(p);
  return pick(v, lane_numbers() & splat_int(static_cast<int32_t>(group.pitch - 1)));
}

// Folds the lanes of each head; every lane gets its head's result.
inline vf fold_sum(vf v, int64_t pitch) {
  for (int64_t w = kLanes / 2; w >= pitch; w /= 2)
    v += pick(v, lane_numbers() ^ splat_int(static_cast<int32_t>(w)));
  return v;
}
inline vf fold_max(vf v, int64_t pitch) {
  for (int64_t w = kLanes / 2; w >= pitch; w /= 2)
    v = max(v, pick(v, lane_numbers() ^ splat_int(static_cast<int32_t>(w))));
  return v;
}

inline vf leaky(vf x, float slope) { return x > splat(0) ? x : x * splat(slope); }

// copy(edge, scores): moves the scores of one edge, `Heads` of them if that is not 0, else group.heads.
template <int Heads>
inline void copy_scores(const float* from, int64_t heads, float* to) {
  if constexpr (Heads > 0)
    __builtin_memcpy(to, from, Heads * sizeof(float));
  else
    for (int64_t a = 0; a < heads; ++a) to[a] = from[a];
}

// body(heads): with the number of heads as a constant where a group has as many as its pitch.
template <int N>
struct Heads {
  static constexpr int value = N;
};
template <typename Body>
inline __attribute__((always_inline)) void with_heads(const HeadGroup& group, Body&& body) {
  if (group.heads != group.pitch) return body(Heads<0>{});
  switch (group.pitch) {
    case 1:
      return body(Heads<1>{});
    case 2:
      return body(Heads<2>{});
    case 4:
      return body(Heads<4>{});
    case 8:
      return body(Heads<8>{});
    default:
      return body(Heads<16>{});
  }
}

// out[i] = row ids[i] of a table whose rows, of `step` floats, begin with the group's values.
template <typename Id>
inline void gather_scores(const float* table, int64_t step, const Id* ids, int64_t count,
                          const HeadGroup& group, float* out) {
  with_heads(group, [&](auto heads) {
    constexpr int kHeads = decltype(heads)::value;
    for (int64_t i = 0; i < count; ++i)
      copy_scores<kHeads>(table + static_cast<int64_t>(ids[i]) * step, group.heads, out + i * group.pitch);
  });
}

// Adds the scores of the edges `places`, or of those from `first` on where that is null.
template <typename Id>
inline void add_edge_scores(const float* table, int64_t step, const Id* places, int64_t first, int64_t count,
                            const HeadGroup& group, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t edge = places == nullptr ? first + i : static_cast<int64_t>(places[i]);
    for (int64_t a = 0; a < group.heads; ++a) out[i * group.pitch + a] += table[edge * step + a];
  }
}

// Asks for the rows ahead of their use.
template <typename T, typename Id>
inline void prefetch_rows(Rows<const T> x, int64_t width, const Id* ids, int64_t count) {
  const int64_t bytes = min64(width * static_cast<int64_t>(sizeof(T)), 512);
  for (int64_t i = 0; i < count; ++i) {
    const char* row = reinterpret_cast<const char*>(x.data + static_cast<int64_t>(ids[i]) * x.step);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
  }
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
