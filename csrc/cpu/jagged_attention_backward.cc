#include "cpu/attention_bias.h"
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
  Form form;
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
    if (part % 2 == 1) return {begin, end, form.begin(begin), form.end(end - 1, length), true, false};
    // whole groups: which queries are taken together is the same in every form
    const int64_t query = form.first_query(begin) / kGroup * kGroup;
    const int64_t query_end = min64(length, round_up(form.end_query(end - 1, length), kGroup));
    return {query, query_end, begin, end, false, true};
  }
  // Products of one query with one key, roughly.
  int64_t work(int64_t length, int64_t part) const {
    const Job j = job(length, part);
    return (j.query_end - j.query) * (j.key_end - j.key);
  }
};

// A sequence that has at most half of a thread's share of the work is not worth cutting.
Cut cut_of(const Form& form, const TensorView& offsets, int64_t heads) {
  const int64_t* at = offsets.as<int64_t>();
  double work = 0;
  for (int64_t b = 0; b + 1 < offsets.shape[0]; ++b) {
    const double length = static_cast<double>(at[b + 1] - at[b]);
    work += length * length;
  }
  return {form, work * static_cast<double>(heads) / (2.0 * num_threads())};
}

struct Workspace {
  float *query, *grad, *grad_query;  // transposed: see pack_transposed
  float *query_rows, *grad_rows;     // see pack_rows
  float *weights, *grad_scores;      // [key][query]
  float *key, *value;                // bf16 rows, widened
  float *grad_key, *grad_value;      // [key][round_up(width, 16)], sums of the job
  float lse[kGroup], delta[kGroup], scale[kGroup];

