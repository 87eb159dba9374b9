// Forward of a recurrent layer: a task runs the whole time loop of a tile of sequences, with the packed
// recurrent weight in its cache. The sums start at the bias; the input's part is added for a chunk of steps
// at a time, the state's part step by step, and then the cell (a class of gru.cc, lstm.cc or rnn.cc) makes of
// the sums of a panel of units their new state.
//
// A cell has: kKind, its RecurrentKind; kStateSlot, the first slot that the state feeds; kUnitPanels, panels
// of units taken together; and forward<T>(sums, state, cell, saved): the new state of kLanes units, where
// sums points to the first slot of the unit panel's sums; T is the type of the output.
#pragma once
#include "core/parallel.h"
#include "cpu/gate_math.h"
#include "cpu/kernels.h"
#include "cpu/recurrent_weights.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename Cell, typename W>
struct Layer {
  static constexpr int64_t kGates = Cell::kKind.gates, kSlots = Cell::kKind.slots;

  int64_t input, hidden, padded, sum_stride, state_stride;
  PackedWeight<W> weight_ih, weight_hh;
  const float* bias;

  template <typename Args>
  Layer(const Args& args, int64_t hidden_size)
      : input(args.values.shape[1]),
        hidden(hidden_size),
        padded(padded_units(hidden)),
        sum_stride(row_stride(kSlots * padded)),
        state_stride(row_stride(padded)),
        weight_ih{args.weight_ih.template as<const W>(), input},
        weight_hh{args.weight_hh.template as<const W>(), hidden},
        bias(args.bias.template as<const float>()) {}

  int64_t panels() const { return padded / kPanel; }
};

// One step of the active rows of a tile.
template <typename T>
struct StepRows {
  int64_t rows;
  float* sums;  // of the step; the other arrays are those of ForwardRoom
  float *state, *cell;
  char* left;
  T* output[kMaxTileRows];
  T* saved[kMaxTileRows];  // [P / 16, kKind.saved, 16] each
  const T* recurrent_mask[kMaxTileRows];
  const T* zoneout_mask[kMaxTileRows];
  bool save, mask, zoneout;
};

// Sums of rows of values: the bias and the input's part.
template <typename Cell, typename T, typename W>
void project(const Layer<Cell, W>& layer, const Multiplier<W>& multiplier, const T* const* values,
             int64_t rows, char* left, float* sums) {
  using L = Layer<Cell, W>;
  for (int64_t k = 0; k == 0 || k < layer.input; k += kDepthSlice) {
    const LeftRows slice = {left, rows, k, min64(kDepthSlice, layer.input - k)};
    for (int64_t i = 0; i < rows; ++i)
      multiplier.put(slice, i, [&](int64_t j, int64_t n) { return load_some(values[i] + k + j, n); });
    for (int64_t panel = 0; panel < layer.panels(); ++panel) {
      const float* bias = layer.bias + panel * L::kSlots * kPanel;
      float* target = sums + panel * L::kSlots * kPanel;
      for (int64_t i = 0; k == 0 && i < rows; ++i)
        for (int64_t j = L::kGates * kPanel; j < L::kSlots * kPanel; j += kLanes)
          store(target + i * layer.sum_stride + j, load(bias + j));
      const Target<Adjacent> c(target, layer.sum_stride), first(target, layer.sum_stride, bias);
      multiplier.template add<L::kGates>(slice, layer.weight_ih, panel * L::kGates, k == 0 ? first : c);
    }
  }
}

