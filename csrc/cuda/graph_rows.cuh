// Reductions over the rows of a CSR matrix, for every op over the edges of a graph.
//
// A row is read by a team: the 1 to 32 neighbouring lanes that its columns fill, so several rows of a narrow
// matrix share a warp, which runs as long as the longest of them. A row of more than kPart edges would hold
// up its warp: it is left to the parts, stretches of kPart edges of the whole matrix, one team each. Such a
// row meets a part at its end ("tail": it goes on in the next one) or from its start ("head"), so a part has
// two slots for partial results; a second kernel adds the slots of every long row. All of it depends on
// the sizes alone and nothing is atomic: results are the same bit for bit. The host never sees the lengths.
//
// What is done with the edges says `Op`, a struct passed by value:
//   kVec, kBlocks (of kThreads that an SM is to hold), State (of a team's lane: kVec columns)
//
//   Here open(row, start, column)        what a lane knows before the first edge, edge `start` of all
//
//   void merge(State&, const State&)     a later part of the same row
//
//   void put(slot, column, State), State get(slot, column), void store(row, column, State)
//                                        partial results, and the row's
//
// and, unless it takes the edges [begin, end) by itself in take_all(Here, begin, end, State&):
//   Edge, Fetched
//   Edge edge(e, neighbour)              what to know of edge e besides its features; read by one lane each
//   void fetch(Fetched&, Here, Edge mine, Exchange, u, is_there, e)   of edge e + u
//                                        reads kVec columns, kept apart so that several reads are under way
//   void take(State&, Here, Fetched[], Edge mine, Exchange, count, e)
//                                        the edges e + u, u < count and count <= kReadsAhead
// The lanes of a warp come to these two together, some without an edge: exchange(mine.x, u) is x of edge u.
#pragma once
#include "cuda/graph_arrays.cuh"
#include "cuda/launch.cuh"

namespace chronorec::cuda {
namespace {

constexpr int kThreads = 128;  // few, since a block stays as long as its longest row
constexpr int kFinishThreads = 256;
constexpr unsigned kAllLanes = ~0u;
constexpr int kReadsAhead = 4;

// The row of edge e, the last that starts at or before e and is not empty, among those from `low` to before
// `high`. Eight ways at a time, since it is the waiting for one read after the other that costs.
__device__ __forceinline__ int row_of(const Matrix& m, int64_t e, int low, int high) {
  constexpr int kWays = 8;
  while (high - low > 1) {  // offsets[low] <= e < offsets[high]
    const int step = (high - low + kWays - 1) / kWays;
    int found = low;
#pragma unroll
    for (int way = 1; way < kWays; ++way) {
      const int row = low + way * step;
      if (row < high && m.offsets[row] <= e) found = row;
    }
    low = found;
    high = min(high, found + step);
  }
  return low;
}

// The same where it is `low` or most likely not far behind.
__device__ __forceinline__ int row_from(const Matrix& m, int64_t e, int low) {
  int reach = 8;
  for (; reach < m.rows - low && m.offsets[low + reach] <= e; reach = min(reach, 1 << 27) * 8) low += reach;
  return row_of(m, e, low, low + min(reach, m.rows - low));
}

// Adds each number over neighbouring lanes, a power of two of them; all get the sums.
template <int kCount>
__device__ __forceinline__ void add_up(float (&x)[kCount], int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2)
#pragma unroll
    for (int u = 0; u < kCount; ++u) x[u] += __shfl_xor_sync(kAllLanes, x[u], step);
}

// A number of the lane of the team that has read it for the edge `first + u`.
struct Exchange {
  int first, team;
  template <typename V>
  __device__ __forceinline__ V operator()(V mine, int u) const {
    return __shfl_sync(kAllLanes, mine, first + u, team);
  }
};

__device__ __forceinline__ int most_of_warp(int value) { return __reduce_max_sync(kAllLanes, value); }

// Takes the edges [begin, end) of a row into the state of the team. All lanes of the warp come here together,
// whatever their teams have to do.
template <typename Op>
__device__ __forceinline__ void gather(const Op& op, const Matrix& m, const typename Op::Here& here,
                                       int64_t begin, int64_t end, int column, typename Op::State& state) {
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int length = static_cast<int>(end - begin);
  const int longest = most_of_warp(length);
  const int readable = column < m.width ? length : 0;
  for (int base = 0; base < longest; base += m.team) {
    typename Op::Edge mine{};
    if (base + member < length)
      mine = op.edge(begin + base + member, static_cast<int>(m.neighbours[begin + base + member]));
    const int most = min(m.team, longest - base);
    for (int j = 0; j < most; j += kReadsAhead) {
      const int count = min(m.team - j, readable - base - j);
      const int64_t first = begin + base + j;
      const Exchange exchange{j, m.team};
      typename Op::Fetched fetched[kReadsAhead];
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u) op.fetch(fetched[u], here, mine, exchange, u, u < count, first);
      op.take(state, here, fetched, mine, exchange, count, first);
    }
  }
}

