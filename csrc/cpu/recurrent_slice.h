// The products of the backward pass. An EventSlice gathers events step by step: the gradients of their sums,
// their values, and the states that weight_hh was multiplied with. Of a step's gradients the recurrence needs
// those of the states before at once; the outer products, which are the gradients of the weights, are added
// up for all events of a slice, while these are in the cache, in the arrays of the group.
//
// This one multiplies in fp32; that of recurrent_slice_bf16.h in bf16.
#pragma once
#include "cpu/recurrent_forward.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename Slots>
struct Backward {
  static constexpr int64_t kGates = Slots::kKind.gates, kSlots = Slots::kKind.slots,
                           kSaved = Slots::kKind.saved;
  // Of a block of gradients the panels that belong to a weight; a cell of fewer gates has more units a block.
  static constexpr int kWide = kGates < 3 ? 4 : kGates;

  const RecurrentBackwardArgs& args;
  BackwardScratch scratch;
  int64_t sequences, events, input, hidden, padded, state_stride;

  explicit Backward(const RecurrentBackwardArgs& a)
      : args(a),
        scratch(a.scratch.data, Slots::kKind, a.offsets.shape[0] - 1, a.values.shape[0], a.values.shape[1],
                a.output.shape[1]),
        sequences(a.offsets.shape[0] - 1),
        events(a.values.shape[0]),
        input(a.values.shape[1]),
        hidden(a.output.shape[1]),
        padded(padded_units(hidden)),
        state_stride(row_stride(padded)) {}

  float* group(int64_t index) const { return scratch.groups + index * scratch.per_group; }
};

// Where a group adds up the gradients of the weights and of the biases.
struct WeightSums {
  float *ih, *hh, *bias;

  WeightSums(const BackwardScratch& scratch, float* group)
      : ih(group), hh(ih + scratch.ih_size), bias(hh + scratch.hh_size) {
    for (int64_t i = 0; i < scratch.per_group; ++i) group[i] = 0;
  }
};

template <typename Slots, typename T>
class EventSlice;

template <typename Slots>
class EventSlice<Slots, float> {
 public:
  using B = Backward<Slots>;

  EventSlice(const B& b, int64_t group, char* room)
      : b_(b), sums_(b.scratch, b.group(group)), room_(room, Slots::kKind, b.input, b.hidden) {}

  // Packs panel `panel` of weight [gates * H, cols] as the right side of gate gradients [.., gates * P] times
  // weight: rows of padding are zero.
  template <typename GateOf>
  static void pack_panel(const TensorView& weight, int64_t hidden, int64_t panel, float* packed,
                         GateOf&& gate_of) {
    const int64_t padded = padded_units(hidden), left = weight.shape[1] - panel * kPanel;
    float* target = packed + panel * B::kGates * padded * kPanel;
    for (int64_t slot = 0; slot < B::kGates; ++slot) {
      const float* source =
          weight.as<const float>() + gate_of(slot) * hidden * weight.stride[0] + panel * kPanel;
      for (int64_t i = 0; i < padded; ++i, target += kPanel)
        for (int64_t j = 0; j < kPanel; j += kLanes)
          store(target + j, i < hidden ? load_some(source + i * weight.stride[0] + j, left - j) : splat(0));
    }
  }

  // Whether so many more events have room; if not, add_products makes it.
  bool has_room(int64_t events) const { return count_ + events <= kSlice; }

  // Where an event's gradients and its state go.
  struct Place {
    float *gates, *gradients, *state;
  };

  // The next event: row `row` of its step.
  Place add_event(int64_t row, int64_t event) {
    const int64_t k = count_++;
    events_[k] = event;
    load_row(row_of<float>(b_.args.values, event), b_.input, room_.inputs + k * input_stride_);
    return {room_.gates + row * gate_stride_, room_.gradients + k * kBlock,
            room_.states + k * b_.state_stride};
  }

  // Of kLanes units the gradients by slot, and the state.
  void put(const Place& to, int64_t unit, const vf* grads, vf state) const {
    store(to.state + unit, state);
    const int64_t column = unit / kPanel * kPanel * B::kSlots + unit % kPanel;
    float* gradients = to.gradients + column / kBlock * kSlice * kBlock + column % kBlock;
    for (int s = 0; s < B::kSlots; ++s) {
      store(gradients + s * kPanel, grads[s]);
      store(to.gates + s * b_.padded + unit, grads[s]);
    }
  }

  // Of the step of the last `active` events the gradients of the values, and through weight_hh those of the
  // states before.
  void multiply_step(int64_t active, float* through) const {
    const RecurrentBackwardArgs& args = b_.args;
    const int64_t depth = B::kGates * b_.padded, wide = padded_units(b_.input);
    for (int64_t i = 0; i < active * wide; ++i) room_.values[i] = 0;
    for (int64_t i = 0; i < active; ++i)
      load_row(static_cast<const float*>(nullptr), b_.hidden, through + i * b_.state_stride);
    add_product(times_panels(room_.gates, gate_stride_, b_.scratch.weight_ih, active, depth), wide / kPanel,
                room_.values, wide);
    add_product(times_panels(room_.gates + Slots::kStateSlot * b_.padded, gate_stride_, b_.scratch.weight_hh,
                             active, depth),
                b_.padded / kPanel, through, b_.state_stride);
    for (int64_t i = 0; i < active; ++i)
      store_row(room_.values + i * wide, b_.input,
                args.grad_values.as<float>() + events_[count_ - active + i] * b_.input);
  }

  // The outer products of the events gathered so far go into the gradients of the weights.
  void add_products() {
    for (int64_t block = 0; block < b_.scratch.blocks; ++block) {
      const float* grads = room_.gradients + block * kSlice * kBlock;
      add_rows_of(grads, sums_.bias + block * kBlock);
      add_outer(room_.inputs, input_stride_, b_.input, grads,
                sums_.ih + block * b_.input * B::kWide * kPanel);
      add_outer(room_.states, b_.state_stride, b_.hidden, grads + Slots::kStateSlot * kPanel,
                sums_.hh + block * b_.hidden * B::kWide * kPanel);
    }
    count_ = 0;
  }

 private:
  void add_rows_of(const float* grads, float* sum) const {
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      vf total = splat(0);
      for (int64_t k = 0; k < count_; ++k) total += load(grads + k * kBlock + j);
      store(sum + j, load(sum + j) + total);
    }
  }

  void add_outer(const float* left, int64_t stride, int64_t size, const float* grads, float* sum) const {
    const OuterProducts<kBlock> p = {left, stride, grads, size, count_};
    add_panels<B::kWide>(p, 0, Target<Adjacent>{sum, B::kWide * kPanel});
  }

  const B& b_;
  const WeightSums sums_;
  const FloatSliceRoom room_;
  const int64_t gate_stride_ = row_stride(B::kSlots * b_.padded);
  const int64_t input_stride_ = row_stride(padded_units(b_.input));
  int64_t count_ = 0;
  int64_t events_[kSlice];
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