// The new state of kLanes units of one row.
template <typename Cell, typename T, typename W>
inline void step_unit(const Layer<Cell, W>& layer, const StepRows<T>& step, int64_t row, const float* sums,
                      int64_t unit) {
  constexpr int kSaved = Cell::kKind.saved;
  const int64_t at = row * layer.state_stride + unit, left = layer.hidden - unit;
  const vf before = load(step.state + at);
  vf cell = splat(0), saved[kSaved];
  if constexpr (Cell::kKind.cell) cell = load(step.cell + at);
  const vf cell_before = cell;
  vf state = Cell::template forward<T>(sums, before, cell, saved);
  if (step.zoneout) {
    const vf keep = load_some(step.zoneout_mask[row] + unit, left), change = splat(1) - keep;
    state = fma(keep, before, change * state);
    if constexpr (Cell::kKind.cell) saved[kSaved - 1] = cell = fma(keep, cell_before, change * cell);
  }
  if constexpr (Cell::kKind.cell) store(step.cell + at, cell);
  store(step.state + at, state);
  left < kLanes ? store_some(step.output[row] + unit, state, left)
                : store_rounded(step.output[row] + unit, state);
  if (step.save) {
    T* target = step.saved[row] + unit / kPanel * kPanel * kSaved + unit % kPanel;
    for (int s = 0; s < kSaved; ++s) store_rounded(target + s * kPanel, saved[s]);
  }
}

// Asks for the lines that the units' results will go to, which the hardware does not foresee.
template <typename Cell, typename T>
inline void prefetch_results(const StepRows<T>& step, int64_t panel, int64_t units) {
  constexpr int64_t kLine = 64 / sizeof(T), kSaved = Cell::kKind.saved * kPanel;
  for (int64_t row = 0; row < step.rows; ++row) {
    for (int64_t j = 0; j < units * kPanel; j += kLine)
      __builtin_prefetch(step.output[row] + panel * kPanel + j, 1);
    if (!step.save) continue;
    for (int64_t j = 0; j < units * kSaved; j += kLine)
      __builtin_prefetch(step.saved[row] + panel * kSaved + j, 1);
  }
}

// The slots that the state feeds, of one panel of units after the other.
template <typename Cell>
struct StateSlots {
  static constexpr int64_t at(int64_t column) {
    constexpr int64_t kGates = Cell::kKind.gates, kSkipped = Cell::kKind.slots - kGates;
    return (column / (kGates * kPanel) * kSkipped + Cell::kStateSlot) * kPanel + column;
  }
};

// Panels [panel, panel + Units) of units.
template <int Units, typename Cell, typename T, typename W>
void step_panels(const Layer<Cell, W>& layer, const Multiplier<W>& multiplier, const StepRows<T>& step,
                 int64_t panel) {
  using L = Layer<Cell, W>;
  constexpr int kGates = L::kGates;
  prefetch_results<Cell>(step, panel, Units);
  float* sums = step.sums + panel * L::kSlots * kPanel;
  multiplier.template add<kGates * Units>({step.left, step.rows, 0, layer.hidden}, layer.weight_hh,
                                          panel * kGates, Target<StateSlots<Cell>>{sums, layer.sum_stride});
  for (int64_t row = 0; row < step.rows; ++row)
    for (int unit = 0; unit < Units; ++unit)
      for (int v = 0; v < kPanel; v += kLanes)
        step_unit(layer, step, row, sums + row * layer.sum_stride + unit * L::kSlots * kPanel + v,
                  (panel + unit) * kPanel + v);
}

// What the step multiplies weight_hh with; lanes of padding, which may hold NaN, become zero.
template <typename Cell, typename T, typename W>
void put_states(const Layer<Cell, W>& layer, const Multiplier<W>& multiplier, const StepRows<T>& step) {
  const LeftRows left = {step.left, step.rows, 0, layer.hidden};
  for (int64_t i = 0; i < step.rows; ++i) {
    const float* state = step.state + i * layer.state_stride;
    const T* mask = step.recurrent_mask[i];
    if (step.mask)
      multiplier.put(left, i, [&](int64_t k, int64_t n) {
        return first_lanes(load(state + k), n) * load_some(mask + k, n);
      });
    else
      multiplier.put(left, i, [&](int64_t k, int64_t n) { return first_lanes(load(state + k), n); });
  }
}

