// The loop over time, in two shapes. Alone: a block has all units of a tile of 16 sequences, whose state
// stays in its shared memory; no block knows of another. Together, where the weights are too many for one
// block: a block has a slice of the units, of several tiles in turn, and the blocks exchange the state
// through L2, with a barrier of the grid at every step.
#pragma once
#include <cooperative_groups.h>

#include <algorithm>

#include "core/check.h"
#include "cuda/recurrent_product.cuh"
#include "cuda/recurrent_rows.cuh"

namespace chronorec::cuda {
namespace {

constexpr int kMostWarps = 8;  // of a block; leaves a thread all the registers it can have
constexpr int kTogetherWarps = 4;
constexpr int kTilesInTurn = 8;  // tiles of sequences a block runs in one launch, together
constexpr int kMostTiles = 256;  // of a launch, together: bounds the scratch
constexpr int kPatchBytes = kTile * kTile * 4;

// How a launch is cut, and where its scratch lies.
struct Plan {
  bool together;
  int warps, slices, groups;  // groups of `slices` blocks have tiles `group`, `group` + groups, ...
  int in_shared;              // tiles of depth in shared memory
  int row_tiles;              // of this launch
  int64_t first_row;
  size_t shared;
  const uint4* packed;
  float* carried;  // together: [row_tiles * 16, kCarried, units]
  bf16* exchange;  // together: [2, row_tiles, kParts, 16, columns]
};

// Tiles of depth in registers; together a block has so few units that shared memory holds theirs.
template <typename Pass, bool kTogether>
constexpr int kHeldOf = kTogether ? 0 : Pass::kHeld;

template <typename Pass>
struct Shape {
  static constexpr int kParts = kPartsOf<typename Pass::T>;
  static constexpr int kTileBytes = Pass::kGates * kParts * kFragmentWords * 16;  // of a warp's weights
  static constexpr int kWarpBytes = Pass::kPatches * kPatchBytes + Pass::kSlots * kTile * 4;
  static int columns(int tiles) { return (Pass::kBackward ? Pass::kGates : 1) * tiles * kTile; }
  // Together the left side comes from L2 so many tiles of depth at a time.
  static constexpr int kChunk = (Pass::kBackward ? 8 : 16) / (kParts == 1 ? 1 : 2);
  // Rows start on different banks.
  static int left_bytes(int tiles) { return kParts * kTile * (columns(tiles) + 8) * 2; }
  static int fixed_bytes(int warps, int tiles, bool together) {
    const int rows = (together ? kTilesInTurn : 1) * kTile * static_cast<int>(sizeof(Row));
    return warps * kWarpBytes + rows + left_bytes(together ? kChunk : tiles);
  }
};

// Brings the tiles of depth [to.first, end) into shared memory; all threads of the block. Every load is on
// its way before the first is waited for.
template <typename Pass>
__device__ __forceinline__ void bring(const LeftSide& from, const LeftSide& to, int end) {
  constexpr int kWide = Pass::kBackward ? Pass::kGates : 1, kWords = Shape<Pass>::kChunk * kTile / 8;
  constexpr int kAll = Shape<Pass>::kParts * kTile * kWide * kWords, kAtOnce = 4;
  const int threads = static_cast<int>(blockDim.x), words = (end - to.first) * kTile / 8;
  for (int begin = static_cast<int>(threadIdx.x); begin < kAll; begin += threads * kAtOnce) {
    uint4 on_its_way[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int i = begin + u * threads, word = i % kWords, gate = i / kWords % kWide,
                row = i / kWords / kWide;
      if (i < kAll && word < words)
        on_its_way[u] = *reinterpret_cast<const uint4*>(
            from.at(0, row, (gate * from.tiles + to.first) * kTile + word * 8));
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int i = begin + u * threads, word = i % kWords, gate = i / kWords % kWide,
                row = i / kWords / kWide;
      if (i < kAll && word < words)
        *reinterpret_cast<uint4*>(to.at(0, row, gate * to.tiles * kTile + word * 8)) = on_its_way[u];
    }
  }
}

template <typename Pass, bool kTogether>
__global__ void __launch_bounds__(kMostWarps * 32, 1) sweep(const Pass pass, const Plan plan) {
  constexpr int kParts = kPartsOf<typename Pass::T>;
  constexpr int kTileWords = Shape<Pass>::kTileBytes / 16;
  CHRONOREC_DYNAMIC_SHARED(uint4, memory);
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWide = Pass::kBackward ? Pass::kGates : 1, kChunk = Shape<Pass>::kChunk;
  const int tiles = pass.tiles, here = kTogether ? kChunk : tiles, lead = kWide * here * kTile + 8;

  // shared memory: rows, the left side, and of each warp its sums, biases and weights
  auto* rows = reinterpret_cast<Row*>(memory);
  auto* own_left = reinterpret_cast<bf16*>(rows + (kTogether ? kTilesInTurn : 1) * kTile);
  auto* warps_own = reinterpret_cast<float*>(own_left + kParts * kTile * lead);
  float* patch = warps_own + warp * (Shape<Pass>::kWarpBytes / 4 + plan.in_shared * kTileWords * 4);
  float* slots = patch + Pass::kPatches * kTile * kTile;
  auto* weights = reinterpret_cast<uint4*>(patch + Shape<Pass>::kWarpBytes / 4);

  const int block = static_cast<int>(blockIdx.x);
  const int group = kTogether ? block / plan.slices : block;
  const int unit_tile = (kTogether ? block % plan.slices * warps : 0) + warp;
  const bool works = unit_tile < tiles;
  const int turns = kTogether ? (plan.row_tiles - group + plan.groups - 1) / plan.groups : 1;
  for (int i = static_cast<int>(threadIdx.x); i < turns * kTile; i += static_cast<int>(blockDim.x))
    rows[i] = pass.sequences.row(plan.first_row + (group + i / kTile * plan.groups) * kTile + i % kTile);
  const auto longest_of = [&](const Row& mine) {
    return __reduce_max_sync(0xffffffff, lane < kTile ? mine.length : 0);
  };
  // together all blocks run as many steps as the first tile has
  const int steps =
      longest_of(pass.sequences.row(plan.first_row + (kTogether ? 0 : group * kTile) + lane % kTile));

  using Products = Product<Pass::kGates, kParts, kHeldOf<Pass, kTogether>, Pass::kBackward>;
  Products product(plan.packed + static_cast<int64_t>(unit_tile) * tiles * kTileWords, weights, tiles,
                   plan.in_shared, lane);
  if (works) {
    product.load();
    pass.prepare(slots, unit_tile * kTile, lane);
  }
  __syncthreads();

  const auto place_of = [&](int turn, int half) {
    Place at;
    at.in_tile = lane / 4 + half * 8;
    at.row = rows[turn * kTile + at.in_tile];
    at.unit = unit_tile * kTile + lane % 4 * 4;
    at.count = pass.hidden - at.unit;
    return at;
  };
  const auto left_of = [&](int turn, int parity) {
    if (!kTogether) return LeftSide{own_left, lead, tiles, 0};
    const int64_t tile = parity * static_cast<int64_t>(plan.row_tiles) + group + turn * plan.groups;
    const int columns = kWide * tiles * kTile;
    return LeftSide{plan.exchange + tile * kParts * kTile * columns, columns, tiles, 0};
  };
  const auto carried_of = [&](int turn, const Place& at, int c) {
    const int64_t row = static_cast<int64_t>(group + turn * plan.groups) * kTile + at.in_tile;
    return reinterpret_cast<Four<float>*>(plan.carried + (row * Pass::kCarried + c) * tiles * kTile +
                                          at.unit);
  };
  const auto load_carried = [&](int turn, const Place& at, typename Pass::Carried& carried) {
    for (int c = 0; c < Pass::kCarried; ++c) {
      const Four<float> four = *carried_of(turn, at, c);
      for (int i = 0; i < 4; ++i) carried.x[c][i] = four.x[i];
    }
  };
  const auto store_carried = [&](int turn, const Place& at, const typename Pass::Carried& carried) {
    for (int c = 0; c < Pass::kCarried; ++c) {
      Four<float> four;
      for (int i = 0; i < 4; ++i) four.x[i] = carried.x[c][i];
      *carried_of(turn, at, c) = four;
    }
  };

  typename Pass::Carried carried[2];
  if (works)
    for (int turn = 0; turn < turns; ++turn)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Place at = place_of(turn, half);
        pass.begin(at, carried[half], left_of(turn, 0));
        if (kTogether) store_carried(turn, at, carried[half]);
      }

