// What the kernels of jagged attention share.
//
// Scores are kept transposed: [key][query], one row of kGroup queries per key. Then keys and values are the
// broadcast operand of every product, read where they lie, the softmax runs down a column without a
// horizontal reduction, and only the queries of a group are ever transposed.
#pragma once
#include "core/carve.h"
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/transpose.h"
#include "cpu/vec_math.h"
#include "ops.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kGroup = kAttentionQueries;
constexpr int kGroupPanels = kGroup / kPanel;
constexpr int64_t kKeyBlock = kAttentionKeys;  // per pass; a group's last pass takes the diagonal with it
constexpr int64_t kMaxKeys = kKeyBlock + kGroup;

template <typename T>
inline Rows<T> rows_of(const TensorView& view, int64_t first, int64_t head) {
  return {view.as<T>() + first * view.stride[0] + head * view.stride[1], view.stride[0]};
}

// What the scores are made of and become, for all kernels of a call.
struct Form {
  bool causal, silu;
  int64_t window;
  float scale, divisor;

  // The keys [begin, end) that a query sees, and the first query that sees a key.
  int64_t begin(int64_t query) const { return max64(0, query - window + 1); }
  int64_t end(int64_t query, int64_t length) const {
    return causal ? query + 1 : min64(length, query + window);
  }
  int64_t first_query(int64_t key) const { return causal ? key : max64(0, key - window + 1); }
  int64_t end_query(int64_t key, int64_t length) const { return min64(length, key + window); }
};

template <typename Args>
inline Form form_of(const Args& args) {
  constexpr int64_t kUnbounded = int64_t{1} << 40;
  return {args.causal, args.silu, min64(args.window, kUnbounded), static_cast<float>(args.scale),
          static_cast<float>(args.divisor)};
}

// Queries [first, first + count) of a sequence against its keys [key, key_end), count <= kGroup. Keys are
// counted from `key`: some query of a panel sees [begin, end), every one sees [all_begin, all_end).
struct Tile {
  int64_t first, count, key, key_end;
  int64_t begin[kGroupPanels], end[kGroupPanels], all_begin[kGroupPanels], all_end[kGroupPanels];

  Tile(const Form& form, int64_t length, int64_t first_query, int64_t queries, int64_t from, int64_t to)
      : first(first_query), count(queries), key(from), key_end(to) {
    for (int64_t p = 0; p < kGroupPanels; ++p) {
      const int64_t low = first + p * kPanel, high = low + kPanel - 1;
      begin[p] = within(form.begin(low), 0, keys());
      end[p] = within(form.end(high, length), begin[p], keys());
      all_begin[p] = within(form.begin(high), begin[p], end[p]);
      all_end[p] = within(form.end(low, length), all_begin[p], end[p]);
    }
  }
  int64_t keys() const { return key_end - key; }
  int64_t panels() const { return (count + kPanel - 1) / kPanel; }
  // Of the queries of a panel, those in lanes [0, lanes) are there.
  int64_t lanes(int64_t panel) const { return min64(kPanel, count - panel * kPanel); }

 private:
  int64_t within(int64_t at, int64_t low, int64_t high) const { return min64(max64(at - key, low), high); }
};

// Splits what is seen in a tile into rectangles: body(panel, panel_end, begin, end) means keys [begin, end)
// against the queries of panels [panel, panel_end).
template <typename Body>
inline void for_each_piece(const Tile& tile, Body&& body) {
  const int64_t panels = tile.panels();
  int64_t next;
  for (int64_t k = 0; k < tile.keys(); k = next) {
    int64_t panel = 0;
    next = tile.keys();
    for (int64_t p = 0; p < panels; ++p) {
      if (tile.begin[p] > k) next = min64(next, tile.begin[p]);
      if (tile.end[p] > k) next = min64(next, tile.end[p]);
    }
    while (panel < panels && tile.end[panel] <= k) ++panel;
    int64_t panel_end = panel;
    while (panel_end < panels && tile.begin[panel_end] <= k) ++panel_end;
    if (panel < panel_end) body(panel, panel_end, k, next);
  }
}

// body(k, hidden) for the keys of a panel that not all of its queries see; `hidden` says which lanes of
// vector v do not.
template <typename Body>
inline void for_each_partly_hidden(const Form& form, const Tile& tile, int64_t panel, int v, Body&& body) {
  const int64_t low = tile.first + panel * kPanel;
  const vf lanes = __builtin_convertvector(lane_numbers() + v * kLanes, vf);
  const auto each = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t key = tile.key + k, far = int64_t{1} << 20;
      const auto before = lanes < splat(static_cast<float>(form.first_query(key) - low));
      const auto after = lanes >= splat(static_cast<float>(min64(key + form.window - low, far)));
      body(k, before | after);
    }
  };
  each(tile.begin[panel], tile.all_begin[panel]);
  each(tile.all_end[panel], tile.end[panel]);
}

