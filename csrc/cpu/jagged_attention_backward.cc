#include "cpu/jagged_attention.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Queries [query, query_end) and keys [key, key_end) of a sequence, and which gradients they give. A sequence
// is one job where that leaves no thread idle; else it is cut twice, by keys for grad_key and grad_value and
// by queries for grad_query, which computes the scores twice. Either way every gradient has one owner and one
// order of summation, the same in both forms.
struct Job {
  int64_t query, query_end, key, key_end;
  bool of_query, of_keys;
};

struct Cut {
  double shared_work;  // of the whole call, per thread

  bool whole(int64_t length) const {
    if (length <= kAttentionShort) return true;
    return length <= kAttentionWhole &&
           static_cast<double>(length) * static_cast<double>(length) <= shared_work;
  }
  static int64_t slices(int64_t length) { return (length + kAttentionPart - 1) / kAttentionPart; }
  int64_t jobs(int64_t length) const { return length == 0 ? 0 : whole(length) ? 1 : 2 * slices(length); }

  Job job(int64_t length, int64_t part) const {
    if (whole(length)) return {0, length, 0, length, true, true};
    const int64_t begin = part / 2 * kAttentionPart, end = min64(length, begin + kAttentionPart);
    if (part % 2 == 0) return {begin, length, begin, end, false, true};
    return {begin, end, 0, end, true, false};
  }
  // Products of one query with one key, roughly.
  int64_t work(int64_t length, int64_t part) const {
    const Job j = job(length, part);
    return (j.query_end - j.query) * (j.key_end - j.key);
  }
};

// A sequence that has at most half of a thread's share of the work is not worth cutting.
Cut cut_of(const TensorView& offsets, int64_t heads) {
  const int64_t* at = offsets.as<int64_t>();
  double work = 0;
  for (int64_t b = 0; b + 1 < offsets.shape[0]; ++b) {
    const double length = static_cast<double>(at[b + 1] - at[b]);
    work += length * length;
  }
  return {work * static_cast<double>(heads) / (2.0 * num_threads())};
}

struct Workspace {
  float *query, *grad, *grad_query;  // transposed: see pack_transposed
  float *query_rows, *grad_rows;     // see pack_rows
  float *weights, *grad_scores;      // [key][query]
  float *key, *value;                // bf16 rows, widened
  float *grad_key, *grad_value;      // [key][round_up(width, 16)], sums of the job
  float lse[kGroup], delta[kGroup], scale[kGroup];

  Workspace(Arena arena, int64_t width) {
    const int64_t padded = round_up(width, kPanel);
    query = arena.floats(kGroup * padded), grad = arena.floats(kGroup * padded);
    grad_query = arena.floats(kGroup * padded);
    query_rows = arena.floats(kGroup * padded), grad_rows = arena.floats(kGroup * padded);
    weights = arena.floats(kMaxKeys * kGroup), grad_scores = arena.floats(kMaxKeys * kGroup);
    key = arena.floats(kMaxKeys * padded), value = arena.floats(kMaxKeys * padded);
    grad_key = arena.floats(kAttentionWhole * padded), grad_value = arena.floats(kAttentionWhole * padded);
  }
};

template <typename T>
struct Head {
  Rows<const T> query, key, value, output, grad_output;
  Rows<const float> lse;
  Rows<T> grad_query, grad_key, grad_value;
};

// packed[d / 16][q][d % 16] = scale * rows[q][d], zero beyond the width.
template <typename T>
void pack_rows(Rows<const T> rows, int64_t count, int64_t width, float scale, float* packed) {
  for (int64_t q = 0; q < count; ++q)
    for (int64_t d = 0; d < round_up(width, kPanel); d += kLanes) {
      const vf row = d < width ? load_some(rows.data + q * rows.step + d, width - d) : splat(0);
      store(packed + (d / kPanel * kGroup + q) * kPanel + d % kPanel, row * splat(scale));
    }
}

// delta[q] = a[q] . b[q], both as by pack_transposed.
void dot_packed(const float* a, const float* b, int64_t count, int64_t width, float* delta) {
  for (int64_t q = 0; q < count; q += kLanes) {
    const int64_t at = q / kPanel * width * kPanel + q % kPanel;
    vf acc = splat(0);
    for (int64_t d = 0; d < width; ++d) acc = fma(load(a + at + d * kPanel), load(b + at + d * kPanel), acc);
    store(delta + q, acc);
  }
}

