#include "core/parallel.h"
#include "cpu/graph_attention.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// With p_e the weight of edge e, g the gradient of the output of its row r and x the features of its
// neighbour n, per head: the gradient of the edge's score is p_e (g . x - g . output[r]), that of the
// features of n is the sum of p_e g over the edges of n. Both want row g once: one pass over the transpose
// does all, and spreads the scores' gradients to the edges, where rows add them up in order.
template <typename T, typename Id>
struct Backward {
  const GraphAttentionBackwardArgs& args;
  Rows<const T> grad, features;
  const Id *rows, *edges;
  int64_t heads, width, pitch;
  const vi* head_of;
  float slope;
  float* stats;  // [R, 4, heads]: destination_score, the two of the softmax, g . output

  void make_stats() const {
    constexpr int64_t kRows = 256;
    const int64_t count = args.offsets.shape[0] - 1;
    const float *score = args.destination_score.as<const float>(), *softmax = args.softmax.as<const float>();
    const T* output = args.output.as<const T>();
    parallel_for((count + kRows - 1) / kRows, [&](int64_t task, int) {
      for (int64_t row = task * kRows; row < min64(count, (task + 1) * kRows); ++row) {
        float* to = stats + row * 4 * heads;
        copy_scores<0>(score + row * heads, heads, to);
        copy_scores<0>(softmax + row * 2 * heads, 2 * heads, to + heads);
        for_each_group(heads, [&](const HeadGroup& group) {
          vf tile[kLanes];
          for (int64_t a = 0; a < kLanes; ++a) {
            const int64_t col = (group.first + a) * width;
            tile[a] = a < group.heads ? products(grad.data + row * grad.step + col,
                                                 output + row * heads * width + col, width)
                                      : splat(0);
          }
          store_some(to + 3 * heads + group.first, sums_of(tile), group.heads);
        });
      }
    });
  }

  // out: g . x per edge and head, a vector of sums at a time. `N` heads, or group.heads of them if that is 0;
  // `One`: a head is exactly a vector. Behind the last edge stands something finite or not, but no edge's.
  template <int N, bool One>
  void dot(const HeadGroup& group, const T* x, const T* g, const Id* ids, int64_t count, float* out) const {
    const int64_t given = N > 0 ? N : group.heads, pitch = N > 0 ? N : group.pitch, step = kLanes / pitch;
    vf tile[kLanes] = {};
    for (int64_t i = 0; i < count; i += step) {
      for (int64_t k = 0; k < step; ++k) {
        const T* row = g + static_cast<int64_t>(ids[min64(i + k, count - 1)]) * grad.step;
#pragma GCC unroll 16
        for (int64_t a = 0; a < given; ++a)
          tile[k * pitch + a] = One ? load(row + a * kLanes) * load(x + a * kLanes)
                                    : products(row + a * width, x + a * width, width);
      }
      store(out + i * pitch, sums_of(tile));
    }
  }

  // One part and group: sums of p_e g, and returns the sum of the scores' gradients.
  vf sum(const HeadGroup& group, const Part& part, float* sums) const {
    alignas(64) float weight[kBlockScores], top[kBlockScores], inverse[kBlockScores], mean[kBlockScores],
        slopes[kBlockScores];
    const Rows<const T> g = {grad.data + group.first * width, grad.step};
    const T* x = features.data + part.row * features.step + group.first * width;
    const int64_t columns = group.heads * width;
    const vf own = spread(args.source_score.as<const float>() + part.row * heads + group.first, group);
    vf total = splat(0);
    for (int64_t begin = part.begin; begin < part.end; begin += kBlock) {
      const int64_t count = min64(kBlock, part.end - begin), size = count * group.pitch;
      const Id *ids = rows + begin, *places = edges + begin;
      prefetch_rows(g, columns, ids, count);
      for (int64_t i = 0; i < count; ++i)
        __builtin_prefetch(args.grad_edge_score.as<float>() + static_cast<int64_t>(places[i]) * heads, 1);
      gather_scores(stats + group.first, 4 * heads, ids, count, group, weight);
      gather_scores(stats + heads + group.first, 4 * heads, ids, count, group, top);
      gather_scores(stats + 2 * heads + group.first, 4 * heads, ids, count, group, inverse);
      gather_scores(stats + 3 * heads + group.first, 4 * heads, ids, count, group, mean);
      if (args.edge_score)
        add_edge_scores(args.edge_score.as<const float>() + group.first, heads, places, 0, count, group,
                        weight);
      with_heads(group, [&](auto n) {
        constexpr int kHeads = decltype(n)::value <= kLanes ? decltype(n)::value : 0;
        if (width == kLanes)
          dot<kHeads, true>(group, x, g.data, ids, count, slopes);
        else
          dot<kHeads, false>(group, x, g.data, ids, count, slopes);
      });
      for (int64_t t = 0; t < size; t += kLanes) {
        const vf s = load(weight + t) + own;
        const vf p = keep_first(exp(leaky(s, slope) - load(top + t)) * load(inverse + t), size - t, splat(0));
        const vf steep = p * (load(slopes + t) - load(mean + t));
        const vf kept = keep_first(s > splat(0) ? steep : steep * splat(slope), size - t, splat(0));
        store(weight + t, p);
        store(slopes + t, kept);
        total += kept;
      }
      with_heads(group, [&](auto n) {
        float* to = args.grad_edge_score.as<float>() + group.first;
        for (int64_t i = 0; i < count; ++i)
          copy_scores<decltype(n)::value>(slopes + i * group.pitch, group.heads,
                                          to + static_cast<int64_t>(places[i]) * heads);
      });
      const bool first = begin == part.begin;
      sum_neighbours(
          g, columns, ids, count, HeadFactor{weight, group.pitch, head_of},
          [&](int64_t col, vf value) { store(sums + col, first ? value : value + load(sums + col)); });
    }
    return fold_sum(total, group.pitch);
  }

