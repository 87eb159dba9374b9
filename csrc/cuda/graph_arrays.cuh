// What the ops over the edges of a graph are called with: ids, rows, a CSR matrix, scratch; and the choice of
// how wide a row is read.
#pragma once
#include <type_traits>

#include "core/check.h"
#include "cuda/pack.cuh"
#include "cuda/ptx.h"

namespace chronorec::cuda {
namespace {

constexpr int kPart = 256;  // edges; see graph_rows.cuh

// int32 or int64 ids.
struct Ids {
  const void* data;
  bool wide;
  __device__ __forceinline__ int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

// Rows of an array, fewer than 2^31 and less than 2^31 bytes apart: an address is one multiplication. A lane
// that reads many rows from one column on keeps that column of the first row.
template <typename T>
struct Rows {
  T* data;
  int pitch;  // in bytes
  __device__ __forceinline__ T* at(int row, T* first) const {
    using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first) + wide_product(row, pitch));
  }
  __device__ __forceinline__ T* at(int row, int column) const { return at(row, data + column); }
};

struct Matrix {
  const int64_t* offsets;
  Ids neighbours;
  int64_t edges;
  int rows;
  int width;   // columns that are shared out among lanes
  int team;    // lanes that read a row: a power of two
  int* owned;  // [parts]: the long row that starts in a part, or -1
  __host__ __device__ int64_t parts() const { return (edges + kPart - 1) / kPart; }
};

template <typename T>
Rows<T> rows_of(const TensorView& view, const char* name) {
  const int64_t pitch = view.shape[0] > 1 ? view.stride[0] * static_cast<int64_t>(sizeof(T)) : 0;
  expect_that(view.shape[0] <= INT32_MAX && pitch == static_cast<int>(pitch), name,
              "fewer than 2^31 rows, less than 2^31 bytes apart", [&] { return shape_of(view); });
  return {view.as<T>(), static_cast<int>(pitch)};
}
// Of contiguous rows of so many columns.
template <typename T>
Rows<T> rows_of(T* data, int64_t columns) {
  return {data, static_cast<int>(columns * static_cast<int64_t>(sizeof(T)))};
}

inline Ids ids_of(const TensorView& view) { return {view.data, view.dtype == DType::i64}; }

inline Matrix matrix_of(const TensorView& offsets, const TensorView& neighbours, int64_t width,
                        int* owned = nullptr) {
  Matrix m{};
  m.offsets = offsets.as<const int64_t>();
  m.neighbours = ids_of(neighbours);
  m.rows = static_cast<int>(offsets.shape[0] - 1);
  m.edges = neighbours.shape[0];
  m.width = static_cast<int>(width);
  m.owned = owned;
  return m;
}

// Scratch: the owners of the parts, then two slots a part, each of so many floats.
struct Scratch {
  int* owned;
  float* partial;
};
inline int64_t owners_bytes(int64_t edges) { return ((edges + kPart - 1) / kPart * 4 + 63) / 64 * 64; }
inline int64_t scratch_bytes(int64_t edges, int64_t floats) {
  return owners_bytes(edges) + (edges + kPart - 1) / kPart * 2 * floats * 4;
}
inline Scratch scratch_of(char* data, int64_t edges) {
  return {reinterpret_cast<int*>(data), reinterpret_cast<float*>(data + owners_bytes(edges))};
}

// Whether rows, each of contiguous vectors of the last dimension, can be read 16 bytes at a time.
template <typename T>
bool has_wide_rows(const TensorView& view) {
  constexpr int64_t kWide = 16 / sizeof(T);
  return view.shape[view.ndim - 1] % kWide == 0 && view.stride[0] % kWide == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

// Calls run(T{}, columns to a lane) for the element type and the width of the accesses.
template <typename Run, typename... Views>
void with_types(Run&& run, const TensorView& first, const Views&... others) {
  const auto with = [&](auto element) {
    using T = decltype(element);
    if (has_wide_rows<T>(first) && (has_wide_rows<T>(others) && ...))
      run(element, std::integral_constant<int, 16 / sizeof(T)>{});
    else
      run(element, std::integral_constant<int, 1>{});
  };
  if (first.dtype == DType::bf16)
    with(bf16{});
  else
    with(float{});
}

}  // namespace
}  // namespace chronorec::cuda
