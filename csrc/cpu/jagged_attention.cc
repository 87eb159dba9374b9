#include "cpu/attention_bias.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kFetched = 12;  // rows asked for in advance at a time

// The queries of a sequence in parts of four to seven groups: two short parts would read its keys twice.
struct Parts {
  static int64_t groups(int64_t length) { return (length + kGroup - 1) / kGroup; }
  static int64_t count(int64_t length) { return length == 0 ? 0 : max64(groups(length) / 4, 1); }
  static int64_t begin(int64_t length, int64_t part) {
    return min64(length, groups(length) * part / count(length) * kGroup);
  }
};

struct Workspace {
  float *query, *sums, *scores, *key, *value;
  float top[kGroup], total[kGroup];  // per query: greatest score so far, sum of e^(score - top)

  Workspace(Carver& carver, int64_t width) {
    const int64_t padded = round_up(width, kPanel);
    query = carver.take<float>(kGroup * padded);
    sums = carver.take<float>(kGroup * padded);
    scores = carver.take<float>(kGroup * kMaxKeys);
    key = carver.take<float>(kMaxKeys * padded);
    value = carver.take<float>(kMaxKeys * padded);
  }
};

// scores -> e^(scores - top) for one vector of queries; updates top and total, and gives the factor by which
// what was summed before shrinks.
vf soften(float* column, int64_t keys, float* top, float* total) {
  vf m[4];
  for (int u = 0; u < 4; ++u) m[u] = load(top);
  int64_t k = 0;
  for (; k + 4 <= keys; k += 4)
    for (int u = 0; u < 4; ++u) m[u] = max(m[u], load(column + (k + u) * kGroup));
  for (; k < keys; ++k) m[0] = max(m[0], load(column + k * kGroup));
  const vf peak = max(max(m[0], m[1]), max(m[2], m[3]));
  // A query may see nothing yet: e^(-inf - 0) is zero, e^(-inf + inf) would not be.
  const vf shift = peak == splat(-__builtin_inff()) ? splat(0) : peak;
  vf sum_of_block = splat(0);
  for (k = 0; k < keys; ++k) {
    const vf p = exp_of_negative(load(column + k * kGroup) - shift);
    store(column + k * kGroup, p);
    sum_of_block += p;
  }
  const vf factor = exp_of_negative(load(top) - shift);
  store(total, fma(load(total), factor, sum_of_block));
  store(top, peak);
  return factor;
}

// One panel's vector v of scores becomes weights; what was summed before is shrunk to the new top.
void soften_vector(const Form& form, const Tile& tile, int64_t panel, int v, bool first, int64_t width,
                   Workspace& w) {
  const int64_t at = panel * kPanel + v * kLanes, begin = tile.begin[panel];
  for_each_partly_hidden(form, tile, panel, v, [&](int64_t k, auto&& hidden) {
    float* score = w.scores + k * kGroup + at;
    store(score, hidden ? splat(-__builtin_inff()) : load(score));
  });
  const vf factor = soften(w.scores + begin * kGroup + at, tile.end[panel] - begin, w.top + at, w.total + at);
  if (first) return;
  float* sums = w.sums + panel * width * kPanel + v * kLanes;
  for (int64_t d = 0; d < width; ++d) store(sums + d * kPanel, load(sums + d * kPanel) * factor);
}

void apply_silu(const Form& form, const Tile& tile, int64_t panel, int v, float* scores) {
  const int64_t at = panel * kPanel + v * kLanes;
  for (int64_t k = tile.begin[panel]; k < tile.end[panel]; ++k) {
    float* score = scores + k * kGroup + at;
    store(score, load(score) * sigmoid(load(score)));
  }
  for_each_partly_hidden(form, tile, panel, v, [&](int64_t k, auto&& hidden) {
    float* score = scores + k * kGroup + at;
    store(score, hidden ? splat(0) : load(score));
  });
}

template <typename T>
struct Head {
  Rows<const T> query, key, value;
  Rows<T> output;
  Rows<float> lse;
};

// What softmax divides the sums by, and the log of the sum of e^score for backward.
void finish_softmax(int64_t first, int64_t count, Rows<float> lse, Workspace& w) {
  if (lse.data != nullptr)
    for (int64_t q = 0; q < count; ++q)
      lse.data[(first + q) * lse.step] = w.top[q] + __builtin_logf(w.total[q]);
  for (int64_t q = 0; q < kGroup; q += kLanes) store(w.total + q, splat(1) / load(w.total + q));
}

