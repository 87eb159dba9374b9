// Sums, products and maxima over the edges of a graph; graph_rows.cuh says how rows are shared out.
#include "core/check.h"
#include "cuda/checks.h"
#include "cuda/graph_dot.cuh"
#include "cuda/graph_rows.cuh"
#include "cuda/on_stream.h"

namespace chronorec::cuda {
namespace {

// Sums in fp32, and where partial ones are kept.
template <typename T, int kVecs>
struct Sums {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = 8;
  static constexpr bool kGathers = true;
  struct State {
    float x[kVec];
  };
  Rows<T> output;
  Rows<float> partial;

  __device__ __forceinline__ void merge(State& a, const State& b) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) a.x[i] += b.x[i];
  }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    Pack<float, kVec> pack;
    for (int i = 0; i < kVec; ++i) pack.x[i] = state.x[i];
    pack.store(partial.at(slot, column));
  }
  __device__ __forceinline__ State get(int slot, int column) const {
    Pack<float, kVec> pack;
    pack.load(partial.at(slot, column));
    State state;
    for (int i = 0; i < kVec; ++i) state.x[i] = pack.x[i];
    return state;
  }
  __device__ __forceinline__ void store_scaled(int row, int column, const State& state, float by) const {
    Pack<T, kVec> pack;
#pragma unroll
    for (int i = 0; i < kVec; ++i) narrow(state.x[i] * by, pack.x[i]);
    pack.store(output.at(row, column));
  }
};

__device__ __forceinline__ float scale_of(const float* scale, int64_t i) {
  return scale != nullptr ? scale[i] : 1.f;
}

struct WeightedEdge {
  int neighbour;
  float factor;
};

// output[r] = row_scale[r] * sum of weight * neighbour_scale * features
template <typename T, int kVecs>
struct Sum : Sums<T, kVecs> {
  using typename Sums<T, kVecs>::State;
  using Here = const T*;  // features of the first
  using Edge = WeightedEdge;
  using Fetched = Pack<T, kVecs>;
  Rows<const T> features;
  const float *weight, *row_scale, *neighbour_scale;
  Ids edges;  // data is null: each edge its own place

  __device__ __forceinline__ Here open(int, int64_t, int column) const { return features.data + column; }
  __device__ __forceinline__ Edge edge(int64_t e, int neighbour) const {
    const int64_t place = edges.data != nullptr && weight != nullptr ? edges[e] : e;
    return {neighbour, scale_of(weight, place) * scale_of(neighbour_scale, neighbour)};
  }
  __device__ __forceinline__ void fetch(Fetched& x, const Here& here, const Edge& mine,
                                        const Exchange& exchange, int u, bool is_there, int64_t) const {
    const int neighbour = exchange(mine.neighbour, u);
    if (is_there) x.load(features.at(neighbour, here));
  }
  __device__ __forceinline__ void take(State& state, const Here&, const Fetched* x, const Edge& mine,
                                       const Exchange& exchange, int count, int64_t) const {
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      const float factor = exchange(mine.factor, u);
#pragma unroll
      for (int i = 0; u < count && i < kVecs; ++i) state.x[i] += factor * widen(x[u].x[i]);
    }
  }
  __device__ __forceinline__ void store(int row, int column, const State& state) const {
    this->store_scaled(row, column, state, scale_of(row_scale, row));
  }
};

// The gradient of the features of a maximum, over the transpose: a row gives what it lost to this edge.
template <typename T, int kVecs>
struct MaxGradient : Sums<T, kVecs> {
  static constexpr int kBlocks = kVecs > 4 ? 4 : 6;
  using typename Sums<T, kVecs>::State;
  struct Here {
    const T* grad;
    const int* arg;
  };
  struct Edge : WeightedEdge {
    int place;  // which edge of its row
  };
  struct Fetched {
    Pack<T, kVecs> grad;
    Pack<int, kVecs> arg;
  };
  Rows<const T> grad;
  Rows<const int> arg;
  const float* weight;
  const int64_t* offsets;
  Ids edges;

