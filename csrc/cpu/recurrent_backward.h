// Backward of a recurrent layer: a task runs the reversed time loops of a group of tiles. The gradients of
// one step's sums give at once those of the values and of the state before; those of the weights are added up
// for a slice of events at a time, while they are in the cache, in an array of the group.
//
// Beside what forward needs, a cell has: kInputGate(slot) and kStateGate(slot), which block of H rows of
// weight_ih and weight_hh a slot belongs to (a cell's slots of a weight are kGates in a row); and
// backward(saved, before, d_state, cell, grads): from what forward saved, the gradients of the sums, by slot;
// returns the gradient of the state before as far as it does not pass through weight_hh. `cell` holds the
// cell before (Cell::kKind.cell) and d_cell the gradient of the cell, which becomes that of the cell before.
#pragma once
#include "cpu/recurrent_forward.h"
#include "cpu/recurrent_pack.h"
#include "cpu/transpose.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename Cell>
struct Backward {
  static constexpr int64_t kGates = Cell::kKind.gates, kSlots = Cell::kKind.slots, kSaved = Cell::kKind.saved;
  // Of a block of gradients the panels that belong to a weight; a cell of fewer gates has more units a block.
  static constexpr int kWide = kGates < 3 ? 4 : kGates;

  const RecurrentBackwardArgs& args;
  BackwardScratch scratch;
  int64_t sequences, events, input, hidden, padded, state_stride, input_stride, gate_stride;

  explicit Backward(const RecurrentBackwardArgs& a)
      : args(a),
        scratch(a.scratch.data, Cell::kKind, a.offsets.shape[0] - 1, a.values.shape[0], a.values.shape[1],
                a.output.shape[1]),
        sequences(a.offsets.shape[0] - 1),
        events(a.values.shape[0]),
        input(a.values.shape[1]),
        hidden(a.output.shape[1]),
        padded(padded_units(hidden)),
        state_stride(row_stride(padded)),
        input_stride(row_stride(padded_units(input))),
        gate_stride(row_stride(kSlots * padded)) {}

  float* group(int64_t index) const { return scratch.groups + index * scratch.per_group; }
};

// Packs panel `panel` of weight [gates * H, cols] as the right side of gate gradients [.., gates * P] times
// weight: rows of padding are zero.
template <typename Cell, typename T, typename GateOf>
void pack_panel(const TensorView& weight, int64_t hidden, int64_t panel, float* packed, GateOf&& gate_of) {
  const int64_t padded = padded_units(hidden), left = weight.shape[1] - panel * kPanel;
  float* target = packed + panel * Cell::kKind.gates * padded * kPanel;
  for (int64_t slot = 0; slot < Cell::kKind.gates; ++slot) {
    const T* source = weight.as<const T>() + gate_of(slot) * hidden * weight.stride[0] + panel * kPanel;
    for (int64_t i = 0; i < padded; ++i, target += kPanel)
      for (int64_t j = 0; j < kPanel; j += kLanes)
        store(target + j, i < hidden ? load_some(source + i * weight.stride[0] + j, left - j) : splat(0));
  }
}

template <typename T>
inline void prefetch_row(const T* row, int64_t count) {
  if (row == nullptr) return;
  for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + j, 0, 3);
}

template <typename Cell, typename T>
class BackwardGroup {
 public:
  using B = Backward<Cell>;

