// Reductions over the rows of a CSR matrix, for every op over the edges of a graph.
//
// A row is read by a team: the 1 to 32 neighbouring lanes that its columns fill, so several rows of a narrow
// matrix share a warp, which runs as long as the longest of them. A row of more than kPart edges would hold
// up its warp: it is left to the parts, stretches of kPart edges of the whole matrix, one team each. Such a
// row meets a part at its end ("tail": it goes on in the next one) or from its start ("head"), so a part has
// two slots for partial results; a second kernel adds the slots of every long row. All of it depends on
// the sizes alone and nothing is atomic: results are the same bit for bit. The host never sees the lengths.
//
// What is done with an edge says `Op`, a struct passed by value:
//   kVec, State (of a team's lane: kVec columns), Fetched
//   Edge edge(e, neighbour)              what to know of edge e besides its features; read by one lane each
//   Fetched fetch(edge, column)          reads kVec columns, kept apart so that several reads are under way
//   void take(State&, Fetched, Edge, place)  place: the number of the edge in its row
//   void merge(State&, const State&)     a later part of the same row
//   void put(slot, column, State), State get(slot, column)   partial results
//   void store(row, column, State)
#pragma once
#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace chronorec::cuda {
namespace {

constexpr int kPart = 512;
constexpr int kThreads = 256;
constexpr unsigned kAllLanes = ~0u;
constexpr int kReadsAhead = 4;

// int32 or int64 ids.
struct Ids {
  const void* data;
  bool wide;
  __device__ __forceinline__ int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

struct Matrix {
  const int64_t* offsets;
  Ids neighbours;
  int64_t rows, edges;
  int width;       // columns of the features
  int team;        // lanes that read a row: a power of two
  int64_t* owned;  // [parts]: the long row that starts in a part, or -1
  __host__ __device__ int64_t parts() const { return (edges + kPart - 1) / kPart; }
};

// What every edge brings along; ops leave out of the shuffles what they do not use.
struct Edge {
  int64_t neighbour;
  float factor;
  int place;
};

// The row of edge e: the last that starts at or before e and is not empty.
__device__ __forceinline__ int64_t row_of(const Matrix& m, int64_t e) {
  int64_t low = 0, high = m.rows;  // offsets[low] <= e < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (m.offsets[middle] <= e)
      low = middle;
    else
      high = middle;
  }
  return low;
}

__device__ __forceinline__ int most_of_warp(int value) { return __reduce_max_sync(kAllLanes, value); }

// Takes the edges [begin, end) of the row that starts at `start` into the state of the team. All lanes of the
// warp come here together, whatever their teams have to do.
template <typename Op>
__device__ __forceinline__ void take_edges(const Op& op, const Matrix& m, int64_t start, int64_t begin,
                                           int64_t end, int column, typename Op::State& state) {
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int length = static_cast<int>(end - begin);
  const int longest = most_of_warp(length);
  const bool reads = column < m.width;
  for (int base = 0; base < longest; base += m.team) {
    Edge mine{0, 0.f, 0};
    if (base + member < length) mine = op.edge(begin + base + member, m.neighbours[begin + base + member]);
    const int most = min(m.team, longest - base);
    for (int j = 0; j < most; j += kReadsAhead) {
      Edge edge[kReadsAhead];
      typename Op::Fetched fetched[kReadsAhead];
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u) {
        edge[u].neighbour = __shfl_sync(kAllLanes, mine.neighbour, j + u, m.team);
        edge[u].factor = __shfl_sync(kAllLanes, mine.factor, j + u, m.team);
        if constexpr (Op::kUsesPlace) edge[u].place = __shfl_sync(kAllLanes, mine.place, j + u, m.team);
        if (reads && j + u < m.team && base + j + u < length) fetched[u] = op.fetch(edge[u], column);
      }
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u)
        if (reads && j + u < m.team && base + j + u < length)
          op.take(state, fetched[u], edge[u], static_cast<int>(begin - start) + base + j + u);
    }
  }
}

