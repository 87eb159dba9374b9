// Small kernels that try the SIMT layer itself: right ones, and ones with a planted mistake.
// All of them read `in` and write `out`, float [n]; run_planted(name, ...) launches one.
#include <cooperative_groups.h>
#include <mma.h>
#include <string.h>

#include "cuda/launch.cuh"

namespace {

constexpr int kBlock = 96;  // three warps

// out = in, reversed within each block through shared memory.
__global__ void reverse(const float* in, float* out, bool with_barrier) {
  __shared__ float tile[kBlock];
  const unsigned first = blockIdx.x * kBlock;
  tile[threadIdx.x] = in[first + threadIdx.x];
  if (with_barrier) __syncthreads();
  out[first + threadIdx.x] = tile[kBlock - 1 - threadIdx.x];
}

// Two rounds over one tile: the second barrier keeps the next round's writes off this round's reads.
__global__ void rotate(const float* in, float* out, bool with_second_barrier) {
  CHRONOREC_DYNAMIC_SHARED(float, tile);
  float mine = in[blockIdx.x * kBlock + threadIdx.x];
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = mine;
    __syncthreads();
    mine = tile[(threadIdx.x + 1) % kBlock];
    if (with_second_barrier) __syncthreads();
  }
  out[blockIdx.x * kBlock + threadIdx.x] = mine;
}

__global__ void read_unwritten(const float*, float* out) {
  __shared__ float tile[kBlock];
  out[blockIdx.x * kBlock + threadIdx.x] = tile[threadIdx.x];
}

__global__ void write_past(const float* in, float* out, bool dynamic, unsigned excess) {
  CHRONOREC_DYNAMIC_SHARED(float, tile);
  if (dynamic) tile[threadIdx.x + excess] = in[threadIdx.x];
  if (!dynamic) out[threadIdx.x + excess] = in[threadIdx.x];
}

__global__ void write_past_static(const float* in, float* out, unsigned excess) {
  __shared__ float tile[kBlock];
  float* end = tile;
  end[threadIdx.x + excess] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void barrier_in_one_branch(const float*, float*) {
  if (threadIdx.x < 64)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void barrier_after_return(const float*, float*) {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

__global__ void shuffle_in_branch(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(~0u, value, 1);
  out[threadIdx.x] = value;
}

__global__ void shuffle_from_outside(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0xFFFFu, value, 16);
  out[threadIdx.x] = value;
}

// out[i] = a number made by every warp call, for the test to repeat.
__global__ void warp_calls(const float* in, float* out) {
  const unsigned i = blockIdx.x * kBlock + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float x = in[i];
  float sum = x;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const float down = __shfl_down_sync(~0u, x, 3, 8);
  const float up = __shfl_up_sync(~0u, x, 1);
  const float from = __shfl_sync(~0u, x, lane / 2, 16);
  const unsigned ballot = __ballot_sync(~0u, x > 0);
  const int most = __reduce_max_sync(~0u, static_cast<int>(x));
  const int total = __reduce_add_sync(~0u, lane);
  const bool any = __any_sync(~0u, x > 0), all = __all_sync(~0u, x > 0);
  __syncwarp();
  out[i] = sum + 2 * down + 4 * up + 8 * from + static_cast<float>(ballot & 0xFFF) +
           static_cast<float>(most + total) + (any ? 0.5f : 0) + (all ? 0.25f : 0);
}

// out [32, 16] = in as bfloat16 or half [32, 32] times its first 32 x 16, by two warps.
template <typename T>
__global__ void product(const float* in, float* out) {
  using namespace nvcuda;
  __shared__ __align__(32) T left[32 * 32];
  for (unsigned i = threadIdx.x; i < 32 * 32; i += 64) left[i] = T(in[i]);
  __syncthreads();
  const unsigned row = threadIdx.x / 32 * 16;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, 0.f);
  for (unsigned k = 0; k < 32; k += 16) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::row_major> b;
    wmma::load_matrix_sync(a, left + row * 32 + k, 32);
    wmma::load_matrix_sync(b, left + k * 32, 32);
    wmma::mma_sync(sum, a, b, sum);
  }
  wmma::store_matrix_sync(out + row * 16, sum, 16, wmma::mem_row_major);
}