// Scores and grad_output . value become weights and the gradients of the scores. Where the tile holds all
// keys of its queries (`whole`), the weights are normalised anew and delta comes from them: few keys cancel
// almost fully, and the roundings of lse and of grad_output . output would not.
void differentiate_scores(const Tile& tile, bool whole, Workspace& w) {
  for (int64_t panel = 0; panel < tile.panels(); ++panel)
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t at = panel * kPanel + v * kLanes;
      const vf lse = load(w.lse + at), lanes = lane_numbers(v);
      float *weights = w.weights + at, *grads = w.grad_scores + at;
      const int64_t diagonal = tile.first + panel * kPanel - tile.key, visible = tile.visible(panel);
      vf total = splat(0), weighted = splat(0);
      for (int64_t k = 0; k < visible; ++k) {
        vf p = exp_of_negative(load(weights + k * kGroup) - lse);
        vf grad = load(grads + k * kGroup);
        if (k > diagonal) {
          const auto hidden = lanes < splat(static_cast<float>(k - diagonal));
          p = hidden ? splat(0) : p;
          grad = hidden ? splat(0) : grad;
          store(grads + k * kGroup, grad);
        }
        store(weights + k * kGroup, p);
        total += p;
        weighted = fma(p, grad, weighted);
      }
      const vf factor = whole ? splat(1) / total : splat(1);
      const vf delta = whole ? weighted * factor : load(w.delta + at);
      for (int64_t k = 0; k < visible; ++k) {
        vf p = load(weights + k * kGroup) * factor;
        vf grad = p * (load(grads + k * kGroup) - delta);
        if (k > diagonal) {  // again: factor and delta may be infinite
          const auto hidden = lanes < splat(static_cast<float>(k - diagonal));
          p = hidden ? splat(0) : p;
          grad = hidden ? splat(0) : grad;
        }
        store(weights + k * kGroup, p);
        store(grads + k * kGroup, grad);
      }
    }
}

// sums[key] += sum over queries of scores[key][query] packed[query]; `packed` by pack_rows.
void add_keys(const Tile& tile, const float* scores, const float* packed, int64_t width, float* sums) {
  const int64_t padded = round_up(width, kPanel);
  for_each_piece(tile, [&](int64_t panel, int64_t begin, int64_t end) {
    const int64_t query = panel * kPanel;
    multiply({scores + begin * kGroup + query, kGroup, 1, packed + query * kPanel, kGroup * kPanel, kPanel,
              end - begin, padded, tile.count - query},
             sums + begin * padded, padded, kPanel, true);
  });
}

// Takes what is not finite out of rows packed by pack_rows, and says whether there was any.
bool leave_out_infinite_queries(int64_t count, int64_t width, float* packed) {
  const int64_t padded = round_up(width, kPanel);
  bool finite = true;
  for (int64_t d = 0; d < padded; d += kPanel) finite &= all_finite(packed + d * kGroup, count * kPanel);
  if (finite) return false;
  for (int64_t i = 0; i < kGroup * padded; ++i) packed[i] = is_finite(packed[i]) ? packed[i] : 0;
  return true;
}

// Adds to add_keys what leave_out_infinite_queries took out of `rows`, the group's own.
template <typename T>
void add_infinite_queries(const Tile& tile, Rows<const T> rows, float scale, const float* scores,
                          int64_t width, float* sums) {
  const int64_t padded = round_up(width, kPanel);
  for (int64_t q = 0; q < tile.count; ++q)
    for (int64_t d = 0; d < width; ++d) {
      const float x = to_float(rows.data[q * rows.step + d]) * scale;
      if (is_finite(x)) continue;
      const int64_t visible = min64(tile.key_end, tile.first + q + 1) - tile.key;
      for (int64_t k = 0; k < visible; ++k) sums[k * padded + d] += x * scores[k * kGroup + q];
    }
}

template <typename T>
void load_group(const Head<T>& head, int64_t first, int64_t count, int64_t width, float scale, Workspace& w) {
  const auto query = from_row(head.query, first), grad = from_row(head.grad_output, first);
  pack_transposed(query, count, width, scale, w.query);
  pack_transposed(grad, count, width, 1, w.grad);
  pack_rows(query, count, width, scale, w.query_rows);
  pack_rows(grad, count, width, 1, w.grad_rows);
  for (int64_t q = 0; q < kGroup; ++q) w.delta[q] = w.lse[q] = 0;
  for (int64_t q = 0; q < kGroup; ++q) w.scale[q] = scale;
  float* output = w.grad_query;  // free until the first sum
  pack_transposed(from_row(head.output, first), count, width, 1, output);
  dot_packed(w.grad, output, count, width, w.delta);
  for (int64_t q = 0; q < count; ++q) w.lse[q] = head.lse.data[(first + q) * head.lse.step];
}