  __device__ __forceinline__ Here open(int, int64_t, int column) const {
    return {grad.data + column, arg.data + column};
  }
  __device__ __forceinline__ Edge edge(int64_t e, int row) const {
    const int64_t mine = edges[e];
    return {{row, scale_of(weight, mine)}, static_cast<int>(mine - offsets[row])};
  }
  __device__ __forceinline__ void fetch(Fetched& x, const Here& here, const Edge& mine,
                                        const Exchange& exchange, int u, bool is_there, int64_t) const {
    const int row = exchange(mine.neighbour, u);
    if (is_there) x.grad.load(grad.at(row, here.grad)), x.arg.load(arg.at(row, here.arg));
  }
  __device__ __forceinline__ void take(State& state, const Here&, const Fetched* x, const Edge& mine,
                                       const Exchange& exchange, int count, int64_t) const {
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      const float factor = exchange(mine.factor, u);
      const int place = exchange(mine.place, u);
#pragma unroll
      for (int i = 0; u < count && i < kVecs; ++i)
        if (x[u].arg.x[i] == place) state.x[i] += factor * widen(x[u].grad.x[i]);
    }
  }
  __device__ __forceinline__ void store(int row, int column, const State& state) const {
    this->store_scaled(row, column, state, 1.f);
  }
};

// The largest message of each column and which edge of the row sent it, the first of equals; NaN wins.
template <typename T, int kVecs>
struct Max {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = 6;
  static constexpr bool kGathers = true;
  struct State {
    float x[kVec];
    int count[kVec];  // the number of the edge in its row plus one; 0 where there is none
  };
  struct Here {
    const T* features;
    int64_t start;
  };
  using Edge = WeightedEdge;
  using Fetched = Pack<T, kVec>;
  Rows<const T> features;
  const float* weight;
  Rows<T> output;
  Rows<int> arg;
  Rows<float> partial;  // [slots, 2 D]: values, and counts as bits

  __device__ __forceinline__ Here open(int, int64_t start, int column) const {
    return {features.data + column, start};
  }
  __device__ __forceinline__ Edge edge(int64_t e, int neighbour) const {
    return {neighbour, scale_of(weight, e)};
  }
  __device__ __forceinline__ void fetch(Fetched& x, const Here& here, const Edge& mine,
                                        const Exchange& exchange, int u, bool is_there, int64_t) const {
    const int neighbour = exchange(mine.neighbour, u);
    if (is_there) x.load(features.at(neighbour, here.features));
  }
  __device__ __forceinline__ static void better(float& x, int& count, float y, int other) {
    const bool x_nan = x != x, y_nan = y != y;
    const bool equal = (x_nan && y_nan) || x == y;
    const bool larger = !x_nan && (y_nan || y > x);
    if (other != 0 && (count == 0 || larger || (equal && other < count))) x = y, count = other;
  }
  __device__ __forceinline__ void take(State& state, const Here& here, const Fetched* x, const Edge& mine,
                                       const Exchange& exchange, int count, int64_t e) const {
    const int place = static_cast<int>(e - here.start) + 1;
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      const float factor = exchange(mine.factor, u);
#pragma unroll
      for (int i = 0; u < count && i < kVec; ++i)
        better(state.x[i], state.count[i], factor * widen(x[u].x[i]), place + u);
    }
  }
  __device__ __forceinline__ void merge(State& a, const State& b) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) better(a.x[i], a.count[i], b.x[i], b.count[i]);
  }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    Pack<float, kVec> values;
    Pack<int, kVec> counts;
#pragma unroll
    for (int i = 0; i < kVec; ++i) values.x[i] = state.x[i], counts.x[i] = state.count[i];
    float* to = partial.at(slot, 2 * column);
    values.store(to);
    counts.store(reinterpret_cast<int*>(to + kVec));
  }
  __device__ __forceinline__ State get(int slot, int column) const {
    Pack<float, kVec> values;
    Pack<int, kVec> counts;
    const float* from = partial.at(slot, 2 * column);
    values.load(from);
    counts.load(reinterpret_cast<const int*>(from + kVec));
    State state;
#pragma unroll
    for (int i = 0; i < kVec; ++i) state.x[i] = values.x[i], state.count[i] = counts.x[i];
    return state;
  }
  __device__ __forceinline__ void store(int row, int column, const State& state) const {
    Pack<T, kVec> pack;
    Pack<int, kVec> places;
#pragma unroll
    for (int i = 0; i < kVec; ++i) narrow(state.x[i], pack.x[i]), places.x[i] = state.count[i] - 1;
    pack.store(output.at(row, column));
    places.store(arg.at(row, column));
  }
};

