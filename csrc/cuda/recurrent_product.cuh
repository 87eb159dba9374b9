// Products of a tile of 16 rows with the recurrent weights, on tensor cores.
//
// A float is split in three bf16 that add up to it, and the six products that reach fp32 are taken: as many
// operations as with TF32 in two parts, and 6 bytes a weight on chip in place of 8. bf16 is one part. A warp
// owns 16 units; its weights lie in fragments, packed once a call, and stay on chip over all steps: the first
// kHeld tiles of depth in registers, then as many as fit in shared memory, the rest in L2.
#pragma once
#include <mma.h>

#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace chronorec::cuda {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int kTile = 16;  // rows, units and depths of a product
constexpr int kFragmentWords = 32;

using Left = wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, bf16, wmma::row_major>;
using Right = wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, bf16, wmma::col_major>;
using Sum = wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float>;
static_assert(sizeof(Right::x) == sizeof(uint4), "a lane holds 16 bytes of a fragment");

template <typename T>
constexpr int kPartsOf = sizeof(T) == sizeof(float) ? 3 : 1;

template <int kParts>
__device__ __forceinline__ void split(float x, bf16 (&parts)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    narrow(x, parts[p]);
    x -= widen(parts[p]);
  }
}

// Fragments [tiles of units][tiles of depth][gates][parts], a warp each. Forward a unit is a row of a block
// of weight [gates hidden, hidden] and a depth a column; in backward they change places.
template <typename T, bool kBackward>
__global__ void __launch_bounds__(32)
    pack_fragments(const T* weight, int64_t stride, int hidden, int gates, int tiles, uint4* packed) {
  constexpr int kParts = kPartsOf<T>;
  __shared__ __align__(32) bf16 staged[kParts][kTile * kTile];
  const int gate = static_cast<int>(blockIdx.x) % gates, place = static_cast<int>(blockIdx.x) / gates;
  const int down = (kBackward ? place % tiles : place / tiles) * kTile;
  const int across = (kBackward ? place / tiles : place % tiles) * kTile;
  const int lane = static_cast<int>(threadIdx.x);
  float x[kTile * kTile / 32];
#pragma unroll
  for (int i = 0; i < kTile * kTile / 32; ++i) {
    const int row = down + (lane + 32 * i) / kTile, column = across + lane % kTile;
    x[i] = 0;
    if (row < hidden && column < hidden)
      x[i] = widen(weight[(static_cast<int64_t>(gate) * hidden + row) * stride + column]);
  }
#pragma unroll
  for (int i = 0; i < kTile * kTile / 32; ++i) {
    const int row = (lane + 32 * i) / kTile, column = lane % kTile;
    bf16 parts[kParts];
    split(x[i], parts);
    for (int p = 0; p < kParts; ++p)
      staged[p][kBackward ? column * kTile + row : row * kTile + column] = parts[p];
  }
  __syncwarp();
  for (int p = 0; p < kParts; ++p) {
    Right fragment;
    wmma::load_matrix_sync(fragment, staged[p], kTile);
    uint4 bits;
    memcpy(&bits, fragment.x, sizeof(bits));
    packed[(static_cast<int64_t>(blockIdx.x) * kParts + p) * kFragmentWords + lane] = bits;
  }
}

// Where the left side of a product lies: kParts matrices of 16 rows, gates side by side in backward.
struct LeftSide {
  bf16* data;
  int lead;   // elements from row to row
  int tiles;  // from gate to gate
  int first;  // tile of depth, where a part of them lies here

  __device__ __forceinline__ bf16* at(int part, int row, int column) const {
    return data + (part * kTile + row) * lead + column;
  }
  // Four neighbouring columns of a row.
  template <int kParts>
  __device__ __forceinline__ void put(int row, int column, const float (&x)[4]) const {
    bf16 parts[4][kParts];
#pragma unroll
    for (int i = 0; i < 4; ++i) split(x[i], parts[i]);
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const bf16 four[4] = {parts[0][p], parts[1][p], parts[2][p], parts[3][p]};
      uint2 bits;
      memcpy(&bits, four, sizeof(bits));
      *reinterpret_cast<uint2*>(at(p, row, column)) = bits;
    }
  }
};