template <typename T>
void run_group(const Head<T>& head, const Job& job, int64_t first, int64_t count, int64_t width, float scale,
               Workspace& w) {
  load_group(head, first, count, width, scale, w);
  const int64_t padded = round_up(width, kPanel);
  const auto query = from_row(head.query, first), grad = from_row(head.grad_output, first);
  const bool infinite_query = leave_out_infinite_queries(count, width, w.query_rows);
  const bool infinite_grad = leave_out_infinite_queries(count, width, w.grad_rows);
  for_each_tile(first, count, job.key, min64(job.key_end, first + count), [&](const Tile& tile) {
    const int64_t keys = tile.key_end - tile.key;
    auto key = widen(from_row(head.key, tile.key), keys, width, w.key);
    const auto value = widen(from_row(head.value, tile.key), keys, width, w.value);
    multiply_rows(tile, key, w.query, width, w.weights);
    multiply_rows(tile, value, w.grad, width, w.grad_scores);
    differentiate_scores(tile, tile.key == 0 && tile.key_end == first + count, w);
    if (job.of_query) {
      const bool infinite = leave_out_infinite_keys(tile, key, width, w.key);
      sum_rows(tile, key, w.grad_scores, width, tile.key > 0, w.grad_query);
      if (infinite) add_infinite_keys(tile, from_row(head.key, tile.key), w.grad_scores, width, w.grad_query);
    }
    if (!job.of_keys) return;
    const int64_t at = (tile.key - job.key) * padded;
    add_keys(tile, w.grad_scores, w.query_rows, width, w.grad_key + at);
    add_keys(tile, w.weights, w.grad_rows, width, w.grad_value + at);
    if (infinite_query) add_infinite_queries(tile, query, scale, w.grad_scores, width, w.grad_key + at);
    if (infinite_grad) add_infinite_queries(tile, grad, 1, w.weights, width, w.grad_value + at);
  });
  if (job.of_query) unpack_transposed(w.grad_query, count, width, w.scale, from_row(head.grad_query, first));
}

template <typename T>
void write_rows(const float* sums, int64_t count, int64_t width, Rows<T> rows) {
  const int64_t padded = round_up(width, kPanel);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < width; d += kLanes)
      store_some(rows.data + i * rows.step + d, load(sums + i * padded + d), width - d);
}

template <typename T>
void run_job(const Head<T>& head, const Job& job, int64_t width, float scale, Workspace& w) {
  const int64_t keys = job.key_end - job.key, sums = job.of_keys ? keys * round_up(width, kPanel) : 0;
  for (int64_t i = 0; i < sums; i += kLanes) store(w.grad_key + i, splat(0));
  for (int64_t i = 0; i < sums; i += kLanes) store(w.grad_value + i, splat(0));
  for (int64_t q = job.query; q < job.query_end; q += kGroup)
    run_group(head, job, q, min64(kGroup, job.query_end - q), width, scale, w);
  if (!job.of_keys) return;
  write_rows(w.grad_key, keys, width, from_row(head.grad_key, job.key));
  write_rows(w.grad_value, keys, width, from_row(head.grad_value, job.key));
}

template <typename T>
void backward(const JaggedAttentionBackwardArgs& args) {
  const int64_t heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const Scratch scratch = divide_scratch(args.scratch, args.offsets, args.query.shape[0]);
  const Cut cut = cut_of(args.offsets, heads);
  const int64_t parts = order_parts(
      args.offsets, [&](int64_t length) { return cut.jobs(length); },
      [&](int64_t length, int64_t part) { return cut.work(length, part); }, scratch.order);
  parallel_for(parts * heads, [&](int64_t task, int thread) {
    const Part part = scratch.order[task / heads];
    const int64_t h = task % heads, begin = offsets[part.sequence];
    const Head<T> head = {
        rows_of<const T>(args.query, begin, h),       rows_of<const T>(args.key, begin, h),
        rows_of<const T>(args.value, begin, h),       rows_of<const T>(args.output, begin, h),
        rows_of<const T>(args.grad_output, begin, h), rows_of<const float>(args.lse, begin, h),
        rows_of<T>(args.grad_query, begin, h),        rows_of<T>(args.grad_key, begin, h),
        rows_of<T>(args.grad_value, begin, h)};
    Workspace workspace(scratch.of_thread(thread), width);
    run_job(head, cut.job(offsets[part.sequence + 1] - begin, part.index), width,
            static_cast<float>(args.scale), workspace);
  });
}

}  // namespace

void jagged_attention_backward(const JaggedAttentionBackwardArgs& args) {
  if (args.query.dtype == DType::bf16)
    backward<bf16>(args);
  else
    backward<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