  // Backward comes to the state before the first step, step -1, with one more product.
  const int rounds = Pass::kBackward ? steps + 1 : steps;
  for (int round = 0; round < rounds; ++round) {
    if constexpr (kTogether)
      cooperative_groups::this_grid().sync();
    else
      __syncthreads();
    const int step = Pass::kBackward ? steps - 1 - round : round;
    for (int turn = 0; turn < turns; ++turn) {
      if (kTogether && step >= longest_of(rows[turn * kTile + lane % kTile])) continue;
      typename Pass::Fetched fetched[2];
      if (works) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Place at = place_of(turn, half);
          if (step >= 0 && step < at.row.length) pass.fetch(at, step, fetched[half]);
          if (kTogether) load_carried(turn, at, carried[half]);
        }
      }
      if (!Pass::kBackward || round > 0) {
        Sum sums[Products::kSums];
#pragma unroll
        for (int g = 0; g < Products::kSums; ++g) wmma::fill_fragment(sums[g], 0.f);
        for (int first = 0; first < tiles; first += here) {
          const LeftSide left{own_left, lead, here, first};
          const int end = min(first + here, tiles);
          if constexpr (kTogether) {
            __syncthreads();  // all have read what lies there
            bring<Pass>(left_of(turn, round % 2), left, end);
            __syncthreads();
          }
          if (works) product.multiply(left, end, sums);
        }
        if constexpr (Pass::kBackward)
#pragma unroll
          for (int g = 1; g < Products::kSums; ++g)
#pragma unroll
            for (int i = 0; i < sums[g].num_elements; ++i) sums[0].x[i] += sums[g].x[i];
#pragma unroll
        for (int p = 0; p < Pass::kPatches; ++p)
          wmma::store_matrix_sync(patch + p * kTile * kTile, sums[p], kTile, wmma::mem_row_major);
      }
      if constexpr (kTogether)
        __syncwarp();
      else
        __syncthreads();  // all have read the left side
      if (works) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Place at = place_of(turn, half);
          const float* mine = patch + at.in_tile * kTile + lane % 4 * 4;
          const bool has_sums = at.row.length > step + 1;
          if (step < 0)
            pass.end(at, mine, has_sums, carried[half]);
          else if (step < at.row.length)
            pass.step(at, step, fetched[half], mine, slots + lane % 4 * 4, has_sums, carried[half],
                      left_of(turn, 1 - round % 2));
          if (kTogether) store_carried(turn, at, carried[half]);
        }
        if (kTogether) __syncwarp();  // the sums are read
      }
    }
  }
  if constexpr (!Pass::kBackward)
    for (int turn = 0; turn < turns && works; ++turn)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Place at = place_of(turn, half);
        if (kTogether) load_carried(turn, at, carried[half]);
        pass.end(at, nullptr, false, carried[half]);
      }
}

