// The one matrix-product kernel: C[rows, cols] (+)= A[rows, depth] B[depth, cols], fp32 accumulation in the
// fixed order k = 0, 1, ... for every element, whatever the tile it falls into. So a row's result does not
// depend on how many rows come with it, and one request and a batch agree bitwise.
//
// B comes in panels of kPanel columns: packed (pack_panels: [cols/kPanel][depth][kPanel], zero padded) or in
// place (a row-major matrix: panel p starts kPanel columns further, step `ldb`; cols must then be readable in
// full panels or `cols` a multiple of kPanel). A has free strides, so A^T B needs no copy of A.
#pragma once
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int kPanel = 16;
constexpr int kPanelVecs = kPanel / kLanes;
// Register block: rows x panels. AVX-512: 8 x 3 panels = 24 accumulators of 32 registers.
constexpr int kTileRows = kLanes == 16 ? 8 : kRegisters == 32 ? 6 : kLanes == 8 ? 6 : 3;
constexpr int kTilePanels = kLanes == 16 ? 3 : 1;

// Packs element (k, j) = b[k * step_k + j * step_j] of a [depth, cols] matrix into zero-padded panels:
// packed[(j / kPanel) * depth * kPanel + k * kPanel + j % kPanel]. Size: round_up(cols, kPanel) * depth.
template <typename T>
inline void pack_panels(const T* b, int64_t step_k, int64_t step_j, int64_t depth, int64_t cols,
                        float* packed) {
  for (int64_t j0 = 0; j0 < cols; j0 += kPanel) {
    const int64_t n = min64(kPanel, cols - j0);
    for (int64_t k = 0; k < depth; ++k, packed += kPanel) {
      const T* row = b + k * step_k + j0 * step_j;
      for (int64_t j = 0; j < n; ++j) packed[j] = to_float(row[j * step_j]);
      for (int64_t j = n; j < kPanel; ++j) packed[j] = 0;
    }
  }
}

template <typename T>
struct Product {
  const T* a;  // element (i, k) at a[i * a_row + k * a_k]
  int64_t a_row, a_k;
  const float* b;  // element (k, 16 p + j) at b[p * b_panel + k * b_k + j]
  int64_t b_panel, b_k;
  int64_t rows, cols, depth;
};

template <typename T>
inline Product<T> product(const T* a, int64_t lda, const float* packed, int64_t rows, int64_t cols,
                          int64_t depth) {
  return {a, lda, 1, packed, depth * kPanel, kPanel, rows, cols, depth};
}

// One register tile. sink(row, col, value): `value` holds columns col .. col + kLanes of the row; columns at
// or past `cols` are padding.
template <int Rows, int Panels, typename T, typename Sink>
inline __attribute__((always_inline)) void gemm_tile(const Product<T>& p, int64_t row, int64_t panel,
                                                     Sink&& sink) {
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
    for (int v = 0; v < kVecs; ++v) sink(row + i, panel * kPanel + v * kLanes, acc[i][v]);
}

template <int Panels, int Rows, typename T, typename Sink>
inline void gemm_rows_left(const Product<T>& p, int64_t row, int64_t panel, Sink&& sink) {
  if constexpr (Rows > 0) {
    if (p.rows - row == Rows) return gemm_tile<Rows, Panels>(p, row, panel, sink);
    gemm_rows_left<Panels, Rows - 1>(p, row, panel, sink);
  }
}

template <int Panels, typename T, typename Sink>
inline void gemm_columns(const Product<T>& p, int64_t panel, Sink&& sink) {
  int64_t row = 0;
  for (; row + kTileRows <= p.rows; row += kTileRows) gemm_tile<kTileRows, Panels>(p, row, panel, sink);
  gemm_rows_left<Panels, kTileRows - 1>(p, row, panel, sink);
}

// The whole product on the calling thread; every element reaches the sink once, in vectors of kLanes columns.
template <typename T, typename Sink>
inline void gemm(const Product<T>& p, Sink&& sink) {
  const int64_t panels = (p.cols + kPanel - 1) / kPanel;
  int64_t panel = 0;
  for (; panel + kTilePanels <= panels; panel += kTilePanels) gemm_columns<kTilePanels>(p, panel, sink);
  for (; panel < panels; ++panel) gemm_columns<1>(p, panel, sink);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