template <typename Cell, typename T, typename W>
void run_step(const Layer<Cell, W>& layer, const Multiplier<W>& multiplier, const StepRows<T>& step) {
  constexpr int kFew = Cell::kUnitPanels > 2 ? Cell::kUnitPanels : 2;  // fewer rows, more panels at once
  put_states(layer, multiplier, step);
  int64_t panel = 0;
  if (step.rows <= 2)
    for (; panel + kFew <= layer.panels(); panel += kFew) step_panels<kFew>(layer, multiplier, step, panel);
  for (; panel + Cell::kUnitPanels <= layer.panels(); panel += Cell::kUnitPanels)
    step_panels<Cell::kUnitPanels>(layer, multiplier, step, panel);
  if constexpr (Cell::kUnitPanels > 1)
    for (; panel < layer.panels(); ++panel) step_panels<1>(layer, multiplier, step, panel);
}

template <typename T>
void load_row(const T* source, int64_t hidden, float* target) {
  for (int64_t j = 0; j < padded_units(hidden); j += kLanes)
    store(target + j, source != nullptr ? load_some(source + j, hidden - j) : splat(0));
}

template <typename T>
void store_row(const float* source, int64_t hidden, T* target) {
  for (int64_t j = 0; j < hidden; j += kLanes) store_some(target + j, load(source + j), hidden - j);
}

// A row of an optional array, or null.
template <typename T>
inline const T* row_of(const TensorView& array, int64_t row) {
  return array ? array.as<const T>() + row * array.stride[0] : nullptr;
}

template <typename Cell, typename T, typename W>
class ForwardTile {
 public:
  ForwardTile(const RecurrentForwardArgs& args, const Layer<Cell, W>& layer, const SequenceTile& tile,
              const ForwardRoom& room)
      : args_(args), layer_(layer), tile_(tile), room_(room) {}

  void run() {
    start();
    int64_t active = tile_.active(0);
    finish(active, tile_.rows);
    for (int64_t t = 0; active > 0; ++t) {
      if (t % kStepsPerPoll == 0 && interrupted()) return;
      if (t % kChunk == 0) project_chunk(t);
      take_step(t, active);
      const int64_t left = tile_.active(t + 1);
      finish(left, active);
      active = left;
    }
  }

 private:
  static constexpr int64_t kChunk = chunk_steps(Cell::kKind);

  void start() {
    step_.state = room_.state, step_.cell = room_.cell, step_.left = room_.left;
    step_.save = static_cast<bool>(args_.saved);
    step_.mask = static_cast<bool>(args_.recurrent_mask);
    step_.zoneout = static_cast<bool>(args_.zoneout_mask);
    for (int64_t i = 0; i < tile_.rows; ++i) {
      const int64_t sequence = tile_.sequence[i], row = i * layer_.state_stride;
      load_row(row_of<T>(args_.initial_state, sequence), layer_.hidden, room_.state + row);
      if constexpr (Cell::kKind.cell)
        load_row(row_of<T>(args_.initial_cell, sequence), layer_.hidden, room_.cell + row);
      step_.recurrent_mask[i] = row_of<T>(args_.recurrent_mask, sequence);
    }
  }

  // The sums of the steps from t on, row after row of each step's active ones.
  void project_chunk(int64_t t) {
    const T* values[kChunk * kMaxTileRows];
    int64_t rows = 0;
    for (int64_t k = t; k < t + kChunk; ++k)
      for (int64_t i = 0; i < tile_.rows && tile_.length[i] > k; ++i)
        values[rows++] = row_of<T>(args_.values, tile_.event(i, k));
    project(layer_, multiplier_, values, rows, room_.left, room_.sums);
    step_.sums = room_.sums;
  }

  void take_step(int64_t t, int64_t active) {
    step_.rows = active;
    for (int64_t i = 0; i < active; ++i) {
      const int64_t event = tile_.event(i, t);
      step_.output[i] = args_.output.as<T>() + event * layer_.hidden;
      step_.zoneout_mask[i] = row_of<T>(args_.zoneout_mask, event);
      if (step_.save) step_.saved[i] = args_.saved.as<T>() + event * Cell::kKind.saved * layer_.padded;
    }
    run_step(layer_, multiplier_, step_);
    step_.sums += active * layer_.sum_stride;
  }

