#include "cpu/jagged_attention.h"

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kQueriesPerTask = 4 * kGroup;
constexpr int64_t kStepPerTask = 1 << 16;  // keys times width of a sequence from which heads are tasks

struct Workspace {
  float *query, *sums, *scores, *key, *value;
  float top[kGroup], total[kGroup];  // per query: greatest score so far, sum of exp(score - top)

  Workspace(Arena arena, int64_t width) {
    const int64_t padded = round_up(width, kPanel);
    query = arena.floats(kGroup * padded);
    sums = arena.floats(kGroup * padded);
    scores = arena.floats(kGroup * kMaxKeys);
    key = arena.floats(kMaxKeys * padded);
    value = arena.floats(kMaxKeys * padded);
  }
};

// scores -> exp(scores - top) for one vector of queries; updates top and total, and gives the factor by which
// what was summed before shrinks.
vf soften(float* column, int64_t keys, bool first, float* top, float* total) {
  vf m[4];
  for (int u = 0; u < 4; ++u) m[u] = first ? load(column) : load(top);
  int64_t k = 0;
  for (; k + 4 <= keys; k += 4)
    for (int u = 0; u < 4; ++u) m[u] = max(m[u], load(column + (k + u) * kGroup));
  for (; k < keys; ++k) m[0] = max(m[0], load(column + k * kGroup));
  const vf peak = max(max(m[0], m[1]), max(m[2], m[3]));
  vf sum_of_block = splat(0);
  for (k = 0; k < keys; ++k) {
    const vf p = exp_of_negative(load(column + k * kGroup) - peak);
    store(column + k * kGroup, p);
    sum_of_block += p;
  }
  const vf factor = first ? splat(0) : exp_of_negative(load(top) - peak);
  store(total, first ? sum_of_block : fma(load(total), factor, sum_of_block));
  store(top, peak);
  return factor;
}

// Hides the keys after each query: lanes below the key's own in the panel's diagonal square.
void mask_diagonal(const Tile& tile, int64_t panel, float* scores) {
  const int64_t diagonal = tile.first + panel * kPanel;
  for (int64_t k = max64(diagonal, tile.key); k < tile.key + tile.visible(panel); ++k)
    for (int v = 0; v < kPanelVecs; ++v) {
      float* at = scores + (k - tile.key) * kGroup + panel * kPanel + v * kLanes;
      const vf hidden = splat(-__builtin_inff());
      store(at, lane_numbers(v) < splat(static_cast<float>(k - diagonal)) ? hidden : load(at));
    }
}

void soften_tile(const Tile& tile, bool first, int64_t width, Workspace& w) {
  for (int64_t panel = 0; panel < tile.panels(); ++panel) {
    mask_diagonal(tile, panel, w.scores);
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t at = panel * kPanel + v * kLanes;
      const vf factor = soften(w.scores + at, tile.visible(panel), first, w.top + at, w.total + at);
      if (first) continue;
      float* sums = w.sums + panel * width * kPanel + v * kLanes;
      for (int64_t d = 0; d < width; ++d) store(sums + d * kPanel, load(sums + d * kPanel) * factor);
    }
  }
}

template <typename T>
struct Head {
  Rows<const T> query, key, value;
  Rows<T> output;
  Rows<float> lse;
};

template <typename T>
void attend(const Head<T>& head, int64_t first, int64_t count, int64_t width, float scale, Workspace& w) {
  pack_transposed(from_row(head.query, first), count, width, scale, w.query);
  for_each_tile(first, count, 0, first + count, [&](const Tile& tile) {
    const int64_t keys = tile.key_end - tile.key;
    const auto key = widen(from_row(head.key, tile.key), keys, width, w.key);
    auto value = widen(from_row(head.value, tile.key), keys, width, w.value);
    const bool start = tile.key == 0;
    multiply_rows(tile, key, w.query, width, w.scores);
    soften_tile(tile, start, width, w);
    const bool infinite = leave_out_infinite_keys(tile, value, width, w.value);
    sum_rows(tile, value, w.scores, width, !start, w.sums);
    if (infinite) add_infinite_keys(tile, from_row(head.value, tile.key), w.scores, width, w.sums);
  });
  if (head.lse.data != nullptr)
    for (int64_t q = 0; q < count; ++q)
      head.lse.data[(first + q) * head.lse.step] = w.top[q] + __builtin_logf(w.total[q]);
  for (int64_t q = 0; q < count; ++q) w.total[q] = 1.0f / w.total[q];
  unpack_transposed(w.sums, count, width, w.total, from_row(head.output, first));
}

