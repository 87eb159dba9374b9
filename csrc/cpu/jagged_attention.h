// What the kernels of jagged attention share.
//
// Scores are kept transposed: [key][query], one row of kGroup queries per key. Then keys and values are the
// broadcast operand of every product, read where they lie, the softmax runs down a column without a
// horizontal reduction, and only the queries of a group are ever transposed.
#pragma once
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/transpose.h"
#include "cpu/vec_math.h"
#include "ops.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kGroup = kAttentionQueries;  // three panels
constexpr int64_t kKeyBlock = kAttentionKeys;  // per pass; a group's last pass takes the diagonal with it
constexpr int64_t kMaxKeys = kKeyBlock + kGroup;

template <typename T>
inline Rows<T> rows_of(const TensorView& view, int64_t first, int64_t head) {
  return {view.as<T>() + first * view.stride[0] + head * view.stride[1], view.stride[0]};
}

// Queries [first, first + count) of a sequence against its keys [key, key_end), count <= kGroup.
struct Tile {
  int64_t first, count, key, key_end;

  int64_t panels() const { return (count + kPanel - 1) / kPanel; }
  // One past the last key that any query of the panel sees, counted from `key`.
  int64_t visible(int64_t panel) const { return min64(key_end, first + (panel + 1) * kPanel) - key; }
};

// Splits the causal half of a tile into rectangles: body(panel, begin, end) means keys [begin, end), counted
// from tile.key, against the queries of `panel` and of all later panels.
template <typename Body>
inline void for_each_piece(const Tile& tile, Body&& body) {
  int64_t begin = 0;
  for (int64_t panel = 0; panel < tile.panels(); ++panel) {
    const int64_t end = tile.visible(panel);
    if (begin < end) body(panel, begin, end);
    begin = max64(begin, end);
  }
}

// The keys of a group in passes whose borders do not depend on the length of the sequence.
template <typename Body>
inline void for_each_tile(int64_t first, int64_t count, int64_t key, int64_t key_end, Body&& body) {
  while (key < key_end) {
    const int64_t end = first - key <= kKeyBlock ? key_end : min64(key_end, key + kKeyBlock);
    body(Tile{first, count, key, end});
    key = end;
  }
}

template <int Panels>
inline void multiply_columns(const Product<float>& p, int64_t panel, float* out, int64_t row_step,
                             int64_t panel_step, bool accumulate) {
  gemm_columns<Panels>(p, panel, [&](int64_t row, int64_t col, vf value) {
    float* at = out + row * row_step + col / kPanel * panel_step + col % kPanel;
    store(at, accumulate ? load(at) + value : value);
  });
}

// out (+)= the product; element (i, 16 p + j) at out[i * row_step + p * panel_step + j], in full panels.
inline __attribute__((noinline)) void multiply(const Product<float>& p, float* out, int64_t row_step,
                                               int64_t panel_step, bool accumulate) {
  const int64_t panels = (p.cols + kPanel - 1) / kPanel;
  int64_t panel = 0;
  if constexpr (kTilePanels == 3) {
    for (; panels - panel >= 5 || panels - panel == 3; panel += 3)
      multiply_columns<3>(p, panel, out, row_step, panel_step, accumulate);
    for (; panels - panel >= 2; panel += 2)
      multiply_columns<2>(p, panel, out, row_step, panel_step, accumulate);
  }
  for (; panel < panels; ++panel) multiply_columns<1>(p, panel, out, row_step, panel_step, accumulate);
}

// scores[key][query] = rows[key] . packed[query]; `packed` by pack_transposed.
inline void multiply_rows(const Tile& tile, Rows<const float> rows, const float* packed, int64_t width,
                          float* scores) {
  for_each_piece(tile, [&](int64_t panel, int64_t begin, int64_t end) {
    multiply({rows.data + begin * rows.step, rows.step, 1, packed + panel * width * kPanel, width * kPanel,
              kPanel, end - begin, (tile.panels() - panel) * kPanel, width},
             scores + begin * kGroup + panel * kPanel, kGroup, kPanel, false);
  });
}

