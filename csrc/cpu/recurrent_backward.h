// Backward of a recurrent layer: a task runs the reversed time loops of a group of tiles. The gradients of
// one step's sums go into a slice of events (recurrent_slice.h), which gives at once those of the states
// before, and makes those of values and weights.
//
// Beside what forward needs, a cell has: Slots, the class with what belongs to its slots alone, which cells
// may share: kKind, kStateSlot, and input_gate(slot) and state_gate(slot), which block of H rows of weight_ih
// and weight_hh a slot belongs to (a cell's slots of a weight are kGates in a row); and backward(saved,
// before, d_state, cell, grads): from what forward saved, the gradients of the sums, by slot; returns the
// gradient of the state before as far as it does not pass through weight_hh. `cell` holds the cell before
// (Cell::kKind.cell) and d_cell the gradient of the cell, which becomes that of the cell before.
#pragma once
#include "cpu/recurrent_pack.h"
#include "cpu/recurrent_slice_bf16.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename T>
inline void prefetch_row(const T* row, int64_t count) {
  if (row == nullptr) return;
  for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + j, 0, 3);
}

template <typename Cell, typename T>
class BackwardGroup {
 public:
  using B = Backward<typename Cell::Slots>;

  BackwardGroup(const B& b, int64_t index, char* room)
      : b_(b), room_(room, Cell::kKind, b.input, b.hidden), slice_(b, index, room_.slice) {}