  BackwardGroup(const B& b, int64_t index, float* room)
      : b_(b),
        room_(room, Cell::kKind, b.input, b.hidden, b.scratch.blocks),
        grad_ih_(b.group(index)),
        grad_hh_(grad_ih_ + b.scratch.ih_size),
        grad_bias_(grad_hh_ + b.scratch.hh_size) {
    for (int64_t i = 0; i < b.scratch.per_group; i += 1) grad_ih_[i] = 0;
  }

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
      if (room_.count + active > kSlice) add_slice();
      for (int64_t i = 0; i < active; ++i) event_gradients(tile, i, t);
      multiply(tile, t, active);
    }
    for (int64_t i = 0; i < tile.rows; ++i) store_initial(tile.sequence[i], i * b_.state_stride);
  }

  // The outer products of the events gathered so far go into the gradients of the weights.
  void add_slice() {
    for (int64_t block = 0; block < b_.scratch.blocks; ++block) {
      const float* grads = room_.slice + block * kSlice * kBlock;
      add_rows_of(grads, grad_bias_ + block * kBlock);
      add_outer(room_.inputs, b_.input_stride, b_.input, grads,
                grad_ih_ + block * b_.input * B::kWide * kPanel);
      add_outer(room_.states, b_.state_stride, b_.hidden, grads + Cell::kStateSlot * kPanel,
                grad_hh_ + block * b_.hidden * B::kWide * kPanel);
    }
    room_.count = 0;
  }

 private:
  void add_rows_of(const float* grads, float* sum) {
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      vf total = splat(0);
      for (int64_t k = 0; k < room_.count; ++k) total += load(grads + k * kBlock + j);
      store(sum + j, load(sum + j) + total);
    }
  }

  void add_outer(const float* left, int64_t stride, int64_t size, const float* grads, float* sum) {
    const OuterProducts<kBlock> p = {left, stride, grads, size, room_.count};
    add_panels<B::kWide>(p, 0, Target<Adjacent>{sum, B::kWide * kPanel});
  }

  // Gradients of the sums of row i's event at step t, and what its outer products need.
  void event_gradients(const SequenceTile& tile, int64_t i, int64_t t) {
    const RecurrentBackwardArgs& args = b_.args;
    const int64_t event = tile.event(i, t), before = event - tile.step, sequence = tile.sequence[i];
    const T* mask = row_of<T>(args.recurrent_mask, sequence);
    const T* zoneout = row_of<T>(args.zoneout_mask, event);
    const T* grad_output = row_of<T>(args.grad_output, event);
    const T* state_before =
        t > 0 ? args.output.as<const T>() + before * b_.hidden : row_of<T>(args.initial_state, sequence);
    const float* saved = args.saved.as<const float>() + event * B::kSaved * b_.padded;
    const float* saved_before = saved - tile.step * B::kSaved * b_.padded;
    const int64_t k = room_.count++;
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
      store(room_.states + k * b_.state_stride + unit, masked * state);
      const int64_t column = unit / kPanel * kPanel * B::kSlots + unit % kPanel;
      float* slice = room_.slice + column / kBlock * kSlice * kBlock + k * kBlock + column % kBlock;
      for (int s = 0; s < B::kSlots; ++s) {
        const vf grad = first_lanes(grads[s], left);
        store(slice + s * kPanel, grad);
        store(room_.gates + i * b_.gate_stride + s * b_.padded + unit, grad);
      }
    }
    load_row(row_of<T>(args.values, event), b_.input, room_.inputs + k * b_.input_stride);
    if (t > 0) prefetch_before(before, t > 1 ? before - tile.step : -1);
  }

  // What the step before will read: too many rows, too far apart, for the hardware to foresee.
  void prefetch_before(int64_t event, int64_t before) {
    const RecurrentBackwardArgs& args = b_.args;
    prefetch_row(args.saved.as<const float>() + event * B::kSaved * b_.padded, B::kSaved * b_.padded);
    prefetch_row(row_of<T>(args.grad_output, event), b_.hidden);
    prefetch_row(row_of<T>(args.values, event), b_.input);
    if (before >= 0) prefetch_row(args.output.as<const T>() + before * b_.hidden, b_.hidden);
  }

  // Gradients of the step's values, and of the states before it through weight_hh.
  void multiply(const SequenceTile& tile, int64_t t, int64_t active) {
    const RecurrentBackwardArgs& args = b_.args;
    const int64_t depth = B::kGates * b_.padded, wide = padded_units(b_.input);
    for (int64_t i = 0; i < active * wide; ++i) room_.values[i] = 0;
    for (int64_t i = 0; i < active; ++i)
      load_row(static_cast<const T*>(nullptr), b_.hidden, room_.through + i * b_.state_stride);
    add_product(times_panels(room_.gates, b_.gate_stride, b_.scratch.weight_ih, active, depth), wide / kPanel,
                room_.values, wide);
    add_product(times_panels(room_.gates + Cell::kStateSlot * b_.padded, b_.gate_stride, b_.scratch.weight_hh,
                             active, depth),
                b_.padded / kPanel, room_.through, b_.state_stride);
    for (int64_t i = 0; i < active; ++i)
      store_row(room_.values + i * wide, b_.input, args.grad_values.as<T>() + tile.event(i, t) * b_.input);
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
  BackwardRoom room_;
  float *grad_ih_, *grad_hh_, *grad_bias_;
};

