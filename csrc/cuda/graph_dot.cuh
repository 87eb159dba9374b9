// One number per edge: a product of a row of the left matrix and a row of the right one.
//
// A team (see graph_rows.cuh) takes a stretch of neighbouring edges, each lane every team-th pack of columns,
// and adds its lanes' sums in a tree.
#pragma once
#include "cuda/graph_rows.cuh"

namespace chronorec::cuda {
namespace {

constexpr int kStretch = 16;

template <typename Op>
__global__ void __launch_bounds__(kThreads, 2) dot_edges(const Op op, const Matrix m, float* output) {
  const int member = static_cast<int>(threadIdx.x) & (m.team - 1);
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * (kThreads / m.team) + static_cast<int>(threadIdx.x) / m.team) *
      kStretch;
  int64_t row = first < m.edges ? row_of(m, first) : 0;
  for (int64_t e = first; e < first + kStretch; ++e) {
    float sum = 0;
    if (e < m.edges) {
      while (m.offsets[row + 1] <= e) ++row;
      const int64_t neighbour = m.neighbours[e];
      const int place = static_cast<int>(e - m.offsets[row]);
      for (int column = member * Op::kVec; column < m.width; column += m.team * Op::kVec)
        sum += op.product(row, neighbour, place, column);
      sum *= op.factor(row, neighbour);
    }
    for (int step = m.team / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (e < m.edges && member == 0) output[e] = sum;
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