// The long rows among one part's edges, into its slots.
template <typename Op>
__device__ __forceinline__ void take_part(const Op& op, const Matrix& m, int64_t part, int column) {
  const int64_t first = part * kPart, last = min(first + kPart, m.edges);
  int64_t head = -1, owned = -1;
  for (int slot = 0; slot < 2; ++slot) {
    int64_t start = 0, begin = 0, end = 0;
    if (first < last) {
      const int64_t row = row_of(m, slot == 0 ? first : last - 1);
      const int64_t from = m.offsets[row], to = m.offsets[row + 1];
      if (to - from > kPart && row != head) {
        start = from, begin = max(from, first), end = min(to, last);
        if (from >= first) owned = row;
      }
      head = row;
    }
    typename Op::State state{};
    take_edges(op, m, start, begin, end, column, state);
    if (begin < end && column < m.width) op.put(2 * part + slot, column, state);
  }
  const bool leads = (threadIdx.x & (m.team - 1)) == 0 && blockIdx.y == 0;
  if (first < last && leads) m.owned[part] = owned;
}

template <typename Op>
__global__ void __launch_bounds__(kThreads, 2) gather_rows(const Op op, const Matrix m) {
  const int teams = kThreads / m.team, team = static_cast<int>(threadIdx.x) / m.team;
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int column = (static_cast<int>(blockIdx.y) * m.team + member) * Op::kVec;
  const int64_t part_blocks = (m.parts() + teams - 1) / teams;
  if (blockIdx.x < part_blocks) {  // first, since a part is more work than most rows
    take_part(op, m, static_cast<int64_t>(blockIdx.x) * teams + team, column);
    return;
  }
  const int64_t row = (blockIdx.x - part_blocks) * teams + team;
  int64_t begin = 0, end = 0;
  if (row < m.rows) begin = m.offsets[row], end = m.offsets[row + 1];
  const bool is_long = end - begin > kPart;
  typename Op::State state{};
  take_edges(op, m, begin, begin, is_long ? begin : end, column, state);
  if (row < m.rows && !is_long && column < m.width) op.store(row, column, state);
}

// The slot of a long row in a part that it reaches.
__device__ __forceinline__ int64_t slot_of(int64_t begin, int64_t part) {
  return 2 * part + (begin > part * kPart ? 1 : 0);
}

// The long rows that start in 32 parts, one after the other: every team adds every n-th slot, then one team
// adds the sums of the teams. One block.
template <typename Op>
__global__ void __launch_bounds__(kThreads, 2) finish_rows(const Op op, const Matrix m) {
  CHRONOREC_DYNAMIC_SHARED(typename Op::State, states);
  const int teams = kThreads / m.team, team = static_cast<int>(threadIdx.x) / m.team;
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int column = (static_cast<int>(blockIdx.y) * m.team + member) * Op::kVec;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  const int64_t here = min(m.parts() - first, int64_t{32});
  for (int64_t part = first; part < first + here; ++part) {
    const int64_t row = m.owned[part];
    if (row < 0) continue;  // for all threads alike
    const int64_t begin = m.offsets[row], last = (m.offsets[row + 1] - 1) / kPart;
    typename Op::State state{};
    if (column < m.width)
      for (int64_t p = part + team; p <= last; p += teams) op.merge(state, op.get(slot_of(begin, p), column));
    states[threadIdx.x] = state;
    __syncthreads();
    if (team == 0 && column < m.width) {
      for (int t = 1; t < teams; ++t) op.merge(state, states[t * m.team + member]);
      op.store(row, column, state);
    }
    __syncthreads();
  }
}

// Lanes for a row of `width` columns, `vec` to a lane.
inline int team_of(int64_t width, int vec) {
  int team = 1;
  while (team < 32 && static_cast<int64_t>(team) * vec < width) team *= 2;
  return team;
}

template <typename Op>
void reduce_rows(const Op& op, Matrix m, cudaStream_t stream) {
  if (m.rows == 0 || m.width == 0) return;
  m.team = team_of(m.width, Op::kVec);
  const int64_t teams = kThreads / m.team, columns = static_cast<int64_t>(m.team) * Op::kVec;
  const auto blocks = static_cast<unsigned>((m.parts() + teams - 1) / teams + (m.rows + teams - 1) / teams);
  const auto tiles = static_cast<unsigned>((m.width + columns - 1) / columns);
  CHRONOREC_LAUNCH(gather_rows<Op>, dim3(blocks, tiles), kThreads, 0, stream, op, m);
  if (m.edges <= kPart) return;
  constexpr size_t kShared = kThreads * sizeof(typename Op::State);
  const auto owners = static_cast<unsigned>((m.parts() + 31) / 32);
  CHRONOREC_LAUNCH(finish_rows<Op>, dim3(owners, tiles), kThreads, kShared, stream, op, m);
}

}  // namespace
}  // namespace chronorec::cuda