// `row_tiles` in all; a launch may have fewer.
template <typename Pass>
Plan plan_of(int64_t hidden, int64_t row_tiles) {
  const Limits device = limits();
  const int64_t all = (hidden + kTile - 1) / kTile;
  expect_that(
      all <= int64_t{kMostWarps} * device.multiprocessors, "weight_hh",
      [&] {
        return "a hidden size of at most " + std::to_string(kMostWarps * kTile * device.multiprocessors);
      },
      hidden);
  const int tiles = static_cast<int>(all);
  const auto behind = [&](bool together) {
    return std::max(tiles - (together ? kHeldOf<Pass, true> : kHeldOf<Pass, false>), 0);
  };
  const auto room = [&](int warps, bool together) {
    const int left = device.shared - Shape<Pass>::fixed_bytes(warps, tiles, together);
    return std::min(behind(together), std::max(left, 0) / (warps * Shape<Pass>::kTileBytes));
  };
  Plan plan{};
  plan.warps = tiles;
  plan.in_shared = tiles <= kMostWarps ? room(tiles, false) : 0;
  // reading a little from L2 at every step costs less than a barrier of the grid
  const int64_t from_l2 = int64_t{behind(false) - plan.in_shared} * tiles * Shape<Pass>::kTileBytes;
  plan.together = tiles > kMostWarps || from_l2 > device.shared / 2 ||
                  Shape<Pass>::fixed_bytes(tiles, tiles, false) > device.shared;
  plan.slices = 1;
  plan.groups = plan.row_tiles = static_cast<int>(row_tiles);
  if (plan.together) {
    const int least = (tiles + device.multiprocessors - 1) / device.multiprocessors;
    plan.warps = std::max(least, std::min(kTogetherWarps, tiles));
    while (plan.warps / 2 >= least && room(plan.warps, true) < behind(true)) plan.warps /= 2;
    plan.in_shared = room(plan.warps, true);
    plan.slices = (tiles + plan.warps - 1) / plan.warps;
    plan.groups = static_cast<int>(std::min<int64_t>(row_tiles, device.multiprocessors / plan.slices));
    plan.row_tiles =
        static_cast<int>(std::min<int64_t>({row_tiles, kMostTiles, int64_t{plan.groups} * kTilesInTurn}));
    plan.groups = std::min(plan.groups, plan.row_tiles);
  }
  plan.shared = static_cast<size_t>(Shape<Pass>::fixed_bytes(plan.warps, tiles, plan.together) +
                                    plan.warps * plan.in_shared * Shape<Pass>::kTileBytes);
  return plan;
}

