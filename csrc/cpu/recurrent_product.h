// The products of the recurrent kernels: C += A B, where C is a few panels wide, stands in the nearest cache
// and already holds what it is added to. The sum of an element runs over k = 0, 1, ... whatever comes with
// it.
#pragma once
#include "cpu/gemm.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Depth of the panels that stay in the nearest cache while all rows pass; bounds the rounding error too.
constexpr int64_t kDepthSlice = 64;

// Rows of a register block this many panels wide; a level with fewer registers takes one panel at a time.
constexpr int block_rows(int panels) {
  return kLanes < 16 ? kTileRows : panels <= 3 ? 8 : panels == 4 ? 6 : 2;
}

// at(row, column) is where the element of C stands; column counts from the first of the panels.
template <int Rows, int Panels, typename T, typename At>
inline __attribute__((always_inline)) void add_tile(const Product<T>& p, int64_t row, int64_t panel,
                                                    At&& at) {
  constexpr int kVecs = Panels * kPanelVecs;
  vf acc[Rows][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[i][v] = splat(0);
  const T* a = p.a + row * p.a_row;
  const float* b = p.b + panel * p.b_panel;
  for (int64_t k = 0; k < p.depth; ++k, a += p.a_k, b += p.b_k) {
    vf right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v)
      right[v] = load(b + (v / kPanelVecs) * p.b_panel + (v % kPanelVecs) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const vf left = splat(to_float(a[i * p.a_row]));
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[i][v] = fma(left, right[v], acc[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      float* sum = at(row + i, v * kLanes);
      store(sum, load(sum) + acc[i][v]);
    }
}

template <int Panels, int Rows, typename T, typename At>
inline void add_some_rows(const Product<T>& p, int64_t row, int64_t count, int64_t panel, At&& at) {
  if constexpr (Rows > 0) {
    if (count == Rows) return add_tile<Rows, Panels>(p, row, panel, at);
    add_some_rows<Panels, Rows - 1>(p, row, count, panel, at);
  }
}

// All rows, cut evenly: a block of one row costs as much as one of four.
template <int Panels, typename T, typename At>
inline void add_rows(const Product<T>& p, int64_t panel, At&& at) {
  constexpr int kRows = block_rows(Panels);
  int64_t row = 0;
  for (int64_t blocks = (p.rows + kRows - 1) / kRows; blocks > 0; --blocks) {
    const int64_t count = (p.rows - row + blocks - 1) / blocks;
    add_some_rows<Panels, kRows>(p, row, count, panel, at);
    row += count;
  }
}

// Panels [panel, panel + Panels) of the product.
template <int Panels, int64_t Slice = kDepthSlice, typename T, typename At>
inline void add_panels(const Product<T>& whole, int64_t panel, At&& at) {
  Product<T> p = whole;
  for (int64_t k = 0; k < whole.depth; k += Slice, p.a += Slice * p.a_k, p.b += Slice * p.b_k) {
    p.depth = min64(Slice, whole.depth - k);
    if constexpr (kLanes == 16) {
      add_rows<Panels>(p, panel, at);
    } else {
      for (int part = 0; part < Panels; ++part)
        add_rows<1>(p, panel + part,
                    [&](int64_t row, int64_t column) { return at(row, part * kPanel + column); });
    }
  }
}

// The whole product, into C[rows, panels * 16] with rows c_row apart.
template <typename T>
inline void add_product(const Product<T>& p, float* c, int64_t c_row) {
  const int64_t panels = (p.cols + kPanel - 1) / kPanel;
  const auto from = [&](int64_t panel) {
    return [=](int64_t row, int64_t column) { return c + row * c_row + panel * kPanel + column; };
  };
  int64_t panel = 0;
  for (; panel + 3 <= panels; panel += 3) add_panels<3>(p, panel, from(panel));
  if (panels - panel == 2) add_panels<2>(p, panel, from(panel));
  if (panels - panel == 1) add_panels<1>(p, panel, from(panel));
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