// sums[query] (+)= sum over keys of scores[key][query] rows[key], laid out as by pack_transposed.
inline void sum_rows(const Tile& tile, Rows<const float> rows, const float* scores, int64_t width,
                     bool accumulate, float* sums) {
  for_each_piece(tile, [&](int64_t panel, int64_t begin, int64_t end) {
    multiply({rows.data + begin * rows.step, 1, rows.step, scores + begin * kGroup + panel * kPanel, kPanel,
              kGroup, width, (tile.panels() - panel) * kPanel, end - begin},
             sums + panel * width * kPanel, kPanel, width * kPanel, accumulate || begin > 0);
  });
}

// exp of x <= 0 (or a rounding above it): exactly 0 below -87.3, NaN stays NaN. Half the cost of exp.
inline vf exp_of_negative(vf x) {
  const vf shifted = fma(x, splat(1.44269504088896341f), splat(12582912.0f));
  const vf n = shifted - splat(12582912.0f);
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  const vu power = (reinterpret_cast<vu>(shifted) << 23) + (127u << 23);  // may wrap below -87.3
  return x < splat(-87.33654f) ? splat(0) : p * reinterpret_cast<vf>(power);
}

// Lanes of a panel's vector v, counted within the panel.
inline vf lane_numbers(int v) {
  constexpr float kNumbers[kPanel] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kNumbers + v * kLanes);
}

// packed[q / 16][d][q % 16] = scale * rows[q][d], zero beyond `count` in the last panel.
template <typename T>
inline void pack_transposed(Rows<const T> rows, int64_t count, int64_t width, float scale, float* packed) {
  for (int64_t q = 0; q < round_up(count, kPanel); q += kLanes)
    for (int64_t d = 0; d < width; d += kLanes) {
      vf m[kLanes];
      load_transposed<T>({rows.data + q * rows.step + d, rows.step}, count - q, width - d, m);
      float* out = packed + (q / kPanel * width + d) * kPanel + q % kPanel;
    // past the width this reaches into the next panel, written later, or into the end of the buffer
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + i * kPanel, m[i] * splat(scale));
    }
}

// rows[q][d] = packed[q / 16][d][q % 16] * factor[q]. `packed` is readable up to round_up(width, 16) per
// panel.
template <typename T>
inline void unpack_transposed(const float* packed, int64_t count, int64_t width, const float* factor,
                              Rows<T> rows) {
  for (int64_t q = 0; q < count; q += kLanes)
    for (int64_t d = 0; d < width; d += kLanes) {
      vf m[kLanes];
      const float* in = packed + (q / kPanel * width + d) * kPanel + q % kPanel;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) m[i] = load(in + i * kPanel) * load(factor + q);
      transpose(m);
      T* out = rows.data + q * rows.step + d;
      if (count - q >= kLanes && width - d >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(out + i * rows.step, m[i]);
      } else {
        for (int64_t i = 0; i < min64(kLanes, count - q); ++i)
          store_some(out + i * rows.step, m[i], width - d);
      }
    }
}

// fp32 rows are used where they lie; bf16 rows are widened into `wide`.
inline Rows<const float> widen(Rows<const float> rows, int64_t, int64_t, float*) { return rows; }
inline Rows<const float> widen(Rows<const bf16> rows, int64_t count, int64_t width, float* wide) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < width; d += kLanes)
      store_some(wide + i * width + d, load_some(rows.data + i * rows.step + d, width - d), width - d);
  return {wide, width};
}

// ---- what is not finite: a hidden pair has the weight zero, and zero times infinity is NaN. So infinities
// and NaN are left out of the products that hold hidden pairs, and added for the pairs that are not.

inline bool all_finite(const float* x, int64_t count) {
  vf zeros = splat(0);
  for (int64_t i = 0; i < count; i += kLanes) zeros += load_some(x + i, count - i) * splat(0);
  return sum(zeros) == 0;
}

inline bool is_finite(float x) { return x - x == 0; }

