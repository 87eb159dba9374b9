// Graph attention backward; graph_rows.cuh says how rows are shared out.
#include "cuda/graph_attention.cuh"
#include "cuda/on_stream.h"

namespace chronorec::cuda {
namespace {

// With p_e the weight of edge e, g the gradient of the output of its row r and x the features of its
// neighbour n, per head: the gradient of the edge's score is p_e (g . x - g . output[r]), that of the
// features of n is the sum of p_e g over the edges of n. Both want row g once: one pass over the transpose
// does all, and spreads the scores' gradients to the edges, where rows add them up in order.
template <typename T, int kVecs>
struct Backward {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = kVec > 1 ? 4 : 6;
  static constexpr bool kGathers = true;
  struct State {
    float x[kVec] = {};
    float total = 0;  // of the gradients of the scores
  };
  struct Here {
    Place place;
    float own;  // the score of the neighbour, whose features these are
    Pack<T, kVec> features;
    const T *own_features, *grad;  // where they lie, and what the first row has
    const float4* stats;
  };
  struct Edge {
    int row;
    int64_t scores;  // where those of the edge begin
  };
  struct Fetched {
    Pack<T, kVec> grad;
    float4 stats;
    float edge;
  };
  Heads heads;
  Rows<const T> grad, features;
  Rows<const float4> stats;  // [R, A]: score of the row, the two of the softmax, g . output
  const float *source_score, *edge_score;
  Ids edges;
  float slope;
  Rows<T> grad_features;
  float *grad_source_score, *grad_edge_score;
  States<State, kVec> partial;

  __device__ __forceinline__ Here open(int neighbour, int64_t, int column) const {
    Here here;
    here.place = heads.place<kVec>(column);
    here.own = source_score[heads.score(neighbour, here.place)];
    const int first = heads.column(here.place);
    here.own_features = features.at(neighbour, first);
    here.features.load(here.own_features);
    here.grad = grad.data + first;
    here.stats = stats.data + here.place.head;
    return here;
  }
  __device__ __forceinline__ Edge edge(int64_t e, int row) const { return {row, edges[e] * heads.heads}; }
  __device__ __forceinline__ void fetch(Fetched& x, const Here& here, const Edge& mine,
                                        const Exchange& exchange, int u, bool is_there, int64_t) const {
    const int row = exchange(mine.row, u);
    const int64_t scores = edge_score == nullptr ? 0 : exchange(mine.scores, u);
    if (!is_there) return;
    x.stats = *stats.at(row, here.stats);
    x.edge = edge_score == nullptr ? 0.f : edge_score[scores + here.place.head];
    x.grad.load(grad.at(row, here.grad));
  }
  // g . x of each edge; of a head wider than a warp the first warp makes it, of all columns.
  __device__ __forceinline__ void products(float (&dot)[kReadsAhead], const Here& here, const Fetched* x,
                                           const Edge& mine, const Exchange& exchange, int count) const {
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u)
      dot[u] = u < count && here.place.stores ? product(x[u].grad, here.features) : 0.f;
    constexpr int kStep = 32 * kVec;
    for (int i = kStep; i < heads.width && heads.lanes > 32; i += kStep) {
      const bool reads = here.place.offset < kStep && here.place.offset + i < heads.width;
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u) {
        const int row = exchange(mine.row, u);
        if (u >= count || !reads) continue;
        Pack<T, kVec> a, b;
        a.load(grad.at(row, here.grad + i));
        b.load(here.own_features + i);
        dot[u] += product(a, b);
      }
    }
    heads.add_up(dot);
  }
  __device__ __forceinline__ void take(State& state, const Here& here, const Fetched* x, const Edge& mine,
                                       const Exchange& exchange, int count, int64_t) const {
    float dot[kReadsAhead];
    products(dot, here, x, mine, exchange, count);
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      const int64_t scores = exchange(mine.scores, u);
      if (u >= count) continue;
      const float score = here.own + x[u].edge + x[u].stats.x;
      const float weight = expf(leaky(score, slope) - x[u].stats.y) * x[u].stats.z;
      const float steep = weight * (dot[u] - x[u].stats.w), sloped = score > 0 ? steep : steep * slope;
      state.total += sloped;
      if (here.place.leads()) grad_edge_score[scores + here.place.head] = sloped;
#pragma unroll
      for (int i = 0; i < kVec; ++i) state.x[i] += weight * widen(x[u].grad.x[i]);
    }
  }
  __device__ __forceinline__ void merge(State& a, const State& b) const {
    a.total += b.total;
#pragma unroll
    for (int i = 0; i < kVec; ++i) a.x[i] += b.x[i];
  }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    partial.put(slot, column, state);
  }
  __device__ __forceinline__ State get(int slot, int column) const { return partial.get(slot, column); }
  __device__ __forceinline__ void store(int neighbour, int column, const State& state) const {
    const Place place = heads.place<kVec>(column);
    if (place.stores) {
      Pack<T, kVec> pack;
#pragma unroll
      for (int i = 0; i < kVec; ++i) narrow(state.x[i], pack.x[i]);
      pack.store(grad_features.at(neighbour, heads.column(place)));
    }
    if (place.leads()) grad_source_score[heads.score(neighbour, place)] = state.total;
  }
};

