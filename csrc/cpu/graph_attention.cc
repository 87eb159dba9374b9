#include "cpu/graph_attention.h"

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// A softmax in progress: largest score so far, sum of exp(score - largest), per head in every lane of its.
struct Softmax {
  vf top = splat(-__builtin_inff()), total = splat(0);

  // Where no score is above -inf, nothing is subtracted and all terms are zero.
  static vf shift(vf top) { return top > splat(-__builtin_inff()) ? top : splat(0); }

  // Takes in a block or part whose largest score is `other`; returns the factor for what was summed before.
  vf raise(vf other) {
    const vf before = top;
    top = max(top, other);
    const vf factor = exp(before - shift(top));
    total *= factor;
    return factor;
  }
};

template <typename T, typename Id>
struct Forward {
  const GraphAttentionForwardArgs& args;
  Rows<const T> features;
  const Id* neighbours;
  int64_t heads, width, pitch;  // pitch: floats of the sums of a row
  const vi* head_of;
  float slope;

  // The scores of a block of a row's edges; returns the largest per head.
  vf score(const HeadGroup& group, int64_t row, int64_t begin, int64_t count, float* scores) const {
    gather_scores(args.source_score.as<const float>() + group.first, heads, neighbours + begin, count, group,
                  scores);
    if (args.edge_score)
      add_edge_scores<Id>(args.edge_score.as<const float>() + group.first, heads, nullptr, begin, count,
                          group, scores);
    const vf own = spread(args.destination_score.as<const float>() + row * heads + group.first, group);
    const int64_t size = count * group.pitch;
    vf top = splat(-__builtin_inff());
    for (int64_t t = 0; t < size; t += kLanes) {
      const vf s = leaky(load(scores + t) + own, slope);
      const vf kept = keep_first(s, size - t, splat(-__builtin_inff()));
      store(scores + t, kept);
      top = max(top, kept);
    }
    return fold_max(top, group.pitch);
  }

  // Sums of one part and group; the softmax is what they are still to be divided by.
  Softmax sum(const HeadGroup& group, const Part& part, float* sums) const {
    alignas(64) float scores[kBlockScores];
    const Rows<const T> x = {features.data + group.first * width, features.step};
    const int64_t columns = group.heads * width;
    Softmax softmax;
    for (int64_t begin = part.begin; begin < part.end; begin += kBlock) {
      const int64_t count = min64(kBlock, part.end - begin), size = count * group.pitch;
      prefetch_rows(x, columns, neighbours + begin, count);
      const vf factor = softmax.raise(score(group, part.row, begin, count, scores));
      const vf shift = Softmax::shift(softmax.top);
      vf total = splat(0);
      for (int64_t t = 0; t < size; t += kLanes) {
        const vf p = exp(load(scores + t) - shift);
        store(scores + t, p);
        total += p;
      }
      softmax.total += fold_sum(total, group.pitch);
      const bool first = begin == part.begin;
      sum_neighbours(x, columns, neighbours + begin, count, HeadFactor{scores, group.pitch, head_of},
                     [&](int64_t col, vf value) {
                       if (!first) value = fma(load(sums + col), pick(factor, head_of[col / kLanes]), value);
                       store(sums + col, value);
                     });
    }
    return softmax;
  }

  void finish(const HeadGroup& group, int64_t row, const Softmax& softmax, const float* sums) const {
    const vf inverse = softmax.total == splat(0) ? splat(0) : splat(1) / softmax.total;
    const int64_t columns = group.heads * width;
    T* output = args.output.as<T>() + (row * heads + group.first) * width;
    for (int64_t col = 0; col < columns; col += kLanes)
      store_some(output + col, load(sums + col) * pick(inverse, head_of[col / kLanes]), columns - col);
    float* kept = args.softmax.as<float>() + row * 2 * heads + group.first;
    store_some(kept, Softmax::shift(softmax.top), group.heads);
    store_some(kept + heads, inverse, group.heads);
  }

  void empty(int64_t row) const {
    for (int64_t i = 0; i < heads * width; ++i) from_float(0, args.output.as<T>() + row * heads * width + i);
    for (int64_t a = 0; a < 2 * heads; ++a) args.softmax.as<float>()[row * 2 * heads + a] = 0;
  }

  // Adds up the parts of a divided row in place of the first.
  void join(const HeadGroup& group, const Csr& matrix, int64_t row, int64_t parts, float* slots,
            int64_t kept) const {
    const int64_t tops = pitch + group.first, totals = tops + graph_pitch(heads);
    float* sums = slots + graph_slot(matrix.position(row), 0) * kept;
    Softmax softmax;
    for (int64_t part = 0; part < parts; ++part) {
      const float* slot = slots + graph_slot(matrix.position(row), part) * kept;
      const vf top = spread(slot + tops, group), total = spread(slot + totals, group);
      const vf before = softmax.raise(top), factor = exp(top - Softmax::shift(softmax.top));
      softmax.total += total * factor;
      for (int64_t col = 0; col < group.heads * width; col += kLanes) {
        const int64_t at = group.first * width + col;
        const vi head = head_of[col / kLanes];
        const vf value = load(slot + at) * pick(factor, head);
        store_some(sums + at, part == 0 ? value : fma(load(sums + at), pick(before, head), value),
                   group.heads * width - col);
      }
    }
    finish(group, row, softmax, sums + group.first * width);
  }

  void run() const {
    const Csr matrix = csr_of(args.offsets);
    const GraphAttentionPlan plan =
        plan_graph_attention(matrix.rows, args.neighbours.shape[0], heads, width, num_threads());
    float* rows = args.scratch.as<float>() + plan.head_table;
    float* slots = rows + plan.threads * plan.kept;
    const bool divided = for_each_part(matrix, [&](const Part& part, int thread) {
      if (part.size() == 0) return empty(part.row);
      float* sums = part.whole() ? rows + thread * plan.kept : slots + part.slot * plan.kept;
      for_each_group(heads, [&](const HeadGroup& group) {
        const Softmax softmax = sum(group, part, sums + group.first * width);
        if (part.whole()) return finish(group, part.row, softmax, sums + group.first * width);
        store_some(sums + pitch + group.first, softmax.top, group.heads);
        store_some(sums + pitch + graph_pitch(heads) + group.first, softmax.total, group.heads);
      });
    });
    if (!divided) return;
    for_each_divided(matrix, [&](int64_t row, int64_t parts) {
      for_each_group(heads,
                     [&](const HeadGroup& group) { join(group, matrix, row, parts, slots, plan.kept); });
    });
  }
};

template <typename T, typename Id>
void attend(const GraphAttentionForwardArgs& args) {
  const int64_t heads = args.features.shape[1], width = args.features.shape[2];
  Forward<T, Id>{args,
                 {args.features.as<const T>(), args.features.stride[0]},
                 args.neighbours.as<const Id>(),
                 heads,
                 width,
                 graph_pitch(heads * width),
                 make_head_table(width, args.scratch.as<float>()),
                 static_cast<float>(args.negative_slope)}
      .run();
}

}  // namespace

void graph_attention_forward(const GraphAttentionForwardArgs& args) {
  const bool wide = args.neighbours.dtype == DType::i64;
  if (args.features.dtype == DType::bf16)
    wide ? attend<bf16, int64_t>(args) : attend<bf16, int32_t>(args);
  else
    wide ? attend<float, int64_t>(args) : attend<float, int32_t>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