template <typename T>
void forward(const JaggedAttentionForwardArgs& args) {
  const int64_t heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const Scratch scratch = divide_scratch(args.scratch, args.offsets, args.query.shape[0]);
  const int64_t parts = order_parts(
      args.offsets, [](int64_t length) { return (length + kQueriesPerTask - 1) / kQueriesPerTask; },
      [](int64_t length, int64_t part) { return min64(length, (part + 1) * kQueriesPerTask); },
      scratch.order);
  parallel_for(parts * heads, [&](int64_t task, int thread) {
    const Part part = scratch.order[task / heads];
    const int64_t h = task % heads, begin = offsets[part.sequence];
    const int64_t length = offsets[part.sequence + 1] - begin;
    const Head<T> head = {rows_of<const T>(args.query, begin, h), rows_of<const T>(args.key, begin, h),
                          rows_of<const T>(args.value, begin, h), rows_of<T>(args.output, begin, h),
                          args.lse ? rows_of<float>(args.lse, begin, h) : Rows<float>{nullptr, 0}};
    Workspace workspace(scratch.of_thread(thread), width);
    const int64_t end = min64(length, (part.index + 1) * kQueriesPerTask);
    for (int64_t q = part.index * kQueriesPerTask; q < end; q += kGroup)
      attend(head, q, min64(kGroup, end - q), width, static_cast<float>(args.scale), workspace);
  });
}

// ---- step: one query per sequence and head. Keys and values are read once, where they lie, and there is
// nothing to tile; so sums run along the width and along the keys in another order than in `attend`.

// scores[k] = query . rows[k] for kLanes keys; the query is padded with zeros. Lanes past `count` repeat a
// key.
template <bool Full, typename T>
inline void score_block(const float* query, Rows<const T> rows, int64_t count, int64_t width, float* scores) {
  vf acc[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) acc[i] = splat(0);
  const auto add = [&](int64_t d, auto&& part) {
    const vf q = load(query + d);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      acc[i] = fma(part(rows.data + (Full ? i : min64(i, count - 1)) * rows.step + d), q, acc[i]);
  };
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) add(d, [](const T* p) { return load(p); });
  if (d < width) add(d, [&](const T* p) { return load_some(p, width - d); });
  store(scores, sums_of(acc));
}

template <typename T>
void score_keys(const float* query, Rows<const T> rows, int64_t keys, int64_t width, float* scores) {
  int64_t k = 0;
  for (; k + kLanes <= keys; k += kLanes)
    score_block<true, T>(query, from_row(rows, k), kLanes, width, scores + k);
  if (k < keys) score_block<false, T>(query, from_row(rows, k), keys - k, width, scores + k);
  for (int64_t i = keys; i < round_up(keys, kLanes); ++i) scores[i] = -__builtin_inff();
}

// Scores, in full vectors, -> exp(scores - top). Returns the new top.
float soften_keys(float* scores, int64_t keys, float top, float* sum_of_block) {
  vf peak = splat(top), total = splat(0);
  for (int64_t k = 0; k < keys; k += kLanes) peak = max(load(scores + k), peak);
  top = max_of(peak);
  for (int64_t k = 0; k < keys; k += kLanes) {
    const vf p = exp_of_negative(load(scores + k) - splat(top));
    store(scores + k, p);
    total += p;
  }
  *sum_of_block = sum(total);
  return top;
}

// sums += sum over keys of weights[k] rows[k], for `Vecs` vectors of the width; eight chains hide the
// latency.
template <int Vecs, typename T>
inline void add_values(const float* weights, Rows<const T> rows, int64_t keys, int64_t left, float* sums) {
  constexpr int kChains = 8 / Vecs;
  vf acc[kChains][Vecs];
#pragma GCC unroll 8
  for (int c = 0; c < kChains; ++c)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) acc[c][v] = splat(0);
  const auto add = [&](vf* into, int64_t k) {
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) {
      const T* at = rows.data + k * rows.step + v * kLanes;
      into[v] = fma(Vecs == 1 ? load_some(at, left) : load(at), splat(weights[k]), into[v]);
    }
  };
  int64_t k = 0;
  for (; k + kChains <= keys; k += kChains)
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) add(acc[c], k + c);
  for (; k < keys; ++k) add(acc[0], k);