// Edges [begin, end) of the row, which starts at `start`, as the op takes them.
template <typename Op>
__device__ __forceinline__ typename Op::State reduce_edges(const Op& op, const Matrix& m, int row,
                                                           int64_t start, int64_t begin, int64_t end,
                                                           int column) {
  typename Op::Here here{};
  if (begin < end && column < m.width) here = op.open(row, start, column);
  typename Op::State state{};
  if constexpr (Op::kGathers)
    gather(op, m, here, begin, end, column, state);
  else
    op.take_all(here, begin, column < m.width ? end : begin, state);
  return state;
}

// The long rows among one part's edges, into its slots.
template <typename Op>
__device__ __forceinline__ void take_part(const Op& op, const Matrix& m, int64_t part, int column) {
  const int64_t first = part * kPart, last = min(first + kPart, m.edges);
  int head = -1, owned = -1;
  for (int slot = 0; slot < 2; ++slot) {
    int row = 0;
    int64_t start = 0, begin = 0, end = 0;
    if (first < last) {
      row = slot == 0 ? row_of(m, first, 0, m.rows) : row_from(m, last - 1, head);
      const int64_t from = m.offsets[row], to = m.offsets[row + 1];
      if (to - from > kPart && row != head) {
        start = from, begin = max(from, first), end = min(to, last);
        if (from >= first) owned = row;
      }
      head = row;
    }
    const auto state = reduce_edges(op, m, row, start, begin, end, column);
    if (begin < end && column < m.width) op.put(static_cast<int>(2 * part) + slot, column, state);
  }
  const bool leads = (threadIdx.x & (m.team - 1)) == 0 && blockIdx.y == 0;
  if (first < last && leads) m.owned[part] = owned;
}

template <typename Op>
__global__ void __launch_bounds__(kThreads, Op::kBlocks) gather_rows(const Op op, const Matrix m) {
  const int teams = kThreads / m.team, team = static_cast<int>(threadIdx.x) / m.team;
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int column = (static_cast<int>(blockIdx.y) * m.team + member) * Op::kVec;
  const int64_t part_blocks = (m.parts() + teams - 1) / teams;
  if (blockIdx.x < part_blocks) {  // first, since a part is more work than most rows
    take_part(op, m, static_cast<int64_t>(blockIdx.x) * teams + team, column);
    return;
  }
  const int64_t place = (blockIdx.x - part_blocks) * teams + team;
  const int row = static_cast<int>(min(place, static_cast<int64_t>(m.rows)));
  int64_t begin = 0, end = 0;
  if (row < m.rows) begin = m.offsets[row], end = m.offsets[row + 1];
  const bool is_long = end - begin > kPart;
  const auto state = reduce_edges(op, m, row, begin, begin, is_long ? begin : end, column);
  if (row < m.rows && !is_long && column < m.width) op.store(row, column, state);
}

// The slot of a long row in a part that it reaches.
__device__ __forceinline__ int slot_of(int64_t begin, int64_t part) {
  return static_cast<int>(2 * part) + (begin > part * kPart ? 1 : 0);
}

// The long rows that start in 32 parts, one after the other: every team adds every n-th slot, then one team
// adds the sums of the teams. One block.
template <typename Op>
__global__ void __launch_bounds__(kFinishThreads, 2) finish_rows(const Op op, const Matrix m) {
  CHRONOREC_DYNAMIC_SHARED(typename Op::State, states);
  const int teams = kFinishThreads / m.team, team = static_cast<int>(threadIdx.x) / m.team;
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int column = (static_cast<int>(blockIdx.y) * m.team + member) * Op::kVec;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int mine = first + lane < m.parts() ? m.owned[first + lane] : -1;
  const unsigned owners = __ballot_sync(kAllLanes, mine >= 0);  // for all warps alike
  for (int owner = 0; owner < 32; ++owner) {
    if ((owners >> owner & 1) == 0) continue;
    const int row = __shfl_sync(kAllLanes, mine, owner);
    const int64_t begin = m.offsets[row], last = (m.offsets[row + 1] - 1) / kPart;
    typename Op::State state{};
    if (column < m.width) {
#pragma unroll 4
      for (int64_t part = first + owner + team; part <= last; part += teams)
        op.merge(state, op.get(slot_of(begin, part), column));
    }
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
  constexpr size_t kShared = kFinishThreads * sizeof(typename Op::State);
  const auto owners = static_cast<unsigned>((m.parts() + 31) / 32);
  CHRONOREC_LAUNCH(finish_rows<Op>, dim3(owners, tiles), kFinishThreads, kShared, stream, op, m);
}

}  // namespace
}  // namespace chronorec::cuda