template <typename T>
void attend(const Form& form, const Head<T>& head, int64_t length, int64_t first, int64_t count,
            int64_t width, Bias& bias, Ahead& ahead, Workspace& w) {
  pack_transposed(from_row(head.query, first), count, width, form.scale, w.query);
  clear(w.sums, kGroup * width);
  for (int64_t q = 0; q < kGroup; ++q) w.top[q] = -__builtin_inff(), w.total[q] = 0;
  bool start = true;
  for_each_tile(form, length, first, count, [&](const Tile& tile) {
    const auto key = widen(from_row(head.key, tile.key), tile.keys(), width, w.key);
    auto value = widen(from_row(head.value, tile.key), tile.keys(), width, w.value);
    ahead.fetch(kFetched);
    multiply_rows(tile, key, w.query, width, w.scores);
    if (bias.any()) bias.prepare(tile);
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      for (int v = 0; v < kPanelVecs; ++v) {
        if (bias.any()) bias.add(tile, panel, v, w.scores);
        if (form.silu)
          apply_silu(form, tile, panel, v, w.scores);
        else
          soften_vector(form, tile, panel, v, start, width, w);
        ahead.fetch(kFetched / kPanelVecs);
      }
    const bool infinite = leave_out_infinite_keys(tile, value, width, w.value);
    sum_rows(tile, value, w.scores, width, w.sums);
    if (infinite)
      add_infinite_keys(form, tile, length, from_row(head.value, tile.key), w.scores, width, w.sums);
    start = false;
  });
  if (form.silu)
    for (int64_t q = 0; q < kGroup; ++q) w.total[q] = 1 / form.divisor;
  else
    finish_softmax(first, count, head.lse, w);
  unpack_transposed(w.sums, count, width, w.total, from_row(head.output, first));
}

template <typename T>
void forward(const JaggedAttentionForwardArgs& args) {
  const Form form = form_of(args);
  const int64_t heads = args.query.shape[1], width = args.query.shape[2];
  const int64_t* offsets = args.offsets.as<int64_t>();
  const Scratch scratch = divide_scratch(args.scratch, args.offsets, args.query.shape[0], 0);
  const int64_t parts = order_parts(
      args.offsets, [](int64_t length) { return Parts::count(length); },
      [&](int64_t length, int64_t part) {
        const int64_t first = Parts::begin(length, part), end = Parts::begin(length, part + 1);
        return (end - first) * (form.end(end - 1, length) - form.begin(first));
      },
      scratch.order);
  for_each_task(parts, heads, [&](int64_t listed, int64_t head_begin, int64_t head_end, int thread) {
    const Part part = scratch.order[listed];
    const int64_t begin = offsets[part.sequence], length = offsets[part.sequence + 1] - begin;
    Carver carver = scratch.of_thread(thread);
    Workspace workspace(carver, width);
    BiasWorkspace bias_workspace(carver);
    bias_workspace.keep_buckets(carver);
    Bias bias(args, form, begin, bias_workspace);
    for (int64_t h = head_begin; h < head_end; ++h) {
      const Head<T> head = {rows_of<const T>(args.query, begin, h), rows_of<const T>(args.key, begin, h),
                            rows_of<const T>(args.value, begin, h), rows_of<T>(args.output, begin, h),
                            args.lse ? rows_of<float>(args.lse, begin, h) : Rows<float>{nullptr, 0}};
      const Part next = scratch.order[min64(listed + num_threads(), parts - 1)];
      const int64_t next_length = offsets[next.sequence + 1] - offsets[next.sequence];
      const int64_t next_first = Parts::begin(next_length, next.index);
      const int64_t row = offsets[next.sequence] + next_first;
      Ahead ahead(rows_of<const T>(args.query, row, h), rows_of<const T>(args.key, row, h),
                  rows_of<const T>(args.value, row, h),
                  Parts::begin(next_length, next.index + 1) - next_first, width);
      bias.start_head(h);
      const int64_t end = Parts::begin(length, part.index + 1);
      for (int64_t q = Parts::begin(length, part.index); q < end; q += kGroup)
        attend(form, head, length, q, min64(kGroup, end - q), width, bias, ahead, workspace);
      bias.end_head();
    }
  });
}

}  // namespace

void jagged_attention_forward(const JaggedAttentionForwardArgs& args) {
  if (args.query.dtype == DType::bf16)
    forward<bf16>(args);
  else
    forward<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