// The sums over the edges of a row, which lie side by side, of one number per head: as many edges at a time
// as lanes are left, `lanes` being those of one edge.
struct RowScores {
  static constexpr int kVec = 1;
  static constexpr int kBlocks = 8;
  static constexpr bool kGathers = false;
  static constexpr int kUnroll = 4;
  struct State {
    float x = 0;
  };
  struct Here {
    int head, first;
  };
  int heads, lanes, phases;
  const float* scores;  // [E, A]
  float* output;        // [R, A]
  States<State, 1> partial;

  __device__ __forceinline__ Here open(int, int64_t, int column) const {
    return {column % lanes, column / lanes};
  }
  __device__ __forceinline__ void take_all(const Here& here, int64_t begin, int64_t end, State& state) const {
    const int64_t last = here.head < heads ? end : begin;
    for (int64_t e = begin + here.first; e < last; e += kUnroll * phases) {
      float x[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        x[u] = e + u * phases < last ? scores[(e + u * phases) * heads + here.head] : 0.f;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) state.x += x[u];
    }
    for (int step = (phases / 2) * lanes; step >= lanes; step /= 2)
      state.x += __shfl_xor_sync(kAllLanes, state.x, step);
  }
  __device__ __forceinline__ void merge(State& a, const State& b) const { a.x += b.x; }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    partial.put(slot, column, state);
  }
  __device__ __forceinline__ State get(int slot, int column) const { return partial.get(slot, column); }
  __device__ __forceinline__ void store(int row, int column, const State& state) const {
    if (column < heads) output[static_cast<int64_t>(row) * heads + column] = state.x;
  }
};

// stats of Backward, a team to a row and no more than a warp to a head.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    make_stats(const Heads heads, const int team, const int64_t rows, const Rows<const T> grad,
               const T* output, const float* destination_score, const float* softmax, float4* stats) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / team) + threadIdx.x / team;
  const int member = static_cast<int>(threadIdx.x) & (team - 1);
  const Place place = heads.place<kVec>((static_cast<int>(blockIdx.y) * team + member) * kVec);
  const bool there = row < rows && place.head < heads.heads;
  const int64_t at = row * heads.heads + place.head;
  float dot[1] = {};
  for (int i = place.offset; there && i < heads.width; i += heads.lanes * kVec) {
    Pack<T, kVec> a, b;
    a.load(grad.at(static_cast<int>(row), place.head * heads.width + i));
    b.load(output + at * heads.width + i);
    dot[0] += product(a, b);
  }
  heads.add_up(dot);
  if (!there || !place.leads()) return;
  const float* kept = softmax + 2 * row * heads.heads + place.head;
  stats[at] = {destination_score[at], kept[0], kept[heads.heads], dot[0]};
}

int64_t stats_bytes(int64_t rows, int64_t heads) {
  return (rows * heads * static_cast<int64_t>(sizeof(float4)) + 63) / 64 * 64;
}

template <typename T, int kVec>
void launch_stats(Heads heads, const Rows<const T>& grad, const GraphAttentionBackwardArgs& args,
                  float4* stats, cudaStream_t stream) {
  const int64_t rows = args.output.shape[0];
  if (rows == 0 || heads.heads == 0) return;
  heads.lanes = min(heads.lanes, 32);
  const int lanes = lanes_of(heads);
  const int team = team_of(lanes, 1), teams = kThreads / team;
  const dim3 grid(static_cast<unsigned>((rows + teams - 1) / teams),
                  static_cast<unsigned>((lanes + team - 1) / team));
  CHRONOREC_LAUNCH((make_stats<T, kVec>), grid, kThreads, 0, stream, heads, team, rows, grad,
                   args.output.as<const T>(), args.destination_score.as<const float>(),
                   args.softmax.as<const float>(), stats);
}

