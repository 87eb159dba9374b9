// What forward does with the sums of a step; Cell holds the formulas.
#pragma once
#include "cuda/recurrent_product.cuh"
#include "cuda/recurrent_rows.cuh"
#include "ops/recurrence.h"

namespace chronorec::cuda {
namespace {

// float or bf16, whatever the other arrays are; zeros where there is none.
struct Bias {
  const void* data;
  bool narrow;
  __device__ __forceinline__ float at(int64_t i) const {
    if (data == nullptr) return 0;
    return narrow ? widen(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
};

template <typename CellOf, typename TOf>
struct Forward {
  using Cell = CellOf;
  using T = TOf;
  static constexpr bool kBackward = false;
  static constexpr int kGates = Cell::kGates, kSlots = Cell::kSlots, kSaved = Cell::kSaved;
  static constexpr int kPatches = kGates;
  static constexpr int kCarried = Cell::kHasCell ? 2 : 1;
  static constexpr int kHeld = Cell::template kHeld<T>;

  using Output = T;
  using Saved = T;
  struct Carried {
    float x[kCarried][4];  // state, cell
  };
  struct Fetched {
    float input[kGates][4];
  };

  Sequences sequences;
  int hidden, tiles;
  Bias bias_ih, bias_hh;
  Units<const float> inputs;
  Units<const T> initial_state, initial_cell, recurrent_mask, zoneout_mask;
  Units<T> output, final_state, final_cell;
  T* saved;

  // The sums of the biases of 16 units, [kSlots][16].
  __device__ __forceinline__ void prepare(float* slots, int first_unit, int lane) const {
    for (int i = lane; i < kSlots * kTile; i += 32) {
      const int slot = i / kTile, unit = first_unit + i % kTile;
      float sum = 0;
      if (unit < hidden)
        sum = Cell::bias(
            slot, [&](int g) { return bias_ih.at(int64_t{g} * hidden + unit); },
            [&](int g) { return bias_hh.at(int64_t{g} * hidden + unit); });
      slots[i] = sum;
    }
    __syncwarp();
  }

  // The state before the first step, also as the first product takes it.
  __device__ __forceinline__ void begin(const Place& at, Carried& carried, const LeftSide& left) const {
#pragma unroll
    for (int c = 0; c < kCarried; ++c) {
      const auto& from = c == 0 ? initial_state : initial_cell;
#pragma unroll
      for (int i = 0; i < 4; ++i) carried.x[c][i] = 0;
      if (from && at.row.sequence >= 0) load4(from, at.row.sequence, at.unit, at.count, carried.x[c]);
    }
    put_seen(at, carried.x[0], left);
  }

  __device__ __forceinline__ void fetch(const Place& at, int step, Fetched& f) const {
    const int event = sequences.event(at.row, step);
#pragma unroll
    for (int g = 0; g < kGates; ++g) load4(inputs, event, g * hidden + at.unit, at.count, f.input[g]);
  }

  // `sums` and `slots`: of these units, a gate or slot 16 rows or one row on.
  __device__ __forceinline__ void step(const Place& at, int step, const Fetched& f, const float* sums,
                                       const float* slots, bool, Carried& carried,
                                       const LeftSide& left) const {
    const int event = sequences.event(at.row, step);
    float keep[kSaved][4], zoneout[4] = {};
    if (zoneout_mask) load4(zoneout_mask, event, at.unit, at.count, zoneout);
    Four<float> sum[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) sum[g] = *reinterpret_cast<const Four<float>*>(sums + g * kTile * kTile);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float in[kGates], of_state[kGates], bias[kSlots], kept[kSaved], state[kCarried];
      for (int g = 0; g < kGates; ++g) in[g] = f.input[g][i], of_state[g] = sum[g].x[i];
      for (int s = 0; s < kSlots; ++s) bias[s] = slots[s * kTile + i];
      for (int c = 0; c < kCarried; ++c) state[c] = carried.x[c][i];
      Cell::forward(in, of_state, bias, state, kept);
      for (int c = 0; c < kCarried; ++c) {
        if (zoneout_mask) state[c] = zoneout[i] * carried.x[c][i] + (1 - zoneout[i]) * state[c];
        carried.x[c][i] = state[c];
      }
      if constexpr (Cell::kHasCell) kept[kSaved - 1] = state[1];
      for (int a = 0; a < kSaved; ++a) keep[a][i] = kept[a];
    }
    if (saved != nullptr) {
      T* to = saved + (static_cast<int64_t>(event) * tiles + at.unit / kTile) * (kSaved * kTile) +
              at.unit % kTile;
#pragma unroll
      for (int a = 0; a < kSaved; ++a) {
        Four<T> four;
        for (int i = 0; i < 4; ++i) narrow(keep[a][i], four.x[i]);
        *reinterpret_cast<Four<T>*>(to + a * kTile) = four;
      }
    }
    put_seen(at, carried.x[0], left);
    if (output) store4(output, event, at.unit, at.count, carried.x[0]);
  }

  __device__ __forceinline__ void end(const Place& at, const float*, bool, const Carried& carried) const {
    if (at.row.sequence < 0) return;
    store4(final_state, at.row.sequence, at.unit, at.count, carried.x[0]);
    if constexpr (Cell::kHasCell) store4(final_cell, at.row.sequence, at.unit, at.count, carried.x[1]);
  }

 private:
  // The state as the next product takes it.
  __device__ __forceinline__ void put_seen(const Place& at, const float (&state)[4],
                                           const LeftSide& left) const {
    float seen[4] = {state[0], state[1], state[2], state[3]};
    if (recurrent_mask && at.row.sequence >= 0) {
      float mask[4];
      load4(recurrent_mask, at.row.sequence, at.unit, at.count, mask);
#pragma unroll
      for (int i = 0; i < 4; ++i) seen[i] *= mask[i];
    }
    left.put<kPartsOf<T>>(at.in_tile, at.unit, seen);
  }
};

}  // namespace
}  // namespace chronorec::cuda