// row_scale * neighbour_scale * left . right
template <typename T, int kVecs>
struct Dot {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = 6;
  struct Fetched {
    Pack<T, kVec> left, right;
  };
  Rows<const T> left, right;
  const float *row_scale, *neighbour_scale;

  __device__ __forceinline__ void fetch(Fetched& x, const DotEdge& edge, int column) const {
    x.left.load(left.at(edge.row, column));
    x.right.load(right.at(edge.neighbour, column));
  }
  __device__ __forceinline__ float product(const Fetched& x, const DotEdge&) const {
    return cuda::product(x.left, x.right);
  }
  __device__ __forceinline__ float factor(const DotEdge& edge) const {
    return scale_of(row_scale, edge.row) * scale_of(neighbour_scale, edge.neighbour);
  }
};

// The gradient of the weights of a maximum: the columns that this edge won.
template <typename T, int kVecs>
struct WonDot {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = kVec > 1 ? 4 : 6;
  struct Fetched {
    Pack<T, kVec> grad, features;
    Pack<int, kVec> winner;
  };
  Rows<const T> grad, features;
  Rows<const int> arg;

  __device__ __forceinline__ void fetch(Fetched& x, const DotEdge& edge, int column) const {
    x.grad.load(grad.at(edge.row, column));
    x.features.load(features.at(edge.neighbour, column));
    x.winner.load(arg.at(edge.row, column));
  }
  __device__ __forceinline__ float product(const Fetched& x, const DotEdge& edge) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVec; ++i)
      if (x.winner.x[i] == edge.place) sum += widen(x.grad.x[i]) * widen(x.features.x[i]);
    return sum;
  }
  __device__ __forceinline__ float factor(const DotEdge&) const { return 1.f; }
};

}  // namespace

int64_t graph_scratch(int64_t rows, int64_t edges, int64_t width) {
  expect_that(rows >= 0 && edges >= 0 && width >= 0, "graph_scratch", "sizes of at least 0", "less");
  return scratch_bytes(edges, width);
}

void graph_sum(const GraphSumArgs& args, Stream stream) {
  expect_features(args.features, "features");
  const int64_t width = args.features.shape[1];
  const auto [rows, edges] = expect_matrix(args.offsets, args.neighbours);
  if (args.edges) expect_ids_on_gpu(args.edges, "edges", args.neighbours.dtype, edges);
  expect_scale(args.weight, "weight", edges);
  expect_scale(args.row_scale, "row_scale", rows);
  expect_scale(args.neighbour_scale, "neighbour_scale", args.features.shape[0]);
  expect_output(args.output, "output", args.features.dtype, {rows, width}, Device::cuda);
  expect_scratch(args.scratch, "scratch", graph_scratch(rows, edges, width), Device::cuda);
  const Scratch scratch = scratch_of(args.scratch.as<char>(), edges);
  const Matrix m = matrix_of(args.offsets, args.neighbours, width, scratch.owned);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        Sum<T, decltype(vec)::value> op{};
        op.output = rows_of<T>(args.output, "output");
        op.partial = rows_of(scratch.partial, width);
        op.features = rows_of<const T>(args.features, "features");
        op.weight = args.weight.as<const float>();
        op.row_scale = args.row_scale.as<const float>();
        op.neighbour_scale = args.neighbour_scale.as<const float>();
        op.edges = ids_of(args.edges);
        reduce_rows(op, m, static_cast<cudaStream_t>(stream));
      },
      args.features, args.output);
}

