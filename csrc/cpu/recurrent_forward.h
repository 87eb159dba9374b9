// Forward of a recurrent layer: a task runs the whole time loop of a tile of sequences, with the packed
// recurrent weight in its cache. The sums start at the bias; the input's part is added for a chunk of steps
// at a time, the state's part step by step, and then the cell (a class of gru.cc, lstm.cc or rnn.cc) makes of
// the sums of a panel of units their new state.
//
// A cell has: kKind, its RecurrentKind; kStateSlot, the first slot that the state feeds; kUnitPanels, panels
// of units taken together; and forward(sums, state, cell, saved): the new state of kLanes units, where sums
// points to the first slot of the unit panel's sums.
#pragma once
#include "core/parallel.h"
#include "cpu/gate_math.h"
#include "cpu/kernels.h"
#include "cpu/recurrent_product.h"
#include "cpu/recurrent_tiles.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename Cell>
struct Layer {
  static constexpr int64_t kGates = Cell::kKind.gates, kSlots = Cell::kKind.slots;

  int64_t input, hidden, padded, sum_stride, state_stride;
  const float *weight_ih, *weight_hh, *bias;

  template <typename Args>
  Layer(const Args& args, int64_t hidden_size)
      : input(args.values.shape[1]),
        hidden(hidden_size),
        padded(padded_units(hidden)),
        sum_stride(row_stride(kSlots * padded)),
        state_stride(row_stride(padded)),
        weight_ih(args.weight_ih.template as<const float>()),
        weight_hh(args.weight_hh.template as<const float>()),
        bias(args.bias.template as<const float>()) {}

  int64_t panels() const { return padded / kPanel; }
};

// One step of the active rows of a tile.
template <typename T>
struct StepRows {
  int64_t rows;
  float* sums;  // of the step; the other arrays are those of ForwardRoom
  const float *state, *operand;
  float *next, *next_operand, *cell;
  T* output[kMaxTileRows];
  float* saved[kMaxTileRows];  // [P / 16, kKind.saved, 16] each
  const T* recurrent_mask[kMaxTileRows];
  const T* zoneout_mask[kMaxTileRows];
  bool save, mask, zoneout;
};

template <typename T>
struct Values {
  const T* first;
  int64_t count;
};

// Sums of value k of row i, at i * sum_stride + k * step_size: the bias and the input's part. values(i) says
// where the values of a row begin, stride apart, and how many they are.
template <typename Cell, typename ValuesOf>
void project(const Layer<Cell>& layer, int64_t rows, int64_t stride, float* sums, int64_t step_size,
             ValuesOf&& values) {
  using L = Layer<Cell>;
  for (int64_t panel = 0; panel < layer.panels(); ++panel) {
    const float* bias = layer.bias + panel * L::kSlots * kPanel;
    for (int64_t i = 0; i < rows; ++i) {
      const auto [first, count] = values(i);
      float* target = sums + i * layer.sum_stride + panel * L::kSlots * kPanel;
      for (int64_t k = 0; k < count; ++k)
        for (int64_t j = L::kGates * kPanel; j < L::kSlots * kPanel; j += kLanes)
          store(target + k * step_size + j, load(bias + j));
      const auto p = times_panels(first, stride, layer.weight_ih, count, layer.input);
      add_panels<L::kGates>(p, panel * L::kGates, Target<Adjacent>(target, step_size, bias));
    }
  }
}