// The keys that a group of queries sees, in passes; body(tile). The borders between passes do not depend on
// the length of the sequence where the keys do not.
template <typename Body>
inline void for_each_tile(const Form& form, int64_t length, int64_t first, int64_t count, Body&& body) {
  const int64_t end = form.end(first + count - 1, length);
  const int64_t full_end = form.causal ? first + kGroup : end;
  for (int64_t key = form.begin(first); key < end;) {
    const int64_t next = full_end - key <= kMaxKeys ? end : key + kKeyBlock;
    body(Tile(form, length, first, count, key, next));
    key = next;
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
  for_each_piece(tile, [&](int64_t panel, int64_t panel_end, int64_t begin, int64_t end) {
    multiply({rows.data + begin * rows.step, rows.step, 1, packed + panel * width * kPanel, width * kPanel,
              kPanel, end - begin, (panel_end - panel) * kPanel, width},
             scores + begin * kGroup + panel * kPanel, kGroup, kPanel, false);
  });
}

// sums[query] += sum over keys of scores[key][query] rows[key], laid out as by pack_transposed.
inline void sum_rows(const Tile& tile, Rows<const float> rows, const float* scores, int64_t width,
                     float* sums) {
  for_each_piece(tile, [&](int64_t panel, int64_t panel_end, int64_t begin, int64_t end) {
    multiply({rows.data + begin * rows.step, 1, rows.step, scores + begin * kGroup + panel * kPanel, kPanel,
              kGroup, width, (panel_end - panel) * kPanel, end - begin},
             sums + panel * width * kPanel, kPanel, width * kPanel, true);
  });
}

inline void clear(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(x + i, splat(0));
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

inline bool all_finite(Rows<const float> rows, int64_t begin, int64_t end, int64_t width) {
  vf zeros = splat(0);  // zero unless something is not finite
  for (int64_t i = begin; i < end; ++i)
    for (int64_t d = 0; d < width; d += kLanes)
      zeros = fma(load_some(rows.data + i * rows.step + d, width - d), splat(0), zeros);
  return sum(zeros) == 0;
}

inline bool is_finite(float x) { return x - x == 0; }

// Where a key or value that not every query sees is not finite, turns `rows` to a copy in `clean` without
// what is not (or cleans them in place, if they lie there already), and says so.
inline bool leave_out_infinite_keys(const Tile& tile, Rows<const float>& rows, int64_t width, float* clean) {
  const int64_t seen = tile.all_begin[tile.panels() - 1], seen_end = max64(seen, tile.all_end[0]);
  if (all_finite(rows, 0, seen, width) && all_finite(rows, seen_end, tile.keys(), width)) return false;
  for (int64_t k = 0; k < tile.keys(); ++k)
    for (int64_t d = 0; d < width; ++d) {
      const float x = rows.data[k * rows.step + d];
      clean[k * width + d] = is_finite(x) ? x : 0;
    }
  rows = {clean, width};
  return true;
}

// Adds to sum_rows what leave_out_infinite_keys took out of `rows`.
template <typename T>
inline void add_infinite_keys(const Form& form, const Tile& tile, int64_t length, Rows<const T> rows,
                              const float* scores, int64_t width, float* sums) {
  for (int64_t k = 0; k < tile.keys(); ++k)
    for (int64_t d = 0; d < width; ++d) {
      const float x = to_float(rows.data[k * rows.step + d]);
      if (is_finite(x)) continue;
      const int64_t key = tile.key + k;
      const int64_t end = min64(tile.count, form.end_query(key, length) - tile.first);
      for (int64_t q = max64(form.first_query(key) - tile.first, 0); q < end; ++q)
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

// body(part, head_begin, head_end, thread): all heads of a part in one task, which they share what they read
// in, unless that would leave threads idle.
template <typename Body>
inline void for_each_task(int64_t parts, int64_t heads, Body&& body) {
  constexpr int64_t kTasksPerThread = 6;
  if (parts >= kTasksPerThread * num_threads() || heads <= 1)
    parallel_for(parts, [&](int64_t part, int thread) { body(part, int64_t{0}, heads, thread); });
  else
    parallel_for(parts * heads, [&](int64_t task, int thread) {
      body(task / heads, task % heads, task % heads + 1, thread);
    });
}

// Rows that a thread is to need next, asked for a few at a time while it computes: rows of one head lie
// apart, which the processor does not foresee.
struct Ahead {
  const char* rows[3];
  int64_t step[3], bytes, left;

  template <typename T>
  Ahead(Rows<const T> a, Rows<const T> b, Rows<const T> c, int64_t count, int64_t width)
      : rows{reinterpret_cast<const char*>(a.data), reinterpret_cast<const char*>(b.data),
             reinterpret_cast<const char*>(c.data)},
        step{a.step * size(a), b.step * size(b), c.step * size(c)},
        bytes(width * size(a)),
        left(count) {}

  void fetch(int64_t count) {
    for (; count > 0 && left > 0; --count, --left)
      for (int i = 0; i < 3; ++i) {
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows[i] + at, 0, 2);
        rows[i] += step[i];
      }
  }

 private:
  template <typename T>
  static int64_t size(Rows<const T>) {
    return sizeof(T);
  }
};

// The caller's scratch: the list of parts, gradients of bias tables, then one share per thread.
struct Scratch {
  Part* order;
  float* tables;
  char* shares;
  int64_t share;

  Carver of_thread(int thread) const { return Carver(shares + thread * share); }
};

inline Scratch divide_scratch(const TensorView& scratch, const TensorView& offsets, int64_t events,
                              int64_t table_size) {
  const int64_t sequences = offsets.shape[0] - 1;
  const int64_t listed = jagged_attention_order_bytes(sequences, events);
  const int64_t tables = jagged_attention_table_bytes(sequences, events, table_size);
  char* base = scratch.as<char>();
  return {reinterpret_cast<Part*>(base), reinterpret_cast<float*>(base + listed), base + listed + tables,
          (scratch.shape[0] - listed - tables) / num_threads() / 64 * 64};
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