  // Columns of a neighbour's features, then, from `pitch` on, its scores.
  void finish(int64_t row, int64_t col, vf value) const {
    if (col < heads * width)
      store_some(args.grad_features.as<T>() + row * heads * width + col, value, heads * width - col);
    else if (col >= pitch && col < pitch + heads)
      store_some(args.grad_source_score.as<float>() + row * heads + col - pitch, value, pitch + heads - col);
  }

  void sum_by_neighbour(const GraphAttentionPlan& plan, float* own_rows, float* slots) const {
    const Csr matrix = csr_of(args.transposed_offsets);
    const bool divided = for_each_part(matrix, [&](const Part& part, int thread) {
      float* sums = part.whole() ? own_rows + thread * plan.kept : slots + part.slot * plan.kept;
      if (part.size() == 0)
        for (int64_t i = 0; i < plan.kept; ++i) sums[i] = 0;
      else
        for_each_group(heads, [&](const HeadGroup& group) {
          const vf total = sum(group, part, sums + group.first * width);
          store_some(sums + pitch + group.first, total, group.heads);
        });
      if (!part.whole()) return;
      for (int64_t col = 0; col < pitch + heads; col += kLanes) finish(part.row, col, load(sums + col));
    });
    if (divided)
      add_parts(matrix, slots, plan.kept,
                [&](int64_t row, int64_t col, int64_t, vf value) { finish(row, col, value); });
  }

  // The scores of the rows: their edges lie side by side.
  void sum_by_row(float* slots) const {
    const Csr matrix = csr_of(args.offsets);
    const float* from = args.grad_edge_score.as<const float>();
    const auto finish_scores = [&](int64_t row, int64_t col, int64_t left, vf value) {
      store_some(args.grad_destination_score.as<float>() + row * heads + col, value, left);
    };
    const bool divided = for_each_part(matrix, [&](const Part& part, int) {
      for (int64_t col = 0; col < heads; col += kLanes) {
        const int64_t left = heads - col;
        vf total = splat(0);
        for (int64_t e = part.begin; e < part.end; ++e)
          total += left < kLanes ? load_some(from + e * heads + col, left) : load(from + e * heads + col);
        if (part.whole())
          finish_scores(part.row, col, left, total);
        else
          store(slots + part.slot * graph_pitch(heads) + col, total);
      }
    });
    if (divided) add_parts(matrix, slots, heads, finish_scores);
  }

  void run(const GraphAttentionPlan& plan, float* own_rows) const {
    float* slots = own_rows + plan.threads * plan.kept;
    make_stats();
    sum_by_neighbour(plan, own_rows, slots);
    sum_by_row(slots);
  }
};

template <typename T, typename Id>
void backward(const GraphAttentionBackwardArgs& args) {
  const int64_t heads = args.features.shape[1], width = args.features.shape[2];
  const GraphAttentionPlan plan = plan_graph_attention_backward(
      args.offsets.shape[0] - 1, args.features.shape[0], args.rows.shape[0], heads, width, num_threads());
  float *scratch = args.scratch.as<float>(), *stats = scratch + plan.head_table;
  Backward<T, Id>{args,
                  {args.grad_output.as<const T>(), args.grad_output.stride[0]},
                  {args.features.as<const T>(), args.features.stride[0]},
                  args.rows.as<const Id>(),
                  args.edges.as<const Id>(),
                  heads,
                  width,
                  graph_pitch(heads * width),
                  make_head_table(width, scratch),
                  static_cast<float>(args.negative_slope),
                  stats}
      .run(plan, stats + plan.stats);
}

}  // namespace

void graph_attention_backward(const GraphAttentionBackwardArgs& args) {
  const bool wide = args.rows.dtype == DType::i64;
  if (args.features.dtype == DType::bf16)
    wide ? backward<bf16, int64_t>(args) : backward<bf16, int32_t>(args);
  else
    wide ? backward<float, int64_t>(args) : backward<float, int32_t>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
