// The products of the recurrent kernels: C += A B, where C is a few panels wide, stands in the nearest cache
// and already holds what it is added to. The sum of an element runs over k = 0, 1, ... whatever comes with
// it.
#pragma once
#include "cpu/gemm.h"
#include "cpu/recurrent_tiles.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Rows of a register block this many panels wide; a level with fewer registers takes one panel at a time.
constexpr int block_rows(int panels) {
  return kLanes < 16 ? kTileRows : panels <= 3 ? 8 : panels == 4 ? 6 : 2;
}

// Where C stands: column c of a row, counted from the first of the panels, at Columns::at(c). What the
// product is added to stands at `from`: C itself, or a row (from_row 0) that all rows begin with.
template <typename Columns>
struct Target {
  float* data;
  int64_t row;  // from a row to the next one
  const float* from;
  int64_t from_row;

  Target(float* c, int64_t c_row) : data(c), row(c_row), from(c), from_row(c_row) {}
  Target(float* c, int64_t c_row, const float* first) : data(c), row(c_row), from(first), from_row(0) {}

  Target adding() const { return {data, row}; }
  void add(int64_t i, int64_t column, vf value) const {
    const int64_t at = Columns::at(column);
    store(data + i * row + at, load(from + i * from_row + at) + value);
  }
  Target<struct Adjacent> columns_from(int64_t column) const;
};

struct Adjacent {
  static constexpr int64_t at(int64_t column) { return column; }
};

template <typename Columns>
inline Target<Adjacent> Target<Columns>::columns_from(int64_t column) const {
  Target<Adjacent> part(data + Columns::at(column), row);
  part.from = from + Columns::at(column);
  part.from_row = from_row;
  return part;
}

// The two kinds of product. Strides known to the compiler become offsets in the instructions: arithmetic on
// addresses would take the ports of the products.
struct RowsTimesPanels {  // rows of A times packed panels
  static constexpr int64_t a_k = 1, b_k = kPanel;
  const float* a;
  int64_t a_row;
  const float* b;
  int64_t b_panel, rows, depth;
};

inline RowsTimesPanels times_panels(const float* a, int64_t a_row, const float* packed, int64_t rows,
                                    int64_t depth) {
  return {a, a_row, packed, depth * kPanel, rows, depth};
}

template <int64_t Width>
struct OuterProducts {  // sum over k of column k of A^T times row k of B [depth, Width]
  static constexpr int64_t a_row = 1, b_k = Width, b_panel = kPanel;
  const float* a;
  int64_t a_k;
  const float* b;
  int64_t rows, depth;
};

template <int Rows, int Panels, typename P, typename Columns>
inline __attribute__((always_inline)) void add_tile(const P& p, int64_t row, int64_t panel,
                                                    Target<Columns> c) {
  constexpr int kVecs = Panels * kPanelVecs, kUnroll = Rows * kVecs >= 16 ? 4 : 1;
  vf acc[Rows][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[i][v] = splat(0);
  const int64_t a_row = p.a_row, b_panel = p.b_panel;
  auto a = p.a + row * a_row;
  auto b = p.b + panel * b_panel;
  const auto add_one = [&](int64_t k) __attribute__((always_inline)) {
    vf right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v)
      right[v] = load(b + k * P::b_k + (v / kPanelVecs) * b_panel + (v % kPanelVecs) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const vf left = splat(a[i * a_row + k * p.a_k]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[i][v] = fma(left, right[v], acc[i][v]);
    }
  };
  const auto advance = [&](int64_t k) __attribute__((always_inline)) { a += k * p.a_k, b += k * P::b_k; };
  int64_t k = 0;
  for (; k + kUnroll <= p.depth; k += kUnroll) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) add_one(u);
    advance(kUnroll);
  }
  for (; k < p.depth; ++k) add_one(0), advance(1);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) c.add(row + i, v * kLanes, acc[i][v]);
}

template <int Panels, int Rows, typename P, typename Columns>
inline void add_some_rows(const P& p, int64_t row, int64_t count, int64_t panel, Target<Columns> c) {
  if constexpr (Rows > 0) {
    if (count == Rows) return add_tile<Rows, Panels>(p, row, panel, c);
    add_some_rows<Panels, Rows - 1>(p, row, count, panel, c);
  }
}

// All rows, cut evenly: a block of one row costs as much as one of four.
template <int Panels, typename P, typename Columns>
inline void add_rows(const P& p, int64_t panel, Target<Columns> c) {
  constexpr int kRows = block_rows(Panels);
  int64_t row = 0;
  for (int64_t blocks = (p.rows + kRows - 1) / kRows; blocks > 0; --blocks) {
    const int64_t count = (p.rows - row + blocks - 1) / blocks;
    add_some_rows<Panels, kRows>(p, row, count, panel, c);
    row += count;
  }
}

// Panels [panel, panel + Panels) of the product.
template <int Panels, typename P, typename Columns>
inline void add_panels(const P& whole, int64_t panel, Target<Columns> c) {
  P p = whole;
  int64_t k = 0;
  do {
    p.depth = min64(kDepthSlice, whole.depth - k);
    if constexpr (kLanes == 16) {
      add_rows<Panels>(p, panel, c);
    } else {
      for (int part = 0; part < Panels; ++part) add_rows<1>(p, panel + part, c.columns_from(part * kPanel));
    }
    c = c.adding();
    k += kDepthSlice;
    p.a += kDepthSlice * p.a_k;
    p.b += kDepthSlice * P::b_k;
  } while (k < whole.depth);
}

// The whole product, into C[rows, panels * 16] with rows c_row apart.
template <typename P>
inline void add_product(const P& p, int64_t panels, float* c, int64_t c_row) {
  int64_t panel = 0;
  for (; panel + 3 <= panels; panel += 3)
    add_panels<3>(p, panel, Target<Adjacent>{c + panel * kPanel, c_row});
  if (panels - panel == 2) add_panels<2>(p, panel, Target<Adjacent>{c + panel * kPanel, c_row});
  if (panels - panel == 1) add_panels<1>(p, panel, Target<Adjacent>{c + panel * kPanel, c_row});
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