// kLanes numbers of the groups' arrays, added up by halves, which bounds the rounding error.
template <typename Cell>
vf sum_groups(const Backward<Cell>& b, int64_t at, int64_t first, int64_t count) {
  if (count == 1) return load(b.group(first) + at);
  return sum_groups(b, at, first, count / 2) + sum_groups(b, at, first + count / 2, count - count / 2);
}

// A panel of 16 rows of a weight's gradient: the groups' sums added up and turned.
template <typename Cell, typename T>
struct WeightGradient {
  const Backward<Cell>& b;
  int64_t begin, size;  // of the group's array: [blocks, size, kWide panels]
  T* weight;            // [gates * H, size]

  void store_panel(int64_t unit_panel, int64_t slot, int64_t gate) const {
    constexpr int64_t kWide = Backward<Cell>::kWide * kPanel;
    constexpr int64_t kUnitPanels = kWide / (Cell::kKind.gates * kPanel);  // of a block
    const int64_t within = unit_panel % kUnitPanels * Cell::kKind.gates + slot;
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

template <typename Cell, typename T>
void store_bias(const Backward<Cell>& b, int64_t slot, int64_t gate, const TensorView& bias) {
  const int64_t begin = b.scratch.ih_size + b.scratch.hh_size + slot * kPanel;
  for (int64_t j = 0; bias && j < b.hidden; j += kLanes) {
    const int64_t column = j / kPanel * kPanel * Cell::kKind.slots + j % kPanel;
    store_some(bias.as<T>() + gate * b.hidden + j, sum_groups(b, begin + column, 0, b.scratch.num_groups),
               b.hidden - j);
  }
}

template <typename Cell, typename T>
void store_weight_gradients(const Backward<Cell>& b) {
  const RecurrentBackwardArgs& args = b.args;
  const WeightGradient<Cell, T> ih = {b, 0, b.input, args.grad_weight_ih.as<T>()};
  const WeightGradient<Cell, T> hh = {b, b.scratch.ih_size, b.hidden, args.grad_weight_hh.as<T>()};
  const int64_t panels = b.padded / kPanel, gates = Cell::kKind.gates;
  parallel_for(2 * panels * gates, [&](int64_t task, int) {
    const int64_t slot = task % gates, panel = task / gates % panels;
    if (task < panels * gates)
      ih.store_panel(panel, slot, Cell::input_gate(slot));
    else
      hh.store_panel(panel, slot, Cell::state_gate(slot));
  });
  for (int64_t slot = 0; slot < gates; ++slot) {
    store_bias<Cell, T>(b, slot, Cell::input_gate(slot), args.grad_bias_ih);
    store_bias<Cell, T>(b, slot + Cell::kStateSlot, Cell::state_gate(slot), args.grad_bias_hh);
  }
}

template <typename Cell, typename T>
void backward_in(const RecurrentBackwardArgs& args) {
  const Backward<Cell> b(args);
  const int64_t* offsets = args.offsets.as<const int64_t>();
  sort_by_length(offsets, b.sequences, b.scratch.starts, b.scratch.order);
  const int64_t panels_hh = b.padded / kPanel, panels_ih = padded_units(b.input) / kPanel;
  parallel_for(panels_hh + panels_ih, [&](int64_t task, int) {
    if (task < panels_hh)
      pack_panel<Cell, T>(args.weight_hh, b.hidden, task, b.scratch.weight_hh, Cell::state_gate);
    else
      pack_panel<Cell, T>(args.weight_ih, b.hidden, task - panels_hh, b.scratch.weight_ih, Cell::input_gate);
  });
  parallel_for(b.scratch.num_groups, [&](int64_t task, int thread) {
    BackwardGroup<Cell, T> group(b, task, b.scratch.threads + thread * b.scratch.per_thread);
    for (int64_t tile = task; tile < count_tiles(b.sequences); tile += b.scratch.num_groups)
      group.run_tile(SequenceTile(offsets, b.scratch.order, b.sequences, tile, args.reverse));
    group.add_slice();
  });
  store_weight_gradients<Cell, T>(b);
}

template <typename Cell>
void recurrent_backward(const RecurrentBackwardArgs& args) {
  args.values.dtype == DType::bf16 ? backward_in<Cell, bf16>(args) : backward_in<Cell, float>(args);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
