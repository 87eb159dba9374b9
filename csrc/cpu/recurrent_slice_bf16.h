// The products of the backward pass in bf16: gradients of sums, states and weights are rounded, products are
// summed in fp32 (gemm_bf16.h). Only the gradients of the states before are made step by step; those of the
// values come for a slice of events at a time too, so that weight_ih is read once for all.
#pragma once
#include "cpu/gemm_bf16.h"
#include "cpu/recurrent_slice.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename Slots>
class EventSlice<Slots, bf16> {
 public:
  using B = Backward<Slots>;

  EventSlice(const B& b, int64_t group, char* room)
      : b_(b), sums_(b.scratch, b.group(group)), room_(room, Slots::kKind, b.input, b.hidden) {
    for (int64_t k = 0; k < kSlice + kMaxTileRows; ++k)
      for (int64_t slot = 0; slot < B::kSlots; ++slot)
        for (int64_t unit = b.padded; unit < units_; unit += kLanes)
          store(gradients(k) + slot * units_ + unit, splat(0));
  }

  // As that of fp32, with Q rows a gate.
  template <typename GateOf>
  static void pack_panel(const TensorView& weight, int64_t hidden, int64_t panel, float* packed,
                         GateOf&& gate_of) {
    const int64_t step = weight.stride[0], left = weight.shape[1] - panel * kPanel;
    bf16* target = reinterpret_cast<bf16*>(packed) + panel * B::kGates * pair_units(hidden) * kPanel;
    for (int64_t slot = 0; slot < B::kGates; ++slot) {
      const bf16* source = weight.as<const bf16>() + gate_of(slot) * hidden * step + panel * kPanel;
      for (int64_t i = 0; i < pair_units(hidden); i += 2, target += 2 * kPanel)
        for (int64_t j = 0; j < kPanel; j += kLanes) {
          const auto row = [&](int64_t at) {
            return at < hidden ? load_some(source + at * step + j, left - j) : splat(0);
          };
          store_pairs_of(row(i), row(i + 1), target + 2 * j);
        }
    }
  }

  bool has_room(int64_t events) const { return count_ + events <= kSlice; }

  struct Place {
    bf16 *gradients, *state;
  };

  Place add_event(int64_t, int64_t event) {
    const int64_t k = count_++;
    const bf16* values = row_of<bf16>(b_.args.values, event);
    for (int64_t j = 0; j < inputs_; j += kLanes)
      store_rounded(input(k) + j, load_some(values + j, b_.input - j));
    events_[k] = event;
    return {gradients(k), state(k)};
  }

  void put(const Place& to, int64_t unit, const vf* grads, vf state) const {
    store_rounded(to.state + unit, state);
    for (int s = 0; s < B::kSlots; ++s) store_rounded(to.gradients + s * units_ + unit, grads[s]);
  }

  void multiply_step(int64_t active, float* through) const {
    multiply_gates(
        count_ - active, active, Slots::kStateSlot, b_.scratch.weight_hh, b_.hidden,
        [&](int64_t i, int64_t unit, vf value) { store(through + i * b_.state_stride + unit, value); });
  }

  void add_products() {
    const RecurrentBackwardArgs& args = b_.args;
    multiply_gates(0, count_, 0, b_.scratch.weight_ih, b_.input, [&](int64_t k, int64_t j, vf value) {
      bf16* target = args.grad_values.as<bf16>() + events_[k] * b_.input + j;
      const int64_t left = b_.input - j;
      left < kLanes ? store_some(target, value, left) : store_rounded(target, value);
    });
    turn_pairs(input(0), inputs_, count_, inputs_, as_pairs(room_.turned_inputs));
    turn_pairs(state(0), units_, count_, units_, as_pairs(room_.turned_states));
    for (int64_t block = 0; block < b_.scratch.blocks; ++block) {
      const int64_t panels = min64(kBlock, B::kSlots * b_.padded - block * kBlock) / kPanel;
      for (int64_t p = 0; p < panels; ++p) pack_gradients(block * kBlock / kPanel + p, p);
      add_outer(room_.turned_inputs, inputs_, b_.input, 0, min64(panels, B::kWide),
                sums_.ih + block * b_.input * B::kWide * kPanel);
      add_outer(room_.turned_states, units_, b_.hidden, Slots::kStateSlot, min64(panels, B::kWide),
                sums_.hh + block * b_.hidden * B::kWide * kPanel);
    }
    count_ = 0;
  }

 private:
  static bf16* as_pairs(char* array) { return reinterpret_cast<bf16*>(array); }
  bf16* gradients(int64_t k) const { return as_pairs(room_.gradients) + k * gradient_stride_; }
  bf16* state(int64_t k) const { return as_pairs(room_.states) + k * units_; }
  bf16* input(int64_t k) const { return as_pairs(room_.inputs) + k * inputs_; }

  static void store_pairs_of(vf first, vf second, bf16* to) {
    const vu both = reinterpret_cast<vu>(first) >> 16 | reinterpret_cast<vu>(second);
    __builtin_memcpy(to, &both, sizeof both);
  }

  // The gradients of a weight's gates, which begin at slot `slot`, times the weight.
  template <typename Sink>
  void multiply_gates(int64_t first, int64_t rows, int64_t slot, const float* weight, int64_t cols,
                      Sink&& sink) const {
    const int64_t depth = B::kGates * units_;
    PairProduct p = pair_product(gradients(first) + slot * units_, gradient_stride_,
                                 reinterpret_cast<const bf16*>(weight), rows, cols, depth);
    p.padded = true;
    unit_.multiply(p, sink);
  }

  // Panel `panel` of the gradients becomes panel `to` of the right side of the outer products.
  void pack_gradients(int64_t panel, int64_t to) const {
    const int64_t column = panel % B::kSlots * units_ + panel / B::kSlots * kPanel;
    bf16* target = as_pairs(room_.panels) + to * kSlice * kPanel;
    for (int64_t j = 0; j < kPanel; j += kLanes) {
      float* sum = sums_.bias + panel * kPanel + j;
      vf total = splat(0);
      for (int64_t k = 0; k < round_up(count_, kRun); k += 2) {
        const bf16* row = gradients(k) + column + j;
        const vf first = k < count_ ? load(row) : splat(0);
        const vf second = k + 1 < count_ ? load(row + gradient_stride_) : splat(0);
        total += first + second;
        store_pairs_of(first, second, target + k * kPanel + 2 * j);
      }
      store(sum, load(sum) + total);
    }
  }

  void add_outer(const char* left, int64_t left_rows, int64_t rows, int64_t first, int64_t panels,
                 float* sum) const {
    const PairProduct p = {reinterpret_cast<const bf16*>(left),
                           kRun,
                           left_rows * kRun,
                           as_pairs(room_.panels) + first * kSlice * kPanel,
                           kSlice * kPanel,
                           rows,
                           panels * kPanel,
                           count_,
                           true};
    unit_.multiply(p, [&](int64_t i, int64_t column, vf value) {
      float* at = sum + i * B::kWide * kPanel + column;
      store(at, load(at) + value);
    });
  }

  const B& b_;
  const WeightSums sums_;
  const PairSliceRoom room_;
  const int64_t units_ = pair_units(b_.hidden), inputs_ = pair_units(b_.input);
  const int64_t gradient_stride_ = row_stride(B::kSlots * units_);
  int64_t count_ = 0;
  int64_t events_[kSlice];
  const MatrixUnit unit_;
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