#pragma GCC unroll 8
  for (int c = 1; c < kChains; ++c)
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) acc[0][v] += acc[c][v];
#pragma GCC unroll 8
  for (int v = 0; v < Vecs; ++v) store(sums + v * kLanes, load(sums + v * kLanes) + acc[0][v]);
}

template <typename T>
void add_all_values(const float* weights, Rows<const T> rows, int64_t keys, int64_t width, float* sums) {
  int64_t d = 0;
  const auto at = [&] { return Rows<const T>{rows.data + d, rows.step}; };
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) add_values<4, T>(weights, at(), keys, kLanes, sums + d);
  for (; d + 2 * kLanes <= width; d += 2 * kLanes) add_values<2, T>(weights, at(), keys, kLanes, sums + d);
  for (; d < width; d += kLanes) add_values<1, T>(weights, at(), keys, width - d, sums + d);
}

template <typename T>
void step_head(Rows<const T> query, Rows<const T> key, Rows<const T> value, int64_t length, int64_t width,
               float scale, Arena arena, T* output) {
  const int64_t padded = round_up(width, kPanel);
  float *scaled = arena.floats(padded), *sums = arena.floats(padded), *scores = arena.floats(kMaxKeys);
  for (int64_t d = 0; d < padded; d += kLanes) {
    const vf q = d < width ? load_some(query.data + d, width - d) : splat(0);
    store(scaled + d, q * splat(scale));
    store(sums + d, splat(0));
  }
  float top = -__builtin_inff(), total = 0;
  for (int64_t k = 0; k < length; k += kMaxKeys) {
    const int64_t keys = min64(kMaxKeys, length - k);
    score_keys(scaled, from_row(key, k), keys, width, scores);
    float sum_of_block;
    const float old = top;
    top = soften_keys(scores, keys, old, &sum_of_block);
    const vf factor = exp_of_negative(splat(old) - splat(top));
    total = total * factor[0] + sum_of_block;
    for (int64_t d = 0; k > 0 && d < width; d += kLanes) store(sums + d, load(sums + d) * factor);
    add_all_values(scores, from_row(value, k), keys, width, sums);
  }
  const float inverse = length == 0 ? 0 : 1.0f / total;
  for (int64_t d = 0; d < width; d += kLanes)
    store_some(output + d, load(sums + d) * splat(inverse), width - d);
}

template <typename T>
void step(const JaggedAttentionStepArgs& args) {
  const int64_t sequences = args.query.shape[0], heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const int64_t per_thread = args.scratch.shape[0] / num_threads() / 64 * 64;
  // Short caches are one task per sequence: waking a thread for one head costs more than the head.
  const bool by_head = args.key_cache.shape[0] * heads * width > sequences * kStepPerTask;
  const int64_t per_task = by_head ? 1 : heads;
  parallel_for(sequences * heads / max64(per_task, 1), [&](int64_t task, int thread) {
    const int64_t b = task * per_task / heads, begin = offsets[b], length = offsets[b + 1] - begin;
    for (int64_t h = task * per_task % heads, end = h + per_task; h < end; ++h)
      step_head(rows_of<const T>(args.query, b, h), rows_of<const T>(args.key_cache, begin, h),
                rows_of<const T>(args.value_cache, begin, h), length, width, static_cast<float>(args.scale),
                {args.scratch.as<char>() + thread * per_thread}, rows_of<T>(args.output, b, h).data);
  });
}

}  // namespace

void jagged_attention_forward(const JaggedAttentionForwardArgs& args) {
  if (args.query.dtype == DType::bf16)
    forward<bf16>(args);
  else
    forward<float>(args);
}

void jagged_attention_step(const JaggedAttentionStepArgs& args) {
  if (args.query.dtype == DType::bf16)
    step<bf16>(args);
  else
    step<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
