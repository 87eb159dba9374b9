#include "core/parallel.h"
#include "cpu/graph_rows.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename T>
Rows<const T> rows_of(const TensorView& view) {
  return {view.as<const T>(), view.stride[0]};
}

// What the edges of a part are multiplied by, in `buffer` of kGraphPart, or null where it is one.
template <typename Id>
const float* factors_of(const Part& part, const float* weight, const Id* edges, const float* scale,
                        const Id* ids, float* buffer) {
  if (weight == nullptr && scale == nullptr) return nullptr;
  const int64_t count = part.size();
  if (weight != nullptr && edges == nullptr && scale == nullptr) return weight + part.begin;
  for (int64_t e = 0; e < count; ++e) {
    const float w =
        weight == nullptr ? 1.0f : weight[edges == nullptr ? part.begin + e : edges[part.begin + e]];
    buffer[e] = scale == nullptr ? w : w * scale[ids[part.begin + e]];
  }
  return buffer;
}

template <typename T, typename Id>
void sum_rows(const GraphSumArgs& args) {
  const Csr matrix = csr_of(args.offsets);
  const int64_t width = args.output.shape[1], pitch = graph_pitch(width);
  const Rows<const T> features = rows_of<T>(args.features);
  const Id *ids = args.neighbours.as<const Id>(), *edges = args.edges.as<const Id>();
  const float *scale = args.neighbour_scale.as<const float>(), *row_scale = args.row_scale.as<const float>();
  float* partial = args.scratch.as<float>();
  const auto finish = [&](int64_t row, int64_t col, int64_t left, vf sum) {
    if (row_scale != nullptr) sum *= splat(row_scale[row]);
    store_some(args.output.as<T>() + row * width + col, sum, left);
  };
  const bool divided = for_each_part(matrix, [&](const Part& part, int) {
    float buffer[kGraphPart];
    const float* factors = factors_of(part, args.weight.as<const float>(), edges, scale, ids, buffer);
    const auto sink = [&](int64_t col, vf sum) {
      if (part.whole())
        finish(part.row, col, width - col, sum);
      else
        store(partial + part.slot * pitch + col, sum);
    };
    if (factors == nullptr)
      sum_neighbours(features, width, ids + part.begin, part.size(), NoFactor{}, sink);
    else
      sum_neighbours(features, width, ids + part.begin, part.size(), EdgeFactor{factors}, sink);
  });
  if (divided) add_parts(matrix, partial, width, finish);
}

template <typename T, typename Id>
void dot_edges(const GraphDotArgs& args) {
  const int64_t width = args.left.shape[1];
  const Rows<const T> left = rows_of<T>(args.left), right = rows_of<T>(args.right);
  const Id* ids = args.neighbours.as<const Id>();
  const float *scale = args.neighbour_scale.as<const float>(), *row_scale = args.row_scale.as<const float>();
  float* output = args.output.as<float>();
  for_each_part(csr_of(args.offsets), [&](const Part& part, int) {
    const T* row = left.data + part.row * left.step;
    const vf factor = splat(row_scale == nullptr ? 1.0f : row_scale[part.row]);
    for (int64_t e = part.begin; e < part.end; e += kLanes) {
      const int64_t count = min64(kLanes, part.end - e);
      vf tile[kLanes], scales = splat(1);
      for (int64_t i = 0; i < kLanes; ++i) {
        const bool there = i < count;
        const int64_t id = there ? ids[e + i] : 0;
        tile[i] = there ? products(row, right.data + id * right.step, width) : splat(0);
        if (scale != nullptr) scales[i] = there ? scale[id] : 0.0f;
      }
      store_some(output + e, sums_of(tile) * factor * scales, count);
    }
  });
}

// The largest of the messages of a part in a vector of columns, and which edge of the row it is; the first of
// equals, and NaN where there is one.
struct Best {
  vf value;
  vi edge;

  void offer(vf x, vi e) {
    const vi better = ~(x <= value) & (value == value);
    value = better ? x : value;
    edge = better ? e : edge;
  }
};

