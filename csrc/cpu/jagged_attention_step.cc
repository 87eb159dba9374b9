#include "cpu/attention_bias.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// One query per sequence and head. Keys and values are read once, where they lie, and there is nothing to
// tile; so sums run along the width and along the keys in another order than in jagged_attention_forward.

constexpr int64_t kStepPerTask = 1 << 16;  // keys times width of a sequence from which heads are tasks

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

// Scores, in full vectors, -> e^(scores - top). Returns the new top.
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

void apply_silu(float* scores, int64_t keys) {
  for (int64_t k = 0; k < keys; k += kLanes) store(scores + k, load(scores + k) * sigmoid(load(scores + k)));
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
struct Head {
  Rows<const T> query, key, value;
  T* output;
};

template <typename T>
void step_head(const Form& form, const Head<T>& head, int64_t length, int64_t width, const Bias& bias,
               Carver carver) {
  const int64_t padded = round_up(width, kPanel);
  float *scaled = carver.take<float>(padded), *sums = carver.take<float>(padded),
        *scores = carver.take<float>(kMaxKeys);
  for (int64_t d = 0; d < padded; d += kLanes) {
    const vf q = d < width ? load_some(head.query.data + d, width - d) : splat(0);
    store(scaled + d, q * splat(form.scale));
    store(sums + d, splat(0));
  }
  float top = -__builtin_inff(), total = 0;
  for (int64_t k = form.begin(length - 1); k < length; k += kMaxKeys) {
    const int64_t keys = min64(kMaxKeys, length - k);
    score_keys(scaled, from_row(head.key, k), keys, width, scores);
    if (bias.any()) bias.add_row(length - 1, k, keys, scores);
    if (form.silu) {
      apply_silu(scores, keys);
    } else {
      float sum_of_block;
      const float old = top;
      top = soften_keys(scores, keys, old, &sum_of_block);
      const vf factor = exp_of_negative(splat(old) - splat(top));
      total = total * factor[0] + sum_of_block;
      if (old != -__builtin_inff())
        for (int64_t d = 0; d < padded; d += kLanes) store(sums + d, load(sums + d) * factor);
    }
    add_all_values(scores, from_row(head.value, k), keys, width, sums);
  }
  const float divisor = length == 0 ? 1 : form.silu ? form.divisor : total;
  for (int64_t d = 0; d < width; d += kLanes)
    store_some(head.output + d, load(sums + d) * splat(1 / divisor), width - d);
}

template <typename T>
void step(const JaggedAttentionStepArgs& args) {
  const Form form = form_of(args);
  const int64_t sequences = args.query.shape[0], heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const int64_t per_thread = args.scratch.shape[0] / num_threads() / 64 * 64;
  // Short caches are one task per sequence: waking a thread for one head costs more than the head.
  const bool by_head = args.key_cache.shape[0] * heads * width > sequences * kStepPerTask;
  const int64_t per_task = by_head ? 1 : heads;
  const bool biased = args.position || args.time_table || args.distance_table;
  parallel_for(sequences * heads / max64(per_task, 1), [&](int64_t task, int thread) {
    const int64_t b = task * per_task / heads, begin = offsets[b], length = offsets[b + 1] - begin;
    Carver carver(args.scratch.as<char>() + thread * per_thread);
    Bias bias(args, form, begin, biased ? BiasWorkspace(carver) : BiasWorkspace());
    for (int64_t h = task * per_task % heads, end = h + per_task; h < end; ++h) {
      bias.start_head(h);
      step_head<T>(form,
                   {rows_of<const T>(args.query, b, h), rows_of<const T>(args.key_cache, begin, h),
                    rows_of<const T>(args.value_cache, begin, h), rows_of<T>(args.output, b, h).data},
                   length, width, bias, carver);
    }
  });
}

}  // namespace

void jagged_attention_step(const JaggedAttentionStepArgs& args) {
  if (args.query.dtype == DType::bf16)
    step<bf16>(args);
  else
    step<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