// Where a key or value of the tile's diagonal is not finite, turns `rows` to a copy in `clean` without it (or
// cleans them in place, if they lie there already), and says so.
inline bool leave_out_infinite_keys(const Tile& tile, Rows<const float>& rows, int64_t width, float* clean) {
  const int64_t keys = tile.key_end - tile.key, diagonal = max64(tile.first - tile.key, 0);
  bool finite = true;
  for (int64_t k = diagonal; k < keys; ++k) finite &= all_finite(rows.data + k * rows.step, width);
  if (finite) return false;
  for (int64_t k = 0; k < keys; ++k)
    for (int64_t d = 0; d < width; ++d) {
      const float x = rows.data[k * rows.step + d];
      clean[k * width + d] = k < diagonal || is_finite(x) ? x : 0;
    }
  rows = {clean, width};
  return true;
}

// Adds to sum_rows what leave_out_infinite_keys took out of `rows`.
template <typename T>
inline void add_infinite_keys(const Tile& tile, Rows<const T> rows, const float* scores, int64_t width,
                              float* sums) {
  for (int64_t k = max64(tile.first - tile.key, 0); k < tile.key_end - tile.key; ++k)
    for (int64_t d = 0; d < width; ++d) {
      const float x = to_float(rows.data[k * rows.step + d]);
      if (is_finite(x)) continue;
      for (int64_t q = tile.key + k - tile.first; q < tile.count; ++q)
        sums[(q / kPanel * width + d) * kPanel + q % kPanel] += x * scores[k * kGroup + q];
    }
}

// ---- tasks -------------------------------------------------------------------------------------------
struct Part {
  int32_t sequence, index;
};

// Lists the parts of all sequences, most expensive first (to a quarter of a power of two), and returns how
// many. parts(length) gives the number of parts of a sequence, cost(length, part) >= 1 the work of one.
template <typename Parts, typename Cost>
inline int64_t order_parts(const TensorView& offsets, Parts&& parts, Cost&& cost, Part* order) {
  const int64_t sequences = offsets.shape[0] - 1;
  const int64_t* at = offsets.as<int64_t>();
  int64_t begin[256] = {};
  const auto rank = [&](int64_t length, int64_t part) {
    const uint64_t work = static_cast<uint64_t>(cost(length, part)) << 2;
    const int log = 63 - __builtin_clzll(work);
    return 255 - (4 * log + static_cast<int>(work >> (log - 2) & 3));
  };
  const auto each = [&](auto&& body) {
    for (int64_t b = 0; b < sequences; ++b) {
      const int64_t length = at[b + 1] - at[b], count = parts(length);
      for (int64_t part = 0; part < count; ++part) body(b, part, rank(length, part));
    }
  };
  each([&](int64_t, int64_t, int r) { ++begin[r]; });
  int64_t total = 0;
  for (int r = 0; r < 256; ++r) {
    const int64_t count = begin[r];
    begin[r] = total;
    total += count;
  }
  each([&](int64_t b, int64_t part, int r) {
    order[begin[r]++] = {static_cast<int32_t>(b), static_cast<int32_t>(part)};
  });
  return total;
}

// Hands out consecutive pieces of scratch, each aligned to 64 bytes.
struct Arena {
  char* next;

  float* floats(int64_t count) {
    float* at = reinterpret_cast<float*>(next);
    next += round_up(count * 4, 64);
    return at;
  }
};

// The caller's scratch: the list of parts, then one share per thread.
struct Scratch {
  Part* order;
  char* shares;
  int64_t share;

  Arena of_thread(int thread) const { return {shares + thread * share}; }
};

inline Scratch divide_scratch(const TensorView& scratch, const TensorView& offsets, int64_t events) {
  const int64_t listed = jagged_attention_order_bytes(offsets.shape[0] - 1, events);
  char* base = scratch.as<char>();
  return {reinterpret_cast<Part*>(base), base + listed,
          (scratch.shape[0] - listed) / num_threads() / 64 * 64};
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