// The new state of kLanes units of one row.
template <typename Cell, typename T>
inline void step_unit(const Layer<Cell>& layer, const StepRows<T>& step, int64_t row, const float* sums,
                      int64_t unit) {
  constexpr int kSaved = Cell::kKind.saved;
  const int64_t at = row * layer.state_stride + unit, left = layer.hidden - unit;
  const vf before = load(step.state + at);
  vf cell = splat(0), saved[kSaved];
  if constexpr (Cell::kKind.cell) cell = load(step.cell + at);
  const vf cell_before = cell;
  vf state = Cell::forward(sums, before, cell, saved);
  if (step.zoneout) {
    const vf keep = load_some(step.zoneout_mask[row] + unit, left), change = splat(1) - keep;
    state = fma(keep, before, change * state);
    if constexpr (Cell::kKind.cell) saved[kSaved - 1] = cell = fma(keep, cell_before, change * cell);
  }
  if constexpr (Cell::kKind.cell) store(step.cell + at, cell);
  store(step.next + at, state);
  if (step.mask) store(step.next_operand + at, state * load_some(step.recurrent_mask[row] + unit, left));
  store_some(step.output[row] + unit, state, left);
  if (step.save) {
    float* target = step.saved[row] + unit / kPanel * kPanel * kSaved + unit % kPanel;
    for (int s = 0; s < kSaved; ++s) store(target + s * kPanel, saved[s]);
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
    for (int64_t j = 0; j < units * kSaved; j += 16)
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
template <int Units, typename Cell, typename T>
void step_panels(const Layer<Cell>& layer, const StepRows<T>& step, int64_t panel) {
  using L = Layer<Cell>;
  constexpr int kGates = L::kGates;
  prefetch_results<Cell>(step, panel, Units);
  float* sums = step.sums + panel * L::kSlots * kPanel;
  const auto p = times_panels(step.operand, layer.state_stride, layer.weight_hh, step.rows, layer.hidden);
  add_panels<kGates * Units>(p, panel * kGates, Target<StateSlots<Cell>>{sums, layer.sum_stride});
  for (int64_t row = 0; row < step.rows; ++row)
    for (int unit = 0; unit < Units; ++unit)
      for (int v = 0; v < kPanel; v += kLanes)
        step_unit(layer, step, row, sums + row * layer.sum_stride + unit * L::kSlots * kPanel + v,
                  (panel + unit) * kPanel + v);
}

template <typename Cell, typename T>
void run_step(const Layer<Cell>& layer, const StepRows<T>& step) {
  constexpr int kFew = Cell::kUnitPanels > 2 ? Cell::kUnitPanels : 2;  // fewer rows, more panels at once
  int64_t panel = 0;
  if (step.rows <= 2)
    for (; panel + kFew <= layer.panels(); panel += kFew) step_panels<kFew>(layer, step, panel);
  for (; panel + Cell::kUnitPanels <= layer.panels(); panel += Cell::kUnitPanels)
    step_panels<Cell::kUnitPanels>(layer, step, panel);
  if constexpr (Cell::kUnitPanels > 1)
    for (; panel < layer.panels(); ++panel) step_panels<1>(layer, step, panel);
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

template <typename Cell, typename T>
class ForwardTile {
 public:
  ForwardTile(const RecurrentForwardArgs& args, const Layer<Cell>& layer, const SequenceTile& tile,
              const ForwardRoom& room)
      : args_(args), layer_(layer), tile_(tile), room_(room), chunk_(chunk_steps(Cell::kKind)) {}

  void run() {
    start();
    int64_t active = tile_.active(0);
    finish(active, tile_.rows);
    for (int64_t t = 0; active > 0; ++t) {
      if (t % kStepsPerPoll == 0 && interrupted()) return;
      if (t % chunk_ == 0) project_chunk(t, active);
      take_step(t, active);
      const int64_t left = tile_.active(t + 1);
      finish(left, active);
      active = left;
    }
  }

 private:
  void start() {
    step_.save = static_cast<bool>(args_.saved);
    step_.mask = static_cast<bool>(args_.recurrent_mask);
    step_.zoneout = static_cast<bool>(args_.zoneout_mask);
    for (int64_t i = 0; i < tile_.rows; ++i) {
      const int64_t sequence = tile_.sequence[i], row = i * layer_.state_stride;
      load_row(row_of<T>(args_.initial_state, sequence), layer_.hidden, room_.state + row);
      if constexpr (Cell::kKind.cell)
        load_row(row_of<T>(args_.initial_cell, sequence), layer_.hidden, room_.cell + row);
      step_.recurrent_mask[i] = row_of<T>(args_.recurrent_mask, sequence);
      if (step_.mask)
        for (int64_t j = 0; j < layer_.hidden; ++j)
          room_.operand[row + j] = room_.state[row + j] * to_float(step_.recurrent_mask[i][j]);
    }
  }

  void project_chunk(int64_t t, int64_t active) {
    const int64_t stride = args_.values.stride[0];
    project(layer_, active, stride * tile_.step, room_.sums, kMaxTileRows * layer_.sum_stride,
            [&](int64_t i) {
              return Values<T>{args_.values.as<const T>() + tile_.event(i, t) * stride,
                               min64(chunk_, tile_.length[i] - t)};
            });
  }

  void take_step(int64_t t, int64_t active) {
    step_.rows = active;
    step_.sums = room_.sums + t % chunk_ * kMaxTileRows * layer_.sum_stride;
    step_.state = room_.state, step_.operand = room_.operand, step_.cell = room_.cell;
    step_.next = room_.next, step_.next_operand = room_.next_operand;
    for (int64_t i = 0; i < active; ++i) {
      const int64_t event = tile_.event(i, t);
      step_.output[i] = args_.output.as<T>() + event * layer_.hidden;
      step_.zoneout_mask[i] = row_of<T>(args_.zoneout_mask, event);
      if (step_.save) step_.saved[i] = args_.saved.as<float>() + event * Cell::kKind.saved * layer_.padded;
    }
    run_step(layer_, step_);
    room_.advance();
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
  const Layer<Cell>& layer_;
  const SequenceTile& tile_;
  ForwardRoom room_;
  int64_t chunk_;
  StepRows<T> step_;
};

template <typename Cell, typename T>
void recurrent_forward(const RecurrentForwardArgs& args) {
  const int64_t hidden = args.output.shape[1], sequences = args.final_state.shape[0];
  const int64_t* offsets = args.offsets.as<const int64_t>();
  const Layer<Cell> layer(args, hidden);
  const int64_t chunk = chunk_steps(Cell::kKind);
  const ForwardScratch scratch(args.scratch.data, Cell::kKind, sequences, args.values.shape[0], hidden,
                               chunk);
  sort_by_length(offsets, sequences, scratch.starts, scratch.order);
  parallel_for(count_tiles(sequences), [&](int64_t task, int thread) {
    const SequenceTile tile(offsets, scratch.order, sequences, task, args.reverse);
    const ForwardRoom room(scratch.threads + thread * scratch.per_thread, Cell::kKind, layer.padded, chunk,
                           static_cast<bool>(args.recurrent_mask));
    ForwardTile<Cell, T>(args, layer, tile, room).run();
  });
}

template <typename Cell, typename T>
void recurrent_step(const RecurrentStepArgs& args) {
  const int64_t sequences = args.values.shape[0], hidden = args.state.shape[1], size = tile_rows(sequences);
  const Layer<Cell> layer(args, hidden);
  const ForwardScratch scratch(args.scratch.data, Cell::kKind, 0, 0, hidden, 1);
  parallel_for(count_tiles(sequences), [&](int64_t task, int thread) {
    const int64_t first = task * size, rows = min64(size, sequences - first), stride = args.values.stride[0];
    const ForwardRoom room(scratch.threads + thread * scratch.per_thread, Cell::kKind, layer.padded, 1,
                           false);
    project(layer, 1, stride, room.sums, layer.sum_stride,
            [&](int64_t) { return Values<T>{args.values.as<const T>() + first * stride, rows}; });
    StepRows<T> step = {rows,      room.sums, room.state, room.operand, room.next, room.next_operand,
                        room.cell, {},        {},         {},           {},        false,
                        false,     false};
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = i * layer.state_stride;
      load_row(row_of<T>(args.state, first + i), hidden, room.state + row);
      if constexpr (Cell::kKind.cell) load_row(row_of<T>(args.cell, first + i), hidden, room.cell + row);
      step.output[i] = args.new_state.as<T>() + (first + i) * hidden;
    }
    run_step(layer, step);
    if constexpr (Cell::kKind.cell)
      for (int64_t i = 0; i < rows; ++i)
        store_row(room.cell + i * layer.state_stride, hidden, args.new_cell.as<T>() + (first + i) * hidden);
  });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
