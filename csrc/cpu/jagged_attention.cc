#include "cpu/jagged_attention.h"

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kQueriesPerTask = 4 * kGroup;

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

// ---- step: the last query of a sequence alone, in the very order of `attend`, so that both agree bitwise
// ----

// scores[k] = scale query . rows[k]
template <typename T>
void score_keys(const float* query, Rows<const T> rows, int64_t keys, int64_t width, float* scores) {
  for (int64_t k = 0; k < keys; k += kLanes) {
    vf acc = splat(0);
    for (int64_t d = 0; d < width; d += kLanes) {
      vf m[kLanes];
      load_transposed<T>({rows.data + k * rows.step + d, rows.step}, keys - k, width - d, m);
      for (int64_t i = 0; i < min64(kLanes, width - d); ++i) acc = fma(m[i], splat(query[d + i]), acc);
    }
    store(scores + k, acc);
  }
}

// Scores -> exp(scores - top); the sum in the order of the keys. Returns the new top.
float soften_keys(float* scores, int64_t keys, float top, float* sum_of_block) {
  for (int64_t k = 0; k < keys; ++k) top = scores[k] > top ? scores[k] : top;
  for (int64_t k = 0; k < keys; k += kLanes)
    store(scores + k, exp_of_negative(load(scores + k) - splat(top)));
  float total = 0;
  for (int64_t k = 0; k < keys; ++k) total += scores[k];
  *sum_of_block = total;
  return top;
}

template <typename T>
void add_values(const float* weights, Rows<const T> rows, int64_t begin, int64_t end, int64_t width,
                bool accumulate, float* sums) {
  for (int64_t d = 0; d < width; d += kLanes) {
    vf acc = splat(0);
    for (int64_t k = begin; k < end; ++k)
      acc = fma(load_some(rows.data + k * rows.step + d, width - d), splat(weights[k]), acc);
    store(sums + d, accumulate ? load(sums + d) + acc : acc);
  }
}

template <typename T>
void step_head(Rows<const T> query, Rows<const T> key, Rows<const T> value, int64_t length, int64_t width,
               float scale, Arena arena, T* output) {
  const int64_t padded = round_up(width, kPanel);
  float *scaled = arena.floats(padded), *sums = arena.floats(padded), *scores = arena.floats(kMaxKeys);
  for (int64_t d = 0; d < width; ++d) scaled[d] = to_float(query.data[d]) * scale;
  for (int64_t d = 0; d < padded; ++d) sums[d] = 0;
  const int64_t first = max64(length - 1, 0) / kGroup * kGroup;
  float top = 0, total = 0;
  for_each_tile(first, length - first, 0, length, [&](const Tile& tile) {
    const bool start = tile.key == 0;
    const int64_t keys = tile.key_end - tile.key;
    score_keys(scaled, from_row(key, tile.key), keys, width, scores);
    float sum_of_block, old = top;
    top = soften_keys(scores, keys, start ? scores[0] : top, &sum_of_block);
    const vf factor = start ? splat(0) : exp_of_negative(splat(old) - splat(top));
    total = start ? sum_of_block : fma(splat(total), factor, splat(sum_of_block))[0];
    for (int64_t d = 0; !start && d < width; d += kLanes) store(sums + d, load(sums + d) * factor);
    for_each_piece(tile, [&](int64_t, int64_t begin, int64_t end) {
      add_values(scores, from_row(value, tile.key), begin, end, width, !start || begin > 0, sums);
    });
  });
  const float inverse = length == 0 ? 0 : 1.0f / total;
  for (int64_t d = 0; d < width; d += kLanes)
    store_some(output + d, load(sums + d) * splat(inverse), width - d);
}

template <typename T>
void step(const JaggedAttentionStepArgs& args) {
  const int64_t heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const int64_t per_thread = args.scratch.shape[0] / num_threads() / 64 * 64;
  parallel_for(args.query.shape[0], [&](int64_t b, int thread) {
    const int64_t begin = offsets[b], length = offsets[b + 1] - begin;
    for (int64_t h = 0; h < heads; ++h)
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
