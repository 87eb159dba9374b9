// The matrix-product kernel on bf16: C[rows, cols] = A[rows, depth] B[depth, cols], exact products summed in
// fp32. It runs on AMX tiles where the process has them (core/cpu_isa.h), else on vdpbf16ps at the avx512
// level, else on fp32 multiply-adds of widened pairs. The order of the sum belongs to the machine, not to the
// shape: an element's result depends on its row, its column and the depth alone.
//
// B is packed by pack_pairs: panels of 16 columns, [cols / 16][depth / 2][16][2], zero padded, the depth up
// to a multiple of 32. A is row-major, in runs of 32 depths: element (i, k) stands at a[k / 32 * a_run + i *
// a_row + k % 32]; a_run is 32 for a plain matrix.
//
//   const MatrixUnit unit;  // one per task, on the stack: it holds the thread's tile registers
//   unit.multiply(pair_product(a, lda, packed, rows, cols, depth), [&](int64_t row, int64_t col, vf value) {
//     ...                   // columns col .. col + kLanes; columns at or past `cols` are padding
//   });
#pragma once
#include "core/cpu_isa.h"
#include "cpu/transpose.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#if __has_include(<amxtileintrin.h>)  // then the assembler knows the instructions too
#define CHRONOREC_AMX 1
#endif
#endif

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int kPairPanel = 16;  // columns of a panel, and rows of a tile
constexpr int kRun = 32;        // depths of one tile

inline int64_t packed_depth(int64_t depth) { return round_up(depth, kRun); }
inline int64_t packed_pairs(int64_t depth, int64_t cols) {  // bf16 elements
  return round_up(cols, kPairPanel) * packed_depth(depth);
}

inline void copy_bf16(float x, bf16* y) { from_float(x, y); }
inline void copy_bf16(bf16 x, bf16* y) { *y = x; }

// Packs element (k, j) = b[k * step_k + j * step_j] of a [depth, cols] matrix, rounding fp32 to bf16.
template <typename T>
inline void pack_pairs(const T* b, int64_t step_k, int64_t step_j, int64_t depth, int64_t cols,
                       bf16* packed) {
  for (int64_t j0 = 0; j0 < cols; j0 += kPairPanel) {
    const int64_t n = min64(kPairPanel, cols - j0);
    for (int64_t k = 0; k < packed_depth(depth); k += 2, packed += 2 * kPairPanel)
      for (int64_t j = 0; j < kPairPanel; ++j)
        for (int64_t half = 0; half < 2; ++half) {
          bf16 x = {0};
          if (j < n && k + half < depth) copy_bf16(b[(k + half) * step_k + (j0 + j) * step_j], &x);
          packed[2 * j + half] = x;
        }
  }
}

// The transpose of [count, depth] bf16 rows as runs [count / 32][padded][32], zeros beyond count; depth and
// step are even, and the rows hold `padded` elements.
inline void turn_pairs(const bf16* rows, int64_t step, int64_t count, int64_t padded, bf16* to) {
  for (int64_t j = 0; j < round_up(count, kRun); j += kLanes) {
    bf16* out = to + j / kRun * kRun * padded + j % kRun;
    for (int64_t d = 0; d < padded; d += 2 * kLanes) {
      vf m[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        m[i] = splat(0);
        if (j + i < count) __builtin_memcpy(&m[i], rows + (j + i) * step + d, sizeof m[i]);
      }
      transpose(m);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const vu both = reinterpret_cast<vu>(m[i]);
        const vh even = __builtin_convertvector(both & 0xffff, vh),
                 odd = __builtin_convertvector(both >> 16, vh);
        __builtin_memcpy(out + (d + 2 * i) * kRun, &even, sizeof even);
        __builtin_memcpy(out + (d + 2 * i + 1) * kRun, &odd, sizeof odd);
      }
    }
  }
}

struct PairProduct {
  const bf16* a;
  int64_t a_row, a_run;
  const bf16* b;
  int64_t b_panel;  // from one panel to the next
  int64_t rows, cols, depth;
  bool padded = false;  // A may be read in full tiles: rows up to a multiple of 16, and zeros in depths up to
                        // one of 32
};

inline PairProduct pair_product(const bf16* a, int64_t lda, const bf16* packed, int64_t rows, int64_t cols,
                                int64_t depth) {
  return {a, lda, kRun, packed, packed_depth(depth) * kPairPanel, rows, cols, depth};
}

// ---- without tiles ----------------------------------------------------------------------------------

// Register block as in gemm.h.
constexpr int kPairRows = kLanes == 16 ? 8 : kRegisters == 32 ? 6 : kLanes == 8 ? 5 : 2;
constexpr int kPairPanels = kLanes == 16 ? 3 : 1;