// Scratch: the fragments, what is carried, what is exchanged. All are multiples of 64 bytes.
template <typename Pass>
struct Scratch {
  int64_t packed, carried, exchange;
  Scratch(const Plan& plan, int64_t hidden) {
    const int64_t tiles = (hidden + kTile - 1) / kTile, rows = plan.together ? plan.row_tiles * kTile : 0;
    packed = tiles * tiles * Shape<Pass>::kTileBytes;
    carried = rows * Pass::kCarried * tiles * kTile * 4;
    exchange = 2 * rows * Shape<Pass>::kParts * Shape<Pass>::columns(static_cast<int>(tiles)) * 2;
  }
  int64_t bytes() const { return packed + carried + exchange; }
};

inline int64_t row_tiles_of(int64_t sequences) { return (sequences + kTile - 1) / kTile; }

template <typename Pass>
int64_t scratch_bytes(int64_t sequences, int64_t hidden) {
  expect_that(sequences >= 0 && hidden >= 1, "scratch",
              "sequences of at least 0, a hidden size of at least 1", "less");
  return Scratch<Pass>(plan_of<Pass>(hidden, row_tiles_of(sequences)), hidden).bytes();
}

template <typename Pass>
void run_sweep(const Pass& pass, const TensorView& weight, const TensorView& scratch, cudaStream_t stream) {
  const int64_t row_tiles = row_tiles_of(pass.sequences.count);
  Plan plan = plan_of<Pass>(pass.hidden, row_tiles);
  const Scratch<Pass> sizes(plan, pass.hidden);
  expect_scratch(scratch, "scratch", sizes.bytes(), Device::cuda);
  if (row_tiles == 0) return;
  auto* at = scratch.as<char>();
  plan.packed = reinterpret_cast<const uint4*>(at);
  plan.carried = reinterpret_cast<float*>(at + sizes.packed);
  plan.exchange = reinterpret_cast<bf16*>(at + sizes.packed + sizes.carried);
  using T = typename Pass::T;
  const auto fragments = static_cast<unsigned>(pass.tiles * pass.tiles * Pass::kGates);
  CHRONOREC_LAUNCH((pack_fragments<T, Pass::kBackward>), fragments, 32, 0, stream, weight.as<const T>(),
                   weight.stride[0], pass.hidden, Pass::kGates, pass.tiles, reinterpret_cast<uint4*>(at));
  const dim3 threads(static_cast<unsigned>(plan.warps * 32));
  if (!plan.together) {
    const auto blocks = static_cast<unsigned>(row_tiles);
    CHRONOREC_LAUNCH((sweep<Pass, false>), blocks, threads, plan.shared, stream, pass, plan);
    return;
  }
  const int in_a_launch = plan.row_tiles;
  for (int64_t first = 0; first < row_tiles; first += in_a_launch) {
    plan.first_row = first * kTile;
    plan.row_tiles = static_cast<int>(std::min<int64_t>(in_a_launch, row_tiles - first));
    plan.groups = std::min(plan.groups, plan.row_tiles);
    const auto blocks = static_cast<unsigned>(plan.slices * plan.groups);
    CHRONOREC_LAUNCH_COOPERATIVE((sweep<Pass, true>), blocks, threads, plan.shared, stream, pass, plan);
  }
}

}  // namespace
}  // namespace chronorec::cuda
