// The rows that a block runs, and how lanes reach their units: a warp has 16 units of 16 rows, a lane four
// neighbouring units of two rows.
#pragma once
#include "core/tensor_view.h"
#include "cuda/pack.cuh"

namespace chronorec::cuda {
namespace {

// Rows of any array with a unit to a column; null where an optional one is absent.
template <typename T>
struct Units {
  T* data;
  int64_t stride;
  bool wide;  // four columns can be moved at once
  __device__ __forceinline__ explicit operator bool() const { return data != nullptr; }
};

template <typename T>
Units<T> units_of(const TensorView& view) {
  const bool wide = view.shape[1] % 4 == 0 && view.stride[0] % 4 == 0 &&
                    reinterpret_cast<uintptr_t>(view.data) % (4 * sizeof(T)) == 0;
  return {view.as<T>(), view.stride[0], wide};
}

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T x[4];
};

// What lies behind the last of `count` columns is zero.
template <typename T>
__device__ __forceinline__ void load4(const Units<T>& from, int row, int column, int count, float (&x)[4]) {
  const T* at = from.data + int64_t{row} * from.stride + column;
  if (from.wide && count >= 4) {
    const auto four = *reinterpret_cast<const Four<std::remove_const_t<T>>*>(at);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = widen(four.x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = i < count ? widen(at[i]) : 0.f;
  }
}

template <typename T>
__device__ __forceinline__ void store4(const Units<T>& to, int row, int column, int count,
                                       const float (&x)[4]) {
  T* at = to.data + int64_t{row} * to.stride + column;
  Four<T> four;
#pragma unroll
  for (int i = 0; i < 4; ++i) narrow(x[i], four.x[i]);
  if (to.wide && count >= 4) {
    *reinterpret_cast<Four<T>*>(at) = four;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < count) at[i] = four.x[i];
  }
}

// One sequence; its events at steps 0, 1, ... are `first`, `first` + 1, ..., or - 1 in reverse.
struct alignas(16) Row {
  int first, length, sequence;
};

struct Sequences {
  const int64_t *offsets, *order;  // as in RecurrenceArgs
  int64_t count;
  bool reverse;

  // Behind the last a row of length 0 and no sequence.
  __device__ __forceinline__ Row row(int64_t index) const {
    if (index >= count) return {0, 0, -1};
    const int64_t sequence = order != nullptr ? order[index] : index;
    int64_t begin = sequence, end = sequence + 1;
    if (offsets != nullptr) begin = offsets[sequence], end = offsets[sequence + 1];
    return {static_cast<int>(reverse ? end - 1 : begin), static_cast<int>(end - begin),
            static_cast<int>(sequence)};
  }
  __device__ __forceinline__ int event(const Row& row, int step) const {
    return row.first + (reverse ? -step : step);
  }
};

// Four units of one row: what a lane works on.
struct Place {
  Row row;
  int in_tile;  // number of the row in its tile
  int unit, count;
};

}  // namespace
}  // namespace chronorec::cuda