  void run_tile(const SequenceTile& tile) {
    const RecurrentBackwardArgs& args = b_.args;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t sequence = tile.sequence[i], row = i * b_.state_stride;
      load_row(row_of<T>(args.grad_final_state, sequence), b_.hidden, room_.direct + row);
      load_row(static_cast<const T*>(nullptr), b_.hidden, room_.through + row);
      if constexpr (Cell::kKind.cell)
        load_row(row_of<T>(args.grad_final_cell, sequence), b_.hidden, room_.cell + row);
    }
    for (int64_t t = tile.length[0] - 1; t >= 0; --t) {
      if (t % kStepsPerPoll == 0 && interrupted()) return;
      const int64_t active = tile.active(t);
      if (!slice_.has_room(active)) slice_.add_products();
      for (int64_t i = 0; i < active; ++i) event_gradients(tile, i, t);
      slice_.multiply_step(active, room_.through);
    }
    for (int64_t i = 0; i < tile.rows; ++i) store_initial(tile.sequence[i], i * b_.state_stride);
  }

  void finish() { slice_.add_products(); }

 private:
  // Gradients of the sums of row i's event at step t, and what its outer products need.
  void event_gradients(const SequenceTile& tile, int64_t i, int64_t t) {
    const RecurrentBackwardArgs& args = b_.args;
    const int64_t event = tile.event(i, t), before = event - tile.step, sequence = tile.sequence[i];
    const T* mask = row_of<T>(args.recurrent_mask, sequence);
    const T* zoneout = row_of<T>(args.zoneout_mask, event);
    const T* grad_output = row_of<T>(args.grad_output, event);
    const T* state_before =
        t > 0 ? args.output.as<const T>() + before * b_.hidden : row_of<T>(args.initial_state, sequence);
    const T* saved = args.saved.as<const T>() + event * B::kSaved * b_.padded;
    const T* saved_before = saved - tile.step * B::kSaved * b_.padded;
    const auto place = slice_.add_event(i, event);
    for (int64_t unit = 0; unit < b_.padded; unit += kLanes) {
      const int64_t left = b_.hidden - unit, at = i * b_.state_stride + unit;
      const auto some = [&](const T* row) { return row != nullptr ? load_some(row + unit, left) : splat(0); };
      const vf masked = mask != nullptr ? some(mask) : splat(1), state = some(state_before);
      vf d_state = load(room_.direct + at) + masked * load(room_.through + at) + some(grad_output);
      const vf keep = some(zoneout), change = splat(1) - keep;
      const vf kept = keep * d_state;
      d_state = change * d_state;
      vf cell = splat(0), d_cell = splat(0), kept_cell = splat(0);
      if constexpr (Cell::kKind.cell) {
        const int64_t panel = unit / kPanel * kPanel * B::kSaved + (B::kSaved - 1) * kPanel + unit % kPanel;
        cell = t > 0 ? load(saved_before + panel) : some(row_of<T>(args.initial_cell, sequence));
        d_cell = load(room_.cell + at);
        kept_cell = keep * d_cell;
        d_cell = change * d_cell;
      }
      vf grads[B::kSlots];
      const vf direct = Cell::backward(saved + unit / kPanel * kPanel * B::kSaved + unit % kPanel, state,
                                       d_state, cell, d_cell, grads);
      // lanes of padding may hold NaN, an infinity times a weight of zero: they must not reach a product
      store(room_.direct + at, first_lanes(direct + kept, left));
      if constexpr (Cell::kKind.cell) store(room_.cell + at, first_lanes(d_cell + kept_cell, left));
      for (vf& grad : grads) grad = first_lanes(grad, left);
      slice_.put(place, unit, grads, masked * state);
    }
    if (t > 0) prefetch_before(before, t > 1 ? before - tile.step : -1);
  }

  // What the step before will read: too many rows, too far apart, for the hardware to foresee.
  void prefetch_before(int64_t event, int64_t before) {
    const RecurrentBackwardArgs& args = b_.args;
    prefetch_row(args.saved.as<const T>() + event * B::kSaved * b_.padded, B::kSaved * b_.padded);
    prefetch_row(row_of<T>(args.grad_output, event), b_.hidden);
    prefetch_row(row_of<T>(args.values, event), b_.input);
    if (before >= 0) prefetch_row(args.output.as<const T>() + before * b_.hidden, b_.hidden);
  }

  void store_initial(int64_t sequence, int64_t row) {
    const RecurrentBackwardArgs& args = b_.args;
    if (args.grad_initial_state) {
      const T* mask = row_of<T>(args.recurrent_mask, sequence);
      T* target = args.grad_initial_state.as<T>() + sequence * b_.hidden;
      for (int64_t j = 0; j < b_.hidden; j += kLanes) {
        const int64_t left = b_.hidden - j;
        const vf masked = mask != nullptr ? load_some(mask + j, left) : splat(1);
        store_some(target + j, load(room_.direct + row + j) + masked * load(room_.through + row + j), left);
      }
    }
    if constexpr (Cell::kKind.cell)
      if (args.grad_initial_cell)
        store_row(room_.cell + row, b_.hidden, args.grad_initial_cell.as<T>() + sequence * b_.hidden);
  }

  const B& b_;
  const BackwardRoom room_;
  EventSlice<typename Cell::Slots, T> slice_;
};

// kLanes numbers of the groups' arrays, added up by halves, which bounds the rounding error.
template <typename Slots>
vf sum_groups(const Backward<Slots>& b, int64_t at, int64_t first, int64_t count) {
  if (count == 1) return load(b.group(first) + at);
  return sum_groups(b, at, first, count / 2) + sum_groups(b, at, first + count / 2, count - count / 2);
}

// A panel of 16 rows of a weight's gradient: the groups' sums added up and turned.
template <typename Slots, typename T>
struct WeightGradient {
  const Backward<Slots>& b;
  int64_t begin, size;  // of the group's array: [blocks, size, kWide panels]
  T* weight;            // [gates * H, size]