void sum_row_scores(const GraphAttentionBackwardArgs& args, const Scratch& scratch, cudaStream_t stream) {
  const int heads = static_cast<int>(args.grad_edge_score.shape[1]);
  int lanes = 1;
  while (lanes < heads) lanes *= 2;
  const int phases = lanes < 32 ? min(4, 32 / lanes) : 1, columns = heads == 0 ? 0 : lanes * phases;
  RowScores op{};
  op.heads = heads;
  op.lanes = lanes;
  op.phases = phases;
  op.scores = args.grad_edge_score.as<const float>();
  op.output = args.grad_destination_score.as<float>();
  op.partial = {scratch.partial, columns};
  reduce_rows(op, matrix_of(args.offsets, args.rows, columns, scratch.owned), stream);
}

}  // namespace

int64_t graph_attention_backward_scratch(int64_t rows, int64_t neighbours, int64_t edges, int64_t heads,
                                         int64_t width) {
  expect_that(neighbours >= 0, "neighbours", "at least 0", neighbours);
  return graph_attention_scratch(rows, edges, heads, width) + stats_bytes(rows, heads);
}

void graph_attention_backward(const GraphAttentionBackwardArgs& args, Stream stream) {
  const Sizes s = expect_inputs(args.features, args.source_score);
  const DType dtype = args.features.dtype;
  const auto [rows, edges] = expect_matrix(args.offsets, args.rows, "rows");
  expect_packed(args.transposed_offsets, "transposed_offsets", DType::i64, {s.neighbours + 1}, Device::cuda);
  expect_ids_on_gpu(args.edges, "edges", args.rows.dtype, edges);
  expect_rows(args.grad_output, "grad_output", dtype, {rows, s.heads, s.width}, Device::cuda);
  expect_scores(args.destination_score, "destination_score", rows, s.heads);
  if (args.edge_score) expect_scores(args.edge_score, "edge_score", edges, s.heads);
  expect_packed(args.output, "output", dtype, {rows, s.heads, s.width}, Device::cuda);
  expect_packed(args.softmax, "softmax", DType::f32, {rows, 2, s.heads}, Device::cuda);
  expect_output(args.grad_features, "grad_features", dtype, {s.neighbours, s.heads, s.width}, Device::cuda);
  expect_output(args.grad_source_score, "grad_source_score", DType::f32, {s.neighbours, s.heads},
                Device::cuda);
  expect_output(args.grad_destination_score, "grad_destination_score", DType::f32, {rows, s.heads},
                Device::cuda);
  expect_output(args.grad_edge_score, "grad_edge_score", DType::f32, {edges, s.heads}, Device::cuda);
  expect_scratch(args.scratch, "scratch",
                 graph_attention_backward_scratch(rows, s.neighbours, edges, s.heads, s.width), Device::cuda);
  auto* stats = args.scratch.as<float4>();
  const Scratch scratch = scratch_of(args.scratch.as<char>() + stats_bytes(rows, s.heads), edges);
  const auto on = static_cast<cudaStream_t>(stream);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        Backward<T, decltype(vec)::value> op{};
        op.heads = heads_of(s.heads, s.width, op.kVec);
        op.grad = rows_of<const T>(args.grad_output, "grad_output");
        op.features = rows_of<const T>(args.features, "features");
        op.source_score = args.source_score.as<const float>();
        op.edge_score = args.edge_score.as<const float>();
        op.stats = rows_of<const float4>(stats, s.heads);
        op.edges = ids_of(args.edges);
        op.slope = static_cast<float>(args.negative_slope);
        op.grad_features = rows_of<T>(args.grad_features, "grad_features");
        op.grad_source_score = args.grad_source_score.as<float>();
        op.grad_edge_score = args.grad_edge_score.as<float>();
        op.partial = {scratch.partial, lanes_of(op.heads)};
        launch_stats<T, op.kVec>(op.heads, op.grad, args, stats, on);
        const int columns = lanes_of(op.heads) * op.kVec;
        reduce_rows(op, matrix_of(args.transposed_offsets, args.rows, columns, scratch.owned), on);
      },
      args.features, args.grad_output, args.output, args.grad_features);
  sum_row_scores(args, scratch, on);
}

}  // namespace chronorec::cuda