template <bool Some, typename T, typename Id>
Best best_of(const T* x, int64_t step, int64_t some, const Id* ids, int64_t count, const float* weight,
             int64_t first) {
  Best best = {splat(0), splat_int(-1)};
  for (int64_t e = 0; e < count; ++e) {
    const T* row = x + static_cast<int64_t>(ids[e]) * step;
    vf value = Some ? load_some(row, some) : load(row);
    if (weight != nullptr) value *= splat(weight[e]);
    const vi edge = splat_int(static_cast<int32_t>(first + e));
    if (e == 0)
      best = {value, edge};
    else
      best.offer(value, edge);
  }
  return best;
}

inline vf as_float(vi v) { return reinterpret_cast<vf>(v); }
inline vi as_int(vf v) { return reinterpret_cast<vi>(v); }

template <typename T, typename Id>
void max_rows(const GraphMaxArgs& args) {
  const Csr matrix = csr_of(args.offsets);
  const int64_t width = args.output.shape[1], pitch = 2 * graph_pitch(width);
  const Rows<const T> features = rows_of<T>(args.features);
  const float* weight = args.weight.as<const float>();
  float *partial = args.scratch.as<float>(), *arg = args.arg.as<float>();  // bits: stored as they are
  const int64_t half = graph_pitch(width);
  const auto finish = [&](int64_t row, int64_t col, const Best& best) {
    store_some(args.output.as<T>() + row * width + col, best.value, width - col);
    store_some(arg + row * width + col, as_float(best.edge), width - col);
  };
  const bool divided = for_each_part(matrix, [&](const Part& part, int) {
    const Id* ids = args.neighbours.as<const Id>() + part.begin;
    const float* weights = weight == nullptr ? nullptr : weight + part.begin;
    const int64_t first = part.begin - matrix.begin(part.row);
    for (int64_t col = 0; col < width; col += kLanes) {
      const T* x = features.data + col;
      const Best best = width - col >= kLanes
                            ? best_of<false>(x, features.step, kLanes, ids, part.size(), weights, first)
                            : best_of<true>(x, features.step, width - col, ids, part.size(), weights, first);
      if (part.whole()) {
        finish(part.row, col, best);
      } else {
        store(partial + part.slot * pitch + col, best.value);
        store(partial + part.slot * pitch + half + col, as_float(best.edge));
      }
    }
  });
  if (!divided) return;
  for_each_divided(matrix, [&](int64_t row, int64_t parts) {
    for (int64_t col = 0; col < width; col += kLanes) {
      Best best;
      for (int64_t part = 0; part < parts; ++part) {
        const float* from = partial + graph_slot(matrix.position(row), part) * pitch + col;
        const vi edge = as_int(load(from + half));
        if (part == 0)
          best = {load(from), edge};
        else
          best.offer(load(from), edge);
      }
      finish(row, col, best);
    }
  });
}

// The gradient of the features: row n of the transpose adds up the gradients of the rows that took n.
template <bool Some, typename T, typename Id>
vf taken_sum(const T* grad, int64_t step, const int32_t* arg, int64_t width, int64_t some, const Id* rows,
             const int32_t* places, const float* factors, int64_t count) {
  vf sum = splat(0);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t row = rows[k];
    const float* taken = reinterpret_cast<const float*>(arg) + row * width;
    const vf which = Some ? load_some(taken, some) : load(taken);
    const vf g = Some ? load_some(grad + row * step, some) : load(grad + row * step);
    const vf factor = splat(factors == nullptr ? 1.0f : factors[k]);
    sum += as_int(which) == splat_int(places[k]) ? g * factor : splat(0);
  }
  return sum;
}

