// Graph attention forward; graph_rows.cuh says how rows are shared out.
#include "cuda/graph_attention.cuh"
#include "cuda/on_stream.h"

namespace chronorec::cuda {
namespace {

template <typename T, int kVecs>
struct Forward {
  static constexpr int kVec = kVecs;
  static constexpr int kBlocks = kVec > 1 ? 6 : 8;
  static constexpr bool kGathers = true;
  // A softmax in progress: sums of exp(score - shift_of(top)), with the features and without.
  struct State {
    float x[kVec] = {};
    float top = -INFINITY, total = 0;
  };
  struct Here {
    float own;  // the score of the row
    // what the first neighbour and the first edge have
    const T* features;
    const float *source_score, *edge_score;
  };
  struct Edge {
    int neighbour;
  };
  struct Fetched {
    Pack<T, kVec> features;
    float source, edge;
  };
  Heads heads;
  Rows<const T> features;
  Rows<const float> source_score;
  const float *destination_score, *edge_score;
  float slope;
  Rows<T> output;
  float* softmax;
  States<State, kVec> partial;

  __device__ __forceinline__ Here open(int row, int64_t, int column) const {
    const Place place = heads.place<kVec>(column);
    return {destination_score[heads.score(row, place)], features.data + heads.column(place),
            source_score.data + place.head, edge_score == nullptr ? nullptr : edge_score + place.head};
  }
  __device__ __forceinline__ Edge edge(int64_t, int neighbour) const { return {neighbour}; }
  __device__ __forceinline__ void fetch(Fetched& x, const Here& here, const Edge& mine,
                                        const Exchange& exchange, int u, bool is_there, int64_t e) const {
    const int neighbour = exchange(mine.neighbour, u);
    if (!is_there) return;
    x.source = *source_score.at(neighbour, here.source_score);
    x.edge = edge_score == nullptr ? 0.f : here.edge_score[e * heads.heads + u * heads.heads];
    x.features.load(features.at(neighbour, here.features));
  }
  // Takes in a largest score.
  __device__ __forceinline__ static void raise(State& state, float top) {
    const float before = state.top;
    state.top = fmaxf(before, top);
    const float factor = expf(before - shift_of(state.top));
    state.total *= factor;
#pragma unroll
    for (int i = 0; i < kVec; ++i) state.x[i] *= factor;
  }
  __device__ __forceinline__ void take(State& state, const Here& here, const Fetched* x, const Edge&,
                                       const Exchange&, int count, int64_t) const {
    if (count <= 0) return;
    float score[kReadsAhead], top = -INFINITY;
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      score[u] = u < count ? leaky(x[u].source + x[u].edge + here.own, slope) : -INFINITY;
      top = fmaxf(top, score[u]);
    }
    raise(state, top);
#pragma unroll
    for (int u = 0; u < kReadsAhead; ++u) {
      if (u >= count) continue;
      const float term = expf(score[u] - shift_of(state.top));
      state.total += term;
#pragma unroll
      for (int i = 0; i < kVec; ++i) state.x[i] += term * widen(x[u].features.x[i]);
    }
  }
  __device__ __forceinline__ void merge(State& a, const State& b) const {
    raise(a, b.top);
    const float factor = expf(b.top - shift_of(a.top));
    a.total += factor * b.total;
#pragma unroll
    for (int i = 0; i < kVec; ++i) a.x[i] += factor * b.x[i];
  }
  __device__ __forceinline__ void put(int slot, int column, const State& state) const {
    partial.put(slot, column, state);
  }
  __device__ __forceinline__ State get(int slot, int column) const { return partial.get(slot, column); }
  __device__ __forceinline__ void store(int row, int column, const State& state) const {
    const Place place = heads.place<kVec>(column);
    const float inverse = state.total == 0 ? 0.f : 1.f / state.total;
    if (place.stores) {
      Pack<T, kVec> pack;
#pragma unroll
      for (int i = 0; i < kVec; ++i) narrow(state.x[i] * inverse, pack.x[i]);
      pack.store(output.at(row, heads.column(place)));
    }
    if (!place.leads()) return;
    float* kept = softmax + 2 * heads.score(row, Place{}) + place.head;
    kept[0] = shift_of(state.top);
    kept[heads.heads] = inverse;
  }
};

}  // namespace

int64_t graph_attention_scratch(int64_t rows, int64_t edges, int64_t heads, int64_t width) {
  expect_that(rows >= 0 && edges >= 0 && heads >= 0 && width >= 0, "graph_attention_scratch",
              "sizes of at least 0", "less");
  return scratch_bytes(edges, slot_floats(heads, width));
}

void graph_attention_forward(const GraphAttentionForwardArgs& args, Stream stream) {
  const Sizes s = expect_inputs(args.features, args.source_score);
  const auto [rows, edges] = expect_matrix(args.offsets, args.neighbours);
  expect_scores(args.destination_score, "destination_score", rows, s.heads);
  if (args.edge_score) expect_scores(args.edge_score, "edge_score", edges, s.heads);
  expect_output(args.output, "output", args.features.dtype, {rows, s.heads, s.width}, Device::cuda);
  expect_output(args.softmax, "softmax", DType::f32, {rows, 2, s.heads}, Device::cuda);
  expect_scratch(args.scratch, "scratch", graph_attention_scratch(rows, edges, s.heads, s.width),
                 Device::cuda);
  const Scratch scratch = scratch_of(args.scratch.as<char>(), edges);
  with_types(
      [&](auto element, auto vec) {
        using T = decltype(element);
        Forward<T, decltype(vec)::value> op{};
        op.heads = heads_of(s.heads, s.width, op.kVec);
        op.features = rows_of<const T>(args.features, "features");
        op.source_score = rows_of<const float>(args.source_score, "source_score");
        op.destination_score = args.destination_score.as<const float>();
        op.edge_score = args.edge_score.as<const float>();
        op.slope = static_cast<float>(args.negative_slope);
        op.output = rows_of<T>(args.output, "output");
        op.softmax = args.softmax.as<float>();
        op.partial = {scratch.partial, lanes_of(op.heads)};
        const Matrix m =
            matrix_of(args.offsets, args.neighbours, lanes_of(op.heads) * op.kVec, scratch.owned);
        reduce_rows(op, m, static_cast<cudaStream_t>(stream));
      },
      args.features, args.output);
}

}  // namespace chronorec::cuda