  Workspace(Carver& carver, int64_t width) {
    const int64_t padded = round_up(width, kPanel);
    query = carver.take<float>(kGroup * padded), grad = carver.take<float>(kGroup * padded);
    grad_query = carver.take<float>(kGroup * padded);
    query_rows = carver.take<float>(kGroup * padded), grad_rows = carver.take<float>(kGroup * padded);
    weights = carver.take<float>(kMaxKeys * kGroup), grad_scores = carver.take<float>(kMaxKeys * kGroup);
    key = carver.take<float>(kMaxKeys * padded), value = carver.take<float>(kMaxKeys * padded);
    grad_key = carver.take<float>(kAttentionWhole * padded),
    grad_value = carver.take<float>(kAttentionWhole * padded);
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

// Scores and grad_output . value of a panel's vector v become weights and the gradients of the scores. Where
// the tile holds all keys of its queries (`whole`), the weights are normalised anew and delta comes from
// them: few keys cancel almost fully, and the roundings of lse and of grad_output . output would not.
void differentiate_softmax(const Form& form, const Tile& tile, int64_t panel, int v, bool whole,
                           Workspace& w) {
  const int64_t at = panel * kPanel + v * kLanes, begin = tile.begin[panel], end = tile.end[panel];
  const vf lse = load(w.lse + at);
  float *weights = w.weights + at, *grads = w.grad_scores + at;
  const auto hide = [&](float shown) {
    for_each_partly_hidden(form, tile, panel, v, [&](int64_t k, auto&& hidden) {
      store(weights + k * kGroup, hidden ? splat(shown) : load(weights + k * kGroup));
      store(grads + k * kGroup, hidden ? splat(0) : load(grads + k * kGroup));
    });
  };
  hide(-__builtin_inff());
  vf total = splat(0), weighted = splat(0);
  for (int64_t k = begin; k < end; ++k) {
    const vf p = exp_of_negative(load(weights + k * kGroup) - lse);
    store(weights + k * kGroup, p);
    total += p;
    weighted = fma(p, load(grads + k * kGroup), weighted);
  }
  const vf factor = whole ? splat(1) / total : splat(1);
  const vf delta = whole ? weighted * factor : load(w.delta + at);
  for (int64_t k = begin; k < end; ++k) {
    const vf p = load(weights + k * kGroup) * factor;
    store(weights + k * kGroup, p);
    store(grads + k * kGroup, p * (load(grads + k * kGroup) - delta));
  }
  hide(0);  // again: factor and delta may be infinite
}

void differentiate_silu(const Form& form, const Tile& tile, int64_t panel, int v, Workspace& w) {
  const int64_t at = panel * kPanel + v * kLanes;
  float *weights = w.weights + at, *grads = w.grad_scores + at;
  for (int64_t k = tile.begin[panel]; k < tile.end[panel]; ++k) {
    const vf score = load(weights + k * kGroup), gate = sigmoid(score), weight = score * gate;
    store(weights + k * kGroup, weight);
    store(grads + k * kGroup, load(grads + k * kGroup) * fma(weight, splat(1) - gate, gate));
  }
  for_each_partly_hidden(form, tile, panel, v, [&](int64_t k, auto&& hidden) {
    store(weights + k * kGroup, hidden ? splat(0) : load(weights + k * kGroup));
    store(grads + k * kGroup, hidden ? splat(0) : load(grads + k * kGroup));
  });
}

// sums[key] += sum over queries of scores[key][query] packed[query] for the tile's keys [from, to); `packed`
// by pack_rows.
void add_keys(const Tile& tile, int64_t from, int64_t to, const float* scores, const float* packed,
              int64_t width, float* sums) {
  const int64_t padded = round_up(width, kPanel);
  for_each_piece(tile, [&](int64_t panel, int64_t panel_end, int64_t begin, int64_t end) {
    const int64_t query = panel * kPanel, query_end = min64(tile.count, panel_end * kPanel);
    begin = max64(begin, from), end = min64(end, to);
    if (begin >= end) return;
    multiply({scores + begin * kGroup + query, kGroup, 1, packed + query * kPanel, kGroup * kPanel, kPanel,
              end - begin, padded, query_end - query},
             sums + begin * padded, padded, kPanel, true);
  });
}

// Takes what is not finite out of rows packed by pack_rows, and says whether there was any.
bool leave_out_infinite_queries(int64_t count, int64_t width, float* packed) {
  const int64_t padded = round_up(width, kPanel);
  bool finite = true;
  for (int64_t d = 0; d < padded; d += kPanel)
    finite &= all_finite({packed + d * kGroup, kPanel}, 0, count, kPanel);
  if (finite) return false;
  for (int64_t i = 0; i < kGroup * padded; ++i) packed[i] = is_finite(packed[i]) ? packed[i] : 0;
  return true;
}

// Adds to add_keys what leave_out_infinite_queries took out of `rows`, the group's own.
template <typename T>
void add_infinite_queries(const Form& form, const Tile& tile, int64_t length, int64_t from, int64_t to,
                          Rows<const T> rows, float scale, const float* scores, int64_t width, float* sums) {
  const int64_t padded = round_up(width, kPanel);
  for (int64_t q = 0; q < tile.count; ++q)
    for (int64_t d = 0; d < width; ++d) {
      const float x = to_float(rows.data[q * rows.step + d]) * scale;
      if (is_finite(x)) continue;
      const int64_t end = min64(to, form.end(tile.first + q, length) - tile.key);
      for (int64_t k = max64(from, form.begin(tile.first + q) - tile.key); k < end; ++k)
        sums[k * padded + d] += x * scores[k * kGroup + q];
    }
}

// Of silu, grad_output is divided by the divisor here.
float grad_scale(const Form& form) { return form.silu ? 1 / form.divisor : 1; }

template <typename T>
void load_group(const Form& form, const Head<T>& head, int64_t first, int64_t count, int64_t width,
                Workspace& w) {
  const auto query = from_row(head.query, first), grad = from_row(head.grad_output, first);
  pack_transposed(query, count, width, form.scale, w.query);
  pack_transposed(grad, count, width, grad_scale(form), w.grad);
  pack_rows(query, count, width, form.scale, w.query_rows);
  pack_rows(grad, count, width, grad_scale(form), w.grad_rows);
  for (int64_t q = 0; q < kGroup; ++q) w.delta[q] = w.lse[q] = 0, w.scale[q] = form.scale;
  if (!form.silu) {
    float* output = w.grad_query;  // free until the first sum
    pack_transposed(from_row(head.output, first), count, width, 1, output);
    dot_packed(w.grad, output, count, width, w.delta);
    for (int64_t q = 0; q < count; ++q) w.lse[q] = head.lse.data[(first + q) * head.lse.step];
  }
  clear(w.grad_query, kGroup * width);
}

template <typename T>
void run_group(const Form& form, const Head<T>& head, const Job& job, int64_t length, int64_t first,
               int64_t count, int64_t width, Bias& bias, float* table_grads, Workspace& w) {
  load_group(form, head, first, count, width, w);
  const int64_t padded = round_up(width, kPanel);
  const auto query = from_row(head.query, first), grad = from_row(head.grad_output, first);
  const bool infinite_query = leave_out_infinite_queries(count, width, w.query_rows);
  const bool infinite_grad = leave_out_infinite_queries(count, width, w.grad_rows);
  // Also jobs of keys take whole tiles: what a score's gradient is may not depend on the form of the job.
  for_each_tile(form, length, first, count, [&](const Tile& tile) {
    if (tile.key_end <= job.key || tile.key >= job.key_end) return;
    auto key = widen(from_row(head.key, tile.key), tile.keys(), width, w.key);
    const auto value = widen(from_row(head.value, tile.key), tile.keys(), width, w.value);
    multiply_rows(tile, key, w.query, width, w.weights);
    multiply_rows(tile, value, w.grad, width, w.grad_scores);
    if (bias.any()) bias.prepare(tile);
    const bool whole = tile.key == form.begin(first) && tile.key_end == form.end(first + count - 1, length);
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      for (int v = 0; v < kPanelVecs; ++v) {
        if (bias.any()) bias.add(tile, panel, v, w.weights);
        if (form.silu)
          differentiate_silu(form, tile, panel, v, w);
        else
          differentiate_softmax(form, tile, panel, v, whole, w);
      }
    if (job.of_query) {
      if (bias.any()) bias.collect(tile, w.grad_scores, table_grads);
      const bool infinite = leave_out_infinite_keys(tile, key, width, w.key);
      sum_rows(tile, key, w.grad_scores, width, w.grad_query);
      if (infinite)
        add_infinite_keys(form, tile, length, from_row(head.key, tile.key), w.grad_scores, width,
                          w.grad_query);
    }
    if (!job.of_keys) return;
    const int64_t from = max64(job.key - tile.key, 0), to = min64(tile.keys(), job.key_end - tile.key);
    const int64_t at = (tile.key - job.key) * padded;
    add_keys(tile, from, to, w.grad_scores, w.query_rows, width, w.grad_key + at);
    add_keys(tile, from, to, w.weights, w.grad_rows, width, w.grad_value + at);
    if (infinite_query)
      add_infinite_queries(form, tile, length, from, to, query, form.scale, w.grad_scores, width,
                           w.grad_key + at);
    if (infinite_grad)
      add_infinite_queries(form, tile, length, from, to, grad, grad_scale(form), w.weights, width,
                           w.grad_value + at);
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

// The gradients of the bias tables, summed per slice of a sequence: float [slots][heads][columns]. Slots are
// numbered so that each slice has one of its own, without a pass over the sequences before it.
struct TableGrads {
  float* sums;
  int64_t heads, columns;

  float* of(int64_t sequence, int64_t begin, int64_t query, int64_t head) const {
    const int64_t slot = sequence + begin / kAttentionPart + query / kAttentionPart;
    return sums + (slot * heads + head) * columns;
  }
};

// grad[h] = the slices' sums in order, from their column `first` on.
void add_up_slices(const TableGrads& tables, const TensorView& offsets, int64_t first,
                   const TensorView& grad) {
  const int64_t* at = offsets.as<int64_t>();
  const int64_t columns = grad.shape[1];
  for (int64_t h = 0; h < tables.heads; ++h)
    for (int64_t c = 0; c < columns; c += kLanes) {
      vf total = splat(0);
      for (int64_t b = 0; b + 1 < offsets.shape[0]; ++b)
        for (int64_t q = 0; q < at[b + 1] - at[b]; q += kAttentionPart)
          total += load_some(tables.of(b, at[b], q, h) + first + c, columns - c);
      store_some(grad.as<float>() + h * columns + c, total, columns - c);
    }
}

struct Sequence {
  int64_t index, begin, length;
};

template <typename T>
void run_job(const Form& form, const Head<T>& head, const Job& job, const Sequence& sequence, int64_t width,
             Bias& bias, const TableGrads& tables, int64_t h, Workspace& w) {
  const int64_t keys = job.key_end - job.key, sums = job.of_keys ? keys * round_up(width, kPanel) : 0;
  clear(w.grad_key, sums), clear(w.grad_value, sums);
  const bool collects = bias.any() && job.of_query;
  for (int64_t q = job.query; q < job.query_end; q += kGroup) {
    float* table_grads = collects ? tables.of(sequence.index, sequence.begin, q, h) : nullptr;
    if (collects && q % kAttentionPart == 0) bias.clear_sums(table_grads);
    run_group(form, head, job, sequence.length, q, min64(kGroup, job.query_end - q), width, bias, table_grads,
              w);
    const bool last = q + kGroup >= job.query_end || (q + kGroup) % kAttentionPart == 0;
    if (collects && last) bias.write_sums(table_grads);
  }
  if (!job.of_keys) return;
  write_rows(w.grad_key, keys, width, from_row(head.grad_key, job.key));
  write_rows(w.grad_value, keys, width, from_row(head.grad_value, job.key));
}

int64_t columns_of(const TensorView& table) { return table ? table.shape[1] : 0; }

template <typename T>
void backward(const JaggedAttentionBackwardArgs& args) {
  const Form form = form_of(args);
  const int64_t events = args.query.shape[0], heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const int64_t position = columns_of(args.position), time = columns_of(args.time_table);
  const int64_t columns = position + time + columns_of(args.distance_table);
  const Scratch scratch = divide_scratch(args.scratch, args.offsets, events, heads * columns);
  const TableGrads tables = {scratch.tables, heads, columns};
  const Cut cut = cut_of(form, args.offsets, heads);
  const int64_t parts = order_parts(
      args.offsets, [&](int64_t length) { return cut.jobs(length); },
      [&](int64_t length, int64_t part) { return cut.work(length, part); }, scratch.order);
  for_each_task(parts, heads, [&](int64_t listed, int64_t head_begin, int64_t head_end, int thread) {
    const Part part = scratch.order[listed];
    const int64_t begin = offsets[part.sequence], length = offsets[part.sequence + 1] - begin;
    Carver carver = scratch.of_thread(thread);
    Workspace workspace(carver, width);
    BiasWorkspace bias_workspace(carver);
    bias_workspace.keep_buckets(carver);
    Bias bias(args, form, begin, bias_workspace);
    for (int64_t h = head_begin; h < head_end; ++h) {
      const bool softmax = !form.silu;
      const Head<T> head = {
          rows_of<const T>(args.query, begin, h),
          rows_of<const T>(args.key, begin, h),
          rows_of<const T>(args.value, begin, h),
          softmax ? rows_of<const T>(args.output, begin, h) : Rows<const T>{nullptr, 0},
          rows_of<const T>(args.grad_output, begin, h),
          softmax ? rows_of<const float>(args.lse, begin, h) : Rows<const float>{nullptr, 0},
          rows_of<T>(args.grad_query, begin, h),
          rows_of<T>(args.grad_key, begin, h),
          rows_of<T>(args.grad_value, begin, h)};
      bias.start_head(h);
      run_job(form, head, cut.job(length, part.index), {part.sequence, begin, length}, width, bias, tables, h,
              workspace);
      bias.end_head();
    }
  });
  if (args.position) add_up_slices(tables, args.offsets, 0, args.grad_position);
  if (args.time_table) add_up_slices(tables, args.offsets, position, args.grad_time_table);
  if (args.distance_table) add_up_slices(tables, args.offsets, position + time, args.grad_distance_table);
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
