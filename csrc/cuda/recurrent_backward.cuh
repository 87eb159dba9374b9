// What backward does with the sums of a step; Cell holds the formulas.
#pragma once
#include "cuda/recurrent_product.cuh"
#include "cuda/recurrent_rows.cuh"
#include "ops/recurrence.h"

namespace chronorec::cuda {
namespace {

template <typename CellOf, typename TOf>
struct Backward {
  using Cell = CellOf;
  using T = TOf;
  static constexpr bool kBackward = true;
  static constexpr int kGates = Cell::kGates, kSlots = 0, kSaved = Cell::kSaved;
  static constexpr int kPatches = 1;
  static constexpr int kCarried = Cell::kHasCell ? 2 : 1;
  static constexpr int kHeld = Cell::template kHeldBackward<T>;

  using Output = const T;
  using Saved = const T;
  struct Carried {
    float x[kCarried][4];  // gradients of the state, without what comes through the product, and of the cell
  };
  struct Fetched {
    float grad[4], kept[kSaved][4], before[kCarried][4];
  };

  Sequences sequences;
  int hidden, tiles;
  Units<const T> grad_output, grad_final_state, grad_final_cell;
  Units<const T> initial_state, initial_cell, recurrent_mask, zoneout_mask, output;
  const T* saved;
  Units<T> grad_inputs, grad_recurrent, seen, grad_initial_state, grad_initial_cell;

  __device__ __forceinline__ void prepare(float*, int, int) const {}

  __device__ __forceinline__ void begin(const Place& at, Carried& carried, const LeftSide&) const {
#pragma unroll
    for (int c = 0; c < kCarried; ++c)
      fetch_row(c == 0 ? grad_final_state : grad_final_cell, at, 0.f, carried.x[c]);
  }

  __device__ __forceinline__ void fetch(const Place& at, int step, Fetched& f) const {
    const int event = sequences.event(at.row, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) f.grad[i] = 0;
    if (grad_output) load4(grad_output, event, at.unit, at.count, f.grad);
    for (int a = 0; a < kSaved; ++a) fetch_saved(event, a, at, f.kept[a]);
    if (step == 0) {
#pragma unroll
      for (int c = 0; c < kCarried; ++c)
        fetch_row(c == 0 ? initial_state : initial_cell, at, 0.f, f.before[c]);
    } else {
      const int before = sequences.event(at.row, step - 1);
      load4(output, before, at.unit, at.count, f.before[0]);
      if constexpr (Cell::kHasCell) fetch_saved(before, kSaved - 1, at, f.before[1]);
    }
  }

  // `has_sums`: this row ran a step already, whose gates' gradients the sums are of.
  __device__ __forceinline__ void step(const Place& at, int step, const Fetched& f, const float* sums,
                                       const float*, bool has_sums, Carried& carried,
                                       const LeftSide& left) const {
    const int event = sequences.event(at.row, step);
    const auto sum = *reinterpret_cast<const Four<float>*>(sums);
    float of_inputs[kGates][4], of_state[kGates][4], masked[4], mask[4], zoneout[4] = {};
    if (zoneout_mask) load4(zoneout_mask, event, at.unit, at.count, zoneout);
    fetch_row(recurrent_mask, at, 1.f, mask);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float kept[kSaved], before[kCarried], grad[kCarried], in[kGates], recurrent[kGates];
      for (int a = 0; a < kSaved; ++a) kept[a] = f.kept[a][i];
      for (int c = 0; c < kCarried; ++c) before[c] = f.before[c][i], grad[c] = carried.x[c][i];
      grad[0] += f.grad[i] + (has_sums ? mask[i] * sum.x[i] : 0.f);
      float passed[kCarried];
      for (int c = 0; c < kCarried; ++c) {
        passed[c] = zoneout_mask ? zoneout[i] * grad[c] : 0.f;
        grad[c] = zoneout_mask ? (1 - zoneout[i]) * grad[c] : grad[c];
      }
      Cell::backward(kept, before, grad, in, recurrent);
      for (int c = 0; c < kCarried; ++c) carried.x[c][i] = grad[c] + passed[c];
      for (int g = 0; g < kGates; ++g) of_inputs[g][i] = in[g], of_state[g][i] = recurrent[g];
      masked[i] = before[0] * mask[i];
    }
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      left.put<kPartsOf<T>>(at.in_tile, g * tiles * kTile + at.unit, of_state[g]);
      store4(grad_inputs, event, g * hidden + at.unit, at.count, of_inputs[g]);
    }
    if constexpr (Cell::kHasRecurrentGradient)
      store4(grad_recurrent, event, at.unit, at.count, of_state[kGates - 1]);
    store4(seen, event, at.unit, at.count, masked);
  }

  __device__ __forceinline__ void end(const Place& at, const float* sums, bool has_sums,
                                      Carried& carried) const {
    if (at.row.sequence < 0) return;
    if (grad_initial_state) {
      float mask[4];
      fetch_row(recurrent_mask, at, 1.f, mask);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (has_sums) carried.x[0][i] += mask[i] * sums[i];
      store4(grad_initial_state, at.row.sequence, at.unit, at.count, carried.x[0]);
    }
    if constexpr (Cell::kHasCell)
      if (grad_initial_cell) store4(grad_initial_cell, at.row.sequence, at.unit, at.count, carried.x[1]);
  }

 private:
  __device__ __forceinline__ static void fetch_row(const Units<const T>& from, const Place& at, float absent,
                                                   float (&x)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = absent;
    if (from && at.row.sequence >= 0) load4(from, at.row.sequence, at.unit, at.count, x);
  }
  __device__ __forceinline__ void fetch_saved(int event, int array, const Place& at, float (&x)[4]) const {
    const T* from = saved +
                    ((static_cast<int64_t>(event) * tiles + at.unit / kTile) * kSaved + array) * kTile +
                    at.unit % kTile;
    const auto four = *reinterpret_cast<const Four<T>*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = widen(four.x[i]);
  }
};

}  // namespace
}  // namespace chronorec::cuda