template <int kGates, int kParts, int kHeld, bool kBackward>
class Product {
 public:
  static constexpr int kTileWords = kGates * kParts * kFragmentWords;
  // Forward a sum for each gate. In backward they are added up in the end: two, for products that do not wait
  // for each other, and one where products of parts do that.
  static constexpr int kSums = !kBackward ? kGates : kParts == 1 && kGates > 1 ? 2 : 1;

  // `packed`: of this warp's units; `shared` has room for `in_shared` tiles behind the held ones.
  __device__ __forceinline__ Product(const uint4* packed, uint4* shared, int tiles, int in_shared, int lane)
      : packed_(packed + lane), shared_(shared + lane), tiles_(tiles), shared_end_(kHeld + in_shared) {}

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (k < tiles_)
#pragma unroll
        for (int f = 0; f < kGates * kParts; ++f)
          fetch(held_[k][f], packed_ + k * kTileWords + f * kFragmentWords);
    for (int i = kHeld * kTileWords; i < shared_end_ * kTileWords; i += kFragmentWords)
      shared_[i - kHeld * kTileWords] = packed_[i];
  }

  // Adds the products of the tiles of depth [0, end), or where none is held [left.first, end).
  __device__ __forceinline__ void multiply(const LeftSide& left, int end, Sum (&sums)[kSums]) const {
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (k < end) take_held(left, k, held_[k], sums);
    int k = kHeld > 0 ? kHeld : left.first;
    for (; k < min(shared_end_, end); ++k) take_from(left, k, shared_ + (k - kHeld) * kTileWords, sums);
    for (; k < end; ++k) take_from(left, k, packed_ + k * kTileWords, sums);
  }

 private:
  __device__ __forceinline__ static void fetch(Right& to, const uint4* from) {
    const uint4 bits = *from;
    memcpy(static_cast<void*>(to.x), &bits, sizeof(bits));
  }

  __device__ __forceinline__ void take_from(const LeftSide& side, int k, const uint4* from,
                                            Sum (&sums)[kSums]) const {
    Left left[kParts];
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      Right rights[kParts];
#pragma unroll
      for (int p = 0; p < kParts; ++p) fetch(rights[p], from + (g * kParts + p) * kFragmentWords);
      take(side, k, g, rights, left, sums[g % kSums]);
    }
  }

  __device__ __forceinline__ void take_held(const LeftSide& side, int k, const Right* rights,
                                            Sum (&sums)[kSums]) const {
    Left left[kParts];
#pragma unroll
    for (int g = 0; g < kGates; ++g) take(side, k, g, rights + g * kParts, left, sums[g % kSums]);
  }

  // `left` is that of the gate before.
  __device__ __forceinline__ void take(const LeftSide& side, int k, int g, const Right* right,
                                       Left (&left)[kParts], Sum& sum) const {
    if (g == 0 || kBackward)
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        wmma::load_matrix_sync(left[p],
                               side.at(p, 0, ((kBackward ? g * side.tiles : 0) + k - side.first) * kTile),
                               static_cast<unsigned>(side.lead));
    if constexpr (kParts == 1) {
      wmma::mma_sync(sum, left[0], right[0], sum);
    } else {  // small ones first; tensor cores cut off where they add, so the tiles are added up outside
      Sum here;
      wmma::fill_fragment(here, 0.f);
      wmma::mma_sync(here, left[2], right[0], here);
      wmma::mma_sync(here, left[0], right[2], here);
      wmma::mma_sync(here, left[1], right[1], here);
      wmma::mma_sync(here, left[1], right[0], here);
      wmma::mma_sync(here, left[0], right[1], here);
      wmma::mma_sync(here, left[0], right[0], here);
#pragma unroll
      for (int i = 0; i < here.num_elements; ++i) sum.x[i] += here.x[i];
    }
  }

  Right held_[kHeld > 0 ? kHeld : 1][kGates * kParts];
  const uint4* packed_;  // this lane's words
  uint4* shared_;
  int tiles_, shared_end_;
};

}  // namespace
}  // namespace chronorec::cuda