template <typename T, typename Id>
void max_features_backward(const GraphMaxBackwardArgs& args) {
  const Csr matrix = csr_of(args.transposed_offsets);
  const int64_t *offsets = args.offsets.as<const int64_t>(), width = args.arg.shape[1];
  const Rows<const T> grad = rows_of<T>(args.grad_output);
  const Id *rows = args.rows.as<const Id>(), *edges = args.edges.as<const Id>();
  float* partial = args.scratch.as<float>();
  const auto finish = [&](int64_t row, int64_t col, int64_t left, vf sum) {
    store_some(args.grad_features.as<T>() + row * width + col, sum, left);
  };
  const bool divided = for_each_part(matrix, [&](const Part& part, int) {
    float buffer[kGraphPart];
    int32_t places[kGraphPart];
    const float* factors = factors_of<Id>(part, args.weight.as<const float>(), edges, nullptr, rows, buffer);
    for (int64_t k = part.begin; k < part.end; ++k)
      places[k - part.begin] = static_cast<int32_t>(edges[k] - offsets[rows[k]]);
    for (int64_t col = 0; col < width; col += kLanes) {
      const T* g = grad.data + col;
      const int32_t* arg = args.arg.as<const int32_t>() + col;
      const Id* ids = rows + part.begin;
      const vf sum =
          width - col >= kLanes
              ? taken_sum<false>(g, grad.step, arg, width, kLanes, ids, places, factors, part.size())
              : taken_sum<true>(g, grad.step, arg, width, width - col, ids, places, factors, part.size());
      if (part.whole())
        finish(part.row, col, width - col, sum);
      else
        store(partial + part.slot * graph_pitch(width) + col, sum);
    }
  });
  if (divided) add_parts(matrix, partial, width, finish);
}

// The gradient of the weights: a row spreads its gradient over the edges it took, column by column.
template <typename T, typename Id>
void max_weight_backward(const GraphMaxBackwardArgs& args) {
  const Csr matrix = csr_of(args.offsets);
  const int64_t width = args.arg.shape[1];
  const Rows<const T> grad = rows_of<T>(args.grad_output), features = rows_of<T>(args.features);
  const int32_t* arg = args.arg.as<const int32_t>();
  float* output = args.grad_weight.as<float>();
  for_each_task(matrix, [&](int64_t task, int) {
    const int64_t last = (task + 1) * kGraphPart;
    for (int64_t row = matrix.row_at(task * kGraphPart); row < matrix.rows && matrix.position(row) < last;
         ++row) {
      float* mine = output + matrix.begin(row);
      const Id* ids = args.neighbours.as<const Id>() + matrix.begin(row);
      for (int64_t e = 0; e < matrix.size(row); ++e) mine[e] = 0;
      if (matrix.size(row) == 0) continue;
      for (int64_t d = 0; d < width; ++d) {
        const int64_t e = arg[row * width + d];
        if (e < 0 || e >= matrix.size(row)) continue;
        mine[e] += to_float(grad.data[row * grad.step + d]) *
                   to_float(features.data[static_cast<int64_t>(ids[e]) * features.step + d]);
      }
    }
  });
}

template <typename T, typename Id>
void max_backward(const GraphMaxBackwardArgs& args) {
  max_features_backward<T, Id>(args);
  if (args.grad_weight) max_weight_backward<T, Id>(args);
}

bool wide(const TensorView& ids) { return ids.dtype == DType::i64; }
bool rounded(const TensorView& values) { return values.dtype == DType::bf16; }

}  // namespace

void graph_sum(const GraphSumArgs& args) {
  if (rounded(args.features))
    wide(args.neighbours) ? sum_rows<bf16, int64_t>(args) : sum_rows<bf16, int32_t>(args);
  else
    wide(args.neighbours) ? sum_rows<float, int64_t>(args) : sum_rows<float, int32_t>(args);
}

void graph_dot(const GraphDotArgs& args) {
  if (rounded(args.left))
    wide(args.neighbours) ? dot_edges<bf16, int64_t>(args) : dot_edges<bf16, int32_t>(args);
  else
    wide(args.neighbours) ? dot_edges<float, int64_t>(args) : dot_edges<float, int32_t>(args);
}

void graph_max(const GraphMaxArgs& args) {
  if (rounded(args.features))
    wide(args.neighbours) ? max_rows<bf16, int64_t>(args) : max_rows<bf16, int32_t>(args);
  else
    wide(args.neighbours) ? max_rows<float, int64_t>(args) : max_rows<float, int32_t>(args);
}

void graph_max_backward(const GraphMaxBackwardArgs& args) {
  if (rounded(args.grad_output))
    wide(args.neighbours) ? max_backward<bf16, int64_t>(args) : max_backward<bf16, int32_t>(args);
  else
    wide(args.neighbours) ? max_backward<float, int64_t>(args) : max_backward<float, int32_t>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
