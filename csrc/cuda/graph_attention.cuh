// What both directions of graph attention share: the lanes of a head, partial results, checks.
//
// A head takes a power of two of lanes, or whole warps, so that lanes fold what belongs to their head by
// shuffles; lanes beyond a head's width stay idle. What depends on the edge and the head alone, such as the
// weight, every lane of the head makes for itself: that is less than moving it around.
#pragma once
#include "core/check.h"
#include "cuda/checks.h"
#include "cuda/graph_rows.cuh"

namespace chronorec::cuda {
namespace {

// A lane's place: kVec columns of a head from `offset` on. A lane that has none reads those from the head's
// start, for nobody.
struct Place {
  int head, offset;
  bool stores;  // there are such columns
  __device__ __forceinline__ bool leads() const { return offset == 0; }
};

struct Heads {
  int heads, width;
  int lanes;  // of one head: a power of two, or whole warps

  template <int kVec>
  __device__ __forceinline__ Place place(int column) const {
    const int each = lanes * kVec, head = column / each, offset = column - head * each;
    return {head, offset, offset < width};
  }
  __device__ __forceinline__ int column(const Place& place) const {
    return place.head * width + (place.stores ? place.offset : 0);
  }
  // Where the score of a row stands among those of all.
  __device__ __forceinline__ int64_t score(int64_t row, const Place& place) const {
    return row * heads + place.head;
  }
  // Adds the numbers of all lanes of a head; the whole warp comes here together.
  template <int kCount>
  __device__ __forceinline__ void add_up(float (&x)[kCount]) const {
    cuda::add_up(x, min(lanes, 32));
  }
};

inline Heads heads_of(int64_t heads, int64_t width, int vec) {
  const int64_t packs = (width + vec - 1) / vec;
  int lanes = 1;
  while (lanes < 32 && lanes < packs) lanes *= 2;
  if (packs > 32) lanes = static_cast<int>((packs + 31) / 32 * 32);
  return {static_cast<int>(heads), static_cast<int>(width), lanes};
}

__device__ __forceinline__ float leaky(float x, float slope) { return x > 0 ? x : x * slope; }

// Where no score is above -inf, nothing is subtracted and all terms are zero.
__device__ __forceinline__ float shift_of(float top) { return top > -INFINITY ? top : 0.f; }

// Partial results: of a slot the first float of each lane's state, then the second ones.
template <typename State, int kVec>
struct States {
  static constexpr int kFloats = sizeof(State) / sizeof(float);
  float* data;
  int lanes;  // of a row

  __device__ __forceinline__ float* at(int slot, int column) const {
    return data + static_cast<int64_t>(slot) * kFloats * lanes + column / kVec;
  }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    float x[kFloats];
    memcpy(x, &state, sizeof(State));
    float* to = at(slot, column);
#pragma unroll
    for (int i = 0; i < kFloats; ++i) to[i * lanes] = x[i];
  }
  __device__ __forceinline__ State get(int slot, int column) const {
    float x[kFloats];
    const float* from = at(slot, column);
#pragma unroll
    for (int i = 0; i < kFloats; ++i) x[i] = from[i * lanes];
    State state;
    memcpy(static_cast<void*>(&state), x, sizeof(State));
    return state;
  }
};

// Lanes per row of a head layout.
inline int lanes_of(const Heads& heads) { return heads.heads * heads.lanes; }

// Floats of a slot, whichever pack is chosen; a state has at most two floats besides its columns.
inline int64_t slot_floats(int64_t heads, int64_t width) {
  int64_t most = 0;
  for (const int vec : {1, 4, 8}) {
    const int64_t floats = static_cast<int64_t>(lanes_of(heads_of(heads, width, vec))) * (vec + 2);
    most = floats > most ? floats : most;
  }
  return most;
}

struct Sizes {
  int64_t neighbours, heads, width;
};

inline Sizes expect_inputs(const TensorView& features, const TensorView& source_score) {
  const DType dtype = features.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect_rows(features, "features", dtype, {kAnySize, kAnySize, kAnySize}, Device::cuda);
  const Sizes s = {features.shape[0], features.shape[1], features.shape[2]};
  expect_that(s.width > 0, "features", "a width of at least 1", "0");
  expect_packed(source_score, "source_score", DType::f32, {s.neighbours, s.heads}, Device::cuda);
  return s;
}

inline void expect_scores(const TensorView& view, const char* name, int64_t count, int64_t heads) {
  expect_packed(view, name, DType::f32, {count, heads}, Device::cuda);
}

}  // namespace
}  // namespace chronorec::cuda