// The pair at p in every 32-bit lane; only the first of it where `count` is 1.
inline __attribute__((always_inline)) vu splat_pair(const bf16* p, int count) {
  uint32_t pair = 0;
  __builtin_memcpy(&pair, p, count * sizeof(bf16));
  return pair - vu{};
}

// acc + left[0] right[0] + left[1] right[1], of the pairs in the lanes.
inline vf dot_pairs(vu left, vu right, vf acc) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<vf>(_mm512_dpbf16_ps(
      reinterpret_cast<__m512>(acc), reinterpret_cast<__m512bh>(left), reinterpret_cast<__m512bh>(right)));
#else
  acc = fma(reinterpret_cast<vf>(left << 16), reinterpret_cast<vf>(right << 16), acc);
  return fma(reinterpret_cast<vf>(left & 0xffff0000u), reinterpret_cast<vf>(right & 0xffff0000u), acc);
#endif
}

// Adds `count` depths, one or two, to a register block.
template <int Rows, int Vecs>
inline __attribute__((always_inline)) void add_pair(const PairProduct& p, const bf16* a, const bf16* b,
                                                    int count, vf (*acc)[Vecs]) {
  constexpr int kPanelVecs = kPairPanel / kLanes;
  vu right[Vecs];
#pragma GCC unroll 16
  for (int v = 0; v < Vecs; ++v)
    __builtin_memcpy(&right[v], b + (v / kPanelVecs) * p.b_panel + (v % kPanelVecs) * 2 * kLanes, sizeof(vu));
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    const vu left = splat_pair(a + i * p.a_row, count);
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) acc[i][v] = dot_pairs(left, right[v], acc[i][v]);
  }
}

template <int Rows, int Panels, typename Sink>
inline __attribute__((always_inline)) void pair_tile(const PairProduct& p, int64_t row, int64_t panel,
                                                     Sink&& sink) {
  constexpr int kVecs = Panels * kPairPanel / kLanes;
  vf acc[Rows][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[i][v] = splat(0);
  const bf16 *a = p.a + row * p.a_row, *b = p.b + panel * p.b_panel;
  for (int64_t left = p.depth; left > 0; left -= kRun, a += p.a_run) {
    const int64_t run = min64(left, kRun);
    int64_t k = 0;
    for (; k + 2 <= run; k += 2, b += 2 * kPairPanel) add_pair<Rows>(p, a + k, b, 2, acc);
    if (k < run) add_pair<Rows>(p, a + k, b, 1, acc);
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) sink(row + i, panel * kPairPanel + v * kLanes, acc[i][v]);
}

// What is left of the rows in blocks of half the size, and so on: B is read once for each.
template <int Panels, int Rows, typename Sink>
inline void pair_rows(const PairProduct& p, int64_t row, int64_t panel, Sink&& sink) {
  for (; row + Rows <= p.rows; row += Rows) pair_tile<Rows, Panels>(p, row, panel, sink);
  if constexpr (Rows > 1) pair_rows<Panels, Rows / 2>(p, row, panel, sink);
}

template <typename Sink>
inline void multiply_pairs(const PairProduct& p, Sink&& sink) {
  const int64_t panels = (p.cols + kPairPanel - 1) / kPairPanel;
  int64_t panel = 0;
  if (kLanes == 16 && p.rows <= 2)  // many sums at once hide the latency
    for (; panel + 4 <= panels; panel += 4) pair_rows<4, 2>(p, 0, panel, sink);
  for (; panel + kPairPanels <= panels; panel += kPairPanels)
    pair_rows<kPairPanels, kPairRows>(p, 0, panel, sink);
  for (; panel < panels; ++panel) pair_rows<1, kPairRows>(p, 0, panel, sink);
}

// ---- on tiles ---------------------------------------------------------------------------------------
#if defined(CHRONOREC_AMX)

// Written as assembly: the compiler's intrinsics say nothing about the memory that they read.
template <int Tile>
inline __attribute__((always_inline)) void load_tile(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(row_bytes), "i"(Tile) : "memory");
}
template <int Tile>
inline __attribute__((always_inline)) void store_tile(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row_bytes), "i"(Tile) : "memory");
}
template <int Tile>
inline __attribute__((always_inline)) void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int C, int A, int B>
inline __attribute__((always_inline)) void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Rows [0, count) x depths [0, left) of A at `a`, zeros around them, as a plain block of 32 x kRun.
inline void copy_edge(const bf16* a, int64_t a_row, int64_t count, int64_t left, bf16* block) {
  const auto lanes = static_cast<__mmask32>(left >= kRun ? ~0u : (1u << left) - 1);
  for (int64_t i = 0; i < 2 * kPairPanel; ++i)
    _mm512_storeu_si512(block + i * kRun,
                        i < count ? _mm512_maskz_loadu_epi16(lanes, a + i * a_row) : _mm512_setzero_si512());
}