// out[block] = sum over the blocks of what each wrote before the grid barrier, through its shared memory.
__global__ void meet_grid(const float* in, float* out, bool with_barrier) {
  __shared__ float kept;
  if (threadIdx.x == 0) kept = in[blockIdx.x];
  if (threadIdx.x == 0) out[gridDim.x + blockIdx.x] = 2 * kept;
  if (with_barrier) cooperative_groups::this_grid().sync();
  if (threadIdx.x != 0) return;
  float sum = kept;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += out[gridDim.x + b];
  out[blockIdx.x] = sum;
}

}  // namespace

void run_planted(const char* name, const float* in, float* out, int64_t n, cudaStream_t stream) {
  const auto is = [name](const char* other) { return strcmp(name, other) == 0; };
  const dim3 grid(static_cast<unsigned>(n / kBlock));
  constexpr size_t kTile = kBlock * sizeof(float);
  if (is("reverse")) CHRONOREC_LAUNCH(reverse, grid, kBlock, 0, stream, in, out, true);
  if (is("reverse without barrier")) CHRONOREC_LAUNCH(reverse, grid, kBlock, 0, stream, in, out, false);
  if (is("rotate")) CHRONOREC_LAUNCH(rotate, grid, kBlock, kTile, stream, in, out, true);
  if (is("rotate without barrier")) CHRONOREC_LAUNCH(rotate, grid, kBlock, kTile, stream, in, out, false);
  if (is("read unwritten")) CHRONOREC_LAUNCH(read_unwritten, grid, kBlock, 0, stream, in, out);
  if (is("write past dynamic")) CHRONOREC_LAUNCH(write_past, 1, kBlock, kTile, stream, in, out, true, 1);
  if (is("write past static")) CHRONOREC_LAUNCH(write_past_static, 1, kBlock, 0, stream, in, out, 1);
  if (is("write past global"))
    CHRONOREC_LAUNCH(write_past, 1, kBlock, kTile, stream, in, out, false,
                     static_cast<unsigned>(n - kBlock + 1));
  if (is("barrier in one branch")) CHRONOREC_LAUNCH(barrier_in_one_branch, grid, kBlock, 0, stream, in, out);
  if (is("barrier after return")) CHRONOREC_LAUNCH(barrier_after_return, grid, kBlock, 0, stream, in, out);
  if (is("shuffle in branch")) CHRONOREC_LAUNCH(shuffle_in_branch, 1, kBlock, 0, stream, in, out);
  if (is("shuffle from outside")) CHRONOREC_LAUNCH(shuffle_from_outside, 1, kBlock, 0, stream, in, out);
  if (is("shuffle in half a warp")) CHRONOREC_LAUNCH(warp_calls, 1, 48, 0, stream, in, out);
  if (is("warp calls")) CHRONOREC_LAUNCH(warp_calls, grid, kBlock, 0, stream, in, out);
  if (is("bfloat16 product")) CHRONOREC_LAUNCH((product<__nv_bfloat16>), 1, 64, 0, stream, in, out);
  if (is("half product")) CHRONOREC_LAUNCH((product<__half>), 1, 64, 0, stream, in, out);
  if (is("grid")) CHRONOREC_LAUNCH_COOPERATIVE(meet_grid, 6, kBlock, 0, stream, in, out, true);
  if (is("grid without barrier"))
    CHRONOREC_LAUNCH_COOPERATIVE(meet_grid, 6, kBlock, 0, stream, in, out, false);
  if (is("grid barrier in an ordinary launch"))
    CHRONOREC_LAUNCH(meet_grid, 6, kBlock, 0, stream, in, out, true);
}