  void store_panel(int64_t unit_panel, int64_t slot, int64_t gate) const {
    constexpr int64_t kWide = Backward<Slots>::kWide * kPanel;
    constexpr int64_t kUnitPanels = kWide / (Slots::kKind.gates * kPanel);  // of a block
    const int64_t within = unit_panel % kUnitPanels * Slots::kKind.gates + slot;
    const int64_t at = begin + unit_panel / kUnitPanels * size * kWide + within * kPanel;
    for (int64_t j = 0; j < kPanel; j += kLanes)
      for (int64_t i = 0; i < size; i += kLanes) {
        vf block[kLanes];
        for (int64_t r = 0; r < kLanes; ++r)
          block[r] =
              i + r < size ? sum_groups(b, at + (i + r) * kWide + j, 0, b.scratch.num_groups) : splat(0);
        transpose(block);
        const int64_t unit = unit_panel * kPanel + j;
        for (int64_t r = 0; r < min64(kLanes, b.hidden - unit); ++r)
          store_some(weight + (gate * b.hidden + unit + r) * size + i, block[r], size - i);
      }
  }
};

template <typename Slots, typename T>
void store_bias(const Backward<Slots>& b, int64_t slot, int64_t gate, const TensorView& bias) {
  const int64_t begin = b.scratch.ih_size + b.scratch.hh_size + slot * kPanel;
  for (int64_t j = 0; bias && j < b.hidden; j += kLanes) {
    const int64_t column = j / kPanel * kPanel * Slots::kKind.slots + j % kPanel;
    store_some(bias.as<T>() + gate * b.hidden + j, sum_groups(b, begin + column, 0, b.scratch.num_groups),
               b.hidden - j);
  }
}

template <typename Slots, typename T>
void store_weight_gradients(const Backward<Slots>& b) {
  const RecurrentBackwardArgs& args = b.args;
  const WeightGradient<Slots, T> ih = {b, 0, b.input, args.grad_weight_ih.as<T>()};
  const WeightGradient<Slots, T> hh = {b, b.scratch.ih_size, b.hidden, args.grad_weight_hh.as<T>()};
  const int64_t panels = b.padded / kPanel, gates = Slots::kKind.gates;
  parallel_for(2 * panels * gates, [&](int64_t task, int) {
    const int64_t slot = task % gates, panel = task / gates % panels;
    if (task < panels * gates)
      ih.store_panel(panel, slot, Slots::input_gate(slot));
    else
      hh.store_panel(panel, slot, Slots::state_gate(slot));
  });
  for (int64_t slot = 0; slot < gates; ++slot) {
    store_bias<Slots, T>(b, slot, Slots::input_gate(slot), args.grad_bias_ih);
    store_bias<Slots, T>(b, slot + Slots::kStateSlot, Slots::state_gate(slot), args.grad_bias_hh);
  }
}

template <typename Cell, typename T>
void backward_in(const RecurrentBackwardArgs& args) {
  using Slots = typename Cell::Slots;
  using Slice = EventSlice<Slots, T>;
  const Backward<Slots> b(args);
  const int64_t* offsets = args.offsets.as<const int64_t>();
  sort_by_length(offsets, b.sequences, b.scratch.starts, b.scratch.order);
  const int64_t panels_hh = b.padded / kPanel, panels_ih = padded_units(b.input) / kPanel;
  parallel_for(panels_hh + panels_ih, [&](int64_t task, int) {
    if (task < panels_hh)
      Slice::pack_panel(args.weight_hh, b.hidden, task, b.scratch.weight_hh, Cell::state_gate);
    else
      Slice::pack_panel(args.weight_ih, b.hidden, task - panels_hh, b.scratch.weight_ih, Cell::input_gate);
  });
  parallel_for(b.scratch.num_groups, [&](int64_t task, int thread) {
    BackwardGroup<Cell, T> group(b, task, b.scratch.threads + thread * b.scratch.per_thread);
    for (int64_t tile = task; tile < count_tiles(b.sequences); tile += b.scratch.num_groups)
      group.run_tile(SequenceTile(offsets, b.scratch.order, b.sequences, tile, args.reverse));
    group.finish();
  });
  store_weight_gradients<Slots, T>(b);
}

template <typename Cell>
void recurrent_backward(const RecurrentBackwardArgs& args) {
  args.values.dtype == DType::bf16 ? backward_in<Cell, bf16>(args) : backward_in<Cell, float>(args);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