  // The rows that have no further event.
  void finish(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i * layer_.state_stride, at = tile_.sequence[i] * layer_.hidden;
      store_row(room_.state + row, layer_.hidden, args_.final_state.as<T>() + at);
      if constexpr (Cell::kKind.cell)
        store_row(room_.cell + row, layer_.hidden, args_.final_cell.as<T>() + at);
    }
  }

  const RecurrentForwardArgs& args_;
  const Layer<Cell, W>& layer_;
  const SequenceTile& tile_;
  const ForwardRoom room_;
  const Multiplier<W> multiplier_{};
  StepRows<T> step_;
};

template <typename Cell, typename T, typename W>
void forward_in(const RecurrentForwardArgs& args, const T*, const W*) {
  const int64_t hidden = args.output.shape[1], sequences = args.final_state.shape[0];
  const int64_t* offsets = args.offsets.as<const int64_t>();
  const Layer<Cell, W> layer(args, hidden);
  const int64_t chunk = chunk_steps(Cell::kKind);
  const ForwardScratch scratch(args.scratch.data, Cell::kKind, sequences, args.values.shape[0], hidden,
                               chunk);
  sort_by_length(offsets, sequences, scratch.starts, scratch.order);
  parallel_for(count_tiles(sequences), [&](int64_t task, int thread) {
    const SequenceTile tile(offsets, scratch.order, sequences, task, args.reverse);
    const ForwardRoom room(scratch.threads + thread * scratch.per_thread, Cell::kKind, layer.padded, chunk);
    ForwardTile<Cell, T, W>(args, layer, tile, room).run();
  });
}

template <typename Cell, typename T, typename W>
void step_in(const RecurrentStepArgs& args, const T*, const W*) {
  const int64_t sequences = args.values.shape[0], hidden = args.state.shape[1], size = tile_rows(sequences);
  const Layer<Cell, W> layer(args, hidden);
  const ForwardScratch scratch(args.scratch.data, Cell::kKind, 0, 0, hidden, 1);
  parallel_for(count_tiles(sequences), [&](int64_t task, int thread) {
    const int64_t first = task * size, rows = min64(size, sequences - first);
    const ForwardRoom room(scratch.threads + thread * scratch.per_thread, Cell::kKind, layer.padded, 1);
    const Multiplier<W> multiplier{};
    const T* values[kMaxTileRows] = {};
    StepRows<T> step = {rows, room.sums, room.state, room.cell, room.left, {},
                        {},   {},        {},         false,     false,     false};
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = i * layer.state_stride;
      values[i] = row_of<T>(args.values, first + i);
      load_row(row_of<T>(args.state, first + i), hidden, room.state + row);
      if constexpr (Cell::kKind.cell) load_row(row_of<T>(args.cell, first + i), hidden, room.cell + row);
      step.output[i] = args.new_state.as<T>() + (first + i) * hidden;
    }
    project(layer, multiplier, values, rows, room.left, room.sums);
    run_step(layer, multiplier, step);
    if constexpr (Cell::kKind.cell)
      for (int64_t i = 0; i < rows; ++i)
        store_row(room.cell + i * layer.state_stride, hidden, args.new_cell.as<T>() + (first + i) * hidden);
  });
}

template <typename Cell>
void recurrent_forward(const RecurrentForwardArgs& args) {
  with_types(args.values.dtype, args.weight_hh.dtype,
             [&](auto* values, auto* weights) { forward_in<Cell>(args, values, weights); });
}

template <typename Cell>
void recurrent_step(const RecurrentStepArgs& args) {
  with_types(args.values.dtype, args.weight_hh.dtype,
             [&](auto* values, auto* weights) { step_in<Cell>(args, values, weights); });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