void graph_dot(const GraphDotArgs& args, Stream stream) {
  expect_features(args.left, "left");
  const auto [rows, edges] = expect_matrix(args.offsets, args.neighbours);
  const int64_t width = args.left.shape[1];
  expect(args.right, "right", args.left.dtype, {kAnySize, width}, Device::cuda);
  expect_that(
      rows == args.left.shape[0], "left", [&, r = rows] { return std::to_string(r) + " rows"; },
      args.left.shape[0]);
  expect_scale(args.row_scale, "row_scale", rows);
  expect_scale(args.neighbour_scale, "neighbour_scale", args.right.shape[0]);
  expect_output(args.output, "output", DType::f32, {edges}, Device::cuda);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        Dot<T, decltype(vec)::value> op{};
        op.left = rows_of<const T>(args.left, "left");
        op.right = rows_of<const T>(args.right, "right");
        op.row_scale = args.row_scale.as<const float>();
        op.neighbour_scale = args.neighbour_scale.as<const float>();
        dot_rows(op, matrix_of(args.offsets, args.neighbours, width), args.output.as<float>(),
                 static_cast<cudaStream_t>(stream));
      },
      args.left, args.right);
}

void graph_max(const GraphMaxArgs& args, Stream stream) {
  expect_features(args.features, "features");
  const int64_t width = args.features.shape[1];
  const auto [rows, edges] = expect_matrix(args.offsets, args.neighbours);
  expect_scale(args.weight, "weight", edges);
  expect_output(args.output, "output", args.features.dtype, {rows, width}, Device::cuda);
  expect_output(args.arg, "arg", DType::i32, {rows, width}, Device::cuda);
  expect_scratch(args.scratch, "scratch", graph_scratch(rows, edges, 2 * width), Device::cuda);
  const Scratch scratch = scratch_of(args.scratch.as<char>(), edges);
  const Matrix m = matrix_of(args.offsets, args.neighbours, width, scratch.owned);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        Max<T, decltype(vec)::value> op{};
        op.features = rows_of<const T>(args.features, "features");
        op.weight = args.weight.as<const float>();
        op.output = rows_of<T>(args.output, "output");
        op.arg = rows_of<int>(args.arg, "arg");
        op.partial = rows_of(scratch.partial, 2 * width);
        reduce_rows(op, m, static_cast<cudaStream_t>(stream));
      },
      args.features, args.output);
}

void graph_max_backward(const GraphMaxBackwardArgs& args, Stream stream) {
  expect_features(args.features, "features");
  const int64_t nodes = args.features.shape[0], width = args.features.shape[1];
  const auto [rows, edges] = expect_matrix(args.offsets, args.neighbours);
  const DType ids = args.neighbours.dtype;
  expect(args.grad_output, "grad_output", args.features.dtype, {rows, width}, Device::cuda);
  expect_scale(args.weight, "weight", edges);
  expect_packed(args.transposed_offsets, "transposed_offsets", DType::i64, {nodes + 1}, Device::cuda);
  expect_ids_on_gpu(args.rows, "rows", ids, edges);
  expect_ids_on_gpu(args.edges, "edges", ids, edges);
  expect_packed(args.arg, "arg", DType::i32, {rows, width}, Device::cuda);
  expect_output(args.grad_features, "grad_features", args.features.dtype, {nodes, width}, Device::cuda);
  if (args.grad_weight) expect_output(args.grad_weight, "grad_weight", DType::f32, {edges}, Device::cuda);
  expect_scratch(args.scratch, "scratch", graph_scratch(nodes, edges, width), Device::cuda);
  const Scratch scratch = scratch_of(args.scratch.as<char>(), edges);
  const Matrix transposed = matrix_of(args.transposed_offsets, args.rows, width, scratch.owned);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        constexpr int kVec = decltype(vec)::value;
        const auto on = static_cast<cudaStream_t>(stream);
        MaxGradient<T, kVec> op{};
        op.output = rows_of<T>(args.grad_features, "grad_features");
        op.partial = rows_of(scratch.partial, width);
        op.grad = rows_of<const T>(args.grad_output, "grad_output");
        op.arg = rows_of<const int>(args.arg, "arg");
        op.weight = args.weight.as<const float>();
        op.offsets = args.offsets.as<const int64_t>();
        op.edges = ids_of(args.edges);
        reduce_rows(op, transposed, on);
        if (!args.grad_weight) return;
        const WonDot<T, kVec> won{rows_of<const T>(args.grad_output, "grad_output"),
                                  rows_of<const T>(args.features, "features"),
                                  rows_of<const int>(args.arg, "arg")};
        dot_rows(won, matrix_of(args.offsets, args.neighbours, width), args.grad_weight.as<float>(), on);
      },
      args.features, args.grad_output, args.grad_features);
}

}  // namespace chronorec::cuda