template <int I>
struct Index {
  static constexpr int value = I;
};

// f(Index<0>{}), ... f(Index<Count - 1>{})
template <int Count, typename F>
inline __attribute__((always_inline)) void unrolled(F&& f) {
  if constexpr (Count > 0) {
    unrolled<Count - 1>(f);
    f(Index<Count - 1>{});
  }
}

// RowTiles x Panels tiles of C, at most 2 x 2 or 1 x 4: tiles 0 to 3 hold C, 4 and 5 A, 6 and 7 B.
template <int RowTiles, int Panels, typename Sink>
inline __attribute__((always_inline)) void amx_block(const PairProduct& p, int64_t row, int64_t panel,
                                                     Sink&& sink) {
  alignas(64) bf16 edge[2 * kPairPanel * kRun];
  alignas(64) float result[RowTiles * Panels][kPairPanel][kPairPanel];
  const int64_t count = min64(RowTiles * kPairPanel, p.rows - row);
  unrolled<RowTiles * Panels>([](auto tile) { zero_tile<tile.value>(); });
  for (int64_t k = 0; k < p.depth; k += kRun) {
    const bf16* a = p.a + k / kRun * p.a_run + row * p.a_row;
    const bf16* b = p.b + panel * p.b_panel + k * kPairPanel;
    int64_t a_row = p.a_row;
    if (!p.padded && (count < RowTiles * kPairPanel || k + kRun > p.depth)) {
      copy_edge(a, a_row, count, p.depth - k, edge);
      a = edge, a_row = kRun;
    }
    unrolled<RowTiles>([&](auto i) { load_tile<4 + i.value>(a + i.value * kPairPanel * a_row, a_row * 2); });
    unrolled<Panels>([&](auto j) {
      constexpr int kRight = 6 + j.value % 2;
      load_tile<kRight>(b + j.value * p.b_panel, 4 * kPairPanel);
      multiply_tiles<j.value, 4, kRight>();
      if constexpr (RowTiles == 2) multiply_tiles<Panels + j.value, 5, kRight>();
    });
  }
  unrolled<RowTiles * Panels>([&](auto tile) { store_tile<tile.value>(result[tile.value], 4 * kPairPanel); });
  for (int64_t i = 0; i < count; ++i)
    for (int j = 0; j < Panels; ++j)
      sink(row + i, (panel + j) * kPairPanel, load(result[i / kPairPanel * Panels + j][i % kPairPanel]));
}

template <int Panels, typename Sink>
inline void amx_columns(const PairProduct& p, int64_t panel, Sink&& sink) {
  int64_t row = 0;
  for (; row + kPairPanel < p.rows; row += 2 * kPairPanel) amx_block<2, Panels>(p, row, panel, sink);
  if (row < p.rows) amx_block<1, Panels>(p, row, panel, sink);
}

template <typename Sink>
inline void multiply_on_tiles(const PairProduct& p, Sink&& sink) {
  const int64_t panels = (p.cols + kPairPanel - 1) / kPairPanel;
  int64_t panel = 0;
  if (p.rows <= kPairPanel)
    for (; panel + 3 <= panels; panel += 4)
      panel + 4 <= panels ? amx_block<1, 4>(p, 0, panel, sink) : amx_block<1, 3>(p, 0, panel, sink);
  for (; panel + 2 <= panels; panel += 2) amx_columns<2>(p, panel, sink);
  if (panel < panels) amx_columns<1>(p, panel, sink);
}
#endif

// What multiplies bf16 on the calling thread. Where that is AMX, tile registers are configured while it lives
// and given back at its end, so that the kernel need not save them: one per task, never two at once.
class MatrixUnit {
 public:
  MatrixUnit() {
#if defined(CHRONOREC_AMX)
    if (!tiles_) return;
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = kPairPanel;
    asm volatile("ldtilecfg %0" : : "m"(config));
#endif
  }
  ~MatrixUnit() {
#if defined(CHRONOREC_AMX)
    if (tiles_) asm volatile("tilerelease");
#endif
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

  // Every element reaches the sink once, in vectors of kLanes columns.
  template <typename Sink>
  void multiply(const PairProduct& p, Sink&& sink) const {
#if defined(CHRONOREC_AMX)
    if (tiles_) return multiply_on_tiles(p, sink);
#endif
    multiply_pairs(p, sink);
  }

 private:
#if defined(CHRONOREC_AMX)
  const bool tiles_ = use_amx();
#endif
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
