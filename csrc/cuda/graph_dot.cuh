// One number per edge: a product of a row of the left matrix and a row of the right one.
//
// A team (see graph_rows.cuh) takes a stretch of neighbouring edges. Each lane finds out about every team-th
// edge; products are made of several edges at a time, each lane every team-th pack of columns, and the lanes'
// sums are added in a tree.
#pragma once
#include "cuda/graph_rows.cuh"

namespace chronorec::cuda {
namespace {

struct DotEdge {
  int row, neighbour;
  int place;  // which edge of its row
};

constexpr int kStretch = 64;  // a multiple of every team

template <typename Op>
__global__ void __launch_bounds__(kThreads, Op::kBlocks)
    dot_edges(const Op op, const Matrix m, float* output) {
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * (kThreads / m.team) + static_cast<int>(threadIdx.x) / m.team) *
      kStretch;
  int row = first < m.edges ? row_of(m, first, 0, m.rows) : 0;
  for (int begin = 0; begin < kStretch; begin += m.team) {
    const int64_t e = first + begin + member;
    DotEdge mine{};  // beyond the last edge, something that can be read
    if (e < m.edges) {
      row = row_from(m, e, row);
      mine = {row, static_cast<int>(m.neighbours[e]), static_cast<int>(e - m.offsets[row])};
    }
    float result = 0;
    for (int j = 0; j < m.team; j += kReadsAhead) {
      DotEdge edges[kReadsAhead];
      float sums[kReadsAhead] = {};
      const Exchange exchange{j, m.team};
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u)
        edges[u] = {exchange(mine.row, u), exchange(mine.neighbour, u), exchange(mine.place, u)};
      for (int column = member * Op::kVec; column < m.width; column += m.team * Op::kVec) {
        typename Op::Fetched fetched[kReadsAhead];
#pragma unroll
        for (int u = 0; u < kReadsAhead; ++u) op.fetch(fetched[u], edges[u], column);
#pragma unroll
        for (int u = 0; u < kReadsAhead; ++u) sums[u] += op.product(fetched[u], edges[u]);
      }
      add_up(sums, m.team);
#pragma unroll
      for (int u = 0; u < kReadsAhead; ++u)
        if (member == j + u) result = sums[u];
    }
    if (e < m.edges) output[e] = result * op.factor(mine);
  }
}

template <typename Op>
void dot_rows(const Op& op, Matrix m, float* output, cudaStream_t stream) {
  if (m.edges == 0) return;
  m.team = team_of(m.width, Op::kVec);
  const int64_t each = static_cast<int64_t>(kThreads / m.team) * kStretch;
  const auto blocks = static_cast<unsigned>((m.edges + each - 1) / each);
  CHRONOREC_LAUNCH(dot_edges<Op>, blocks, kThreads, 0, stream, op, m, output);
}

}  // namespace
}  // namespace chronorec::cuda
