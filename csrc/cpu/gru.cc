// GRU forward: a task runs the whole time loop of a tile of sequences, with the packed recurrent weight in
// its cache. The input projection is computed for a chunk of steps at a time; the gates are applied to the
// product of a step while it is still in registers.
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/gru_tiles.h"
#include "cpu/kernels.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Rows whose three gates of one panel fill the registers.
constexpr int kBlockRows = kLanes == 16 ? 8 : kLanes == 8 ? 2 : 1;

struct Layer {
  int64_t input, hidden, padded;
  const float* weight_ih;  // packed gate by gate
  const float* weight_hh;
  const float* bias;  // [4, P], see GruForwardScratch
};

// One step of the active rows of a tile.
template <typename T>
struct Step {
  const float* projected;  // [rows, 3P], biases added
  const float* state;      // [rows, P]
  float* next;             // [rows, P]
  T* output[kMaxTileRows];
  float* gates[kMaxTileRows];  // [4, P] each
  bool save_gates;
};

void fold_bias(const float* bias_ih, const float* bias_hh, int64_t hidden, float* folded) {
  const int64_t padded = gru_padded(hidden);
  for (int64_t i = 0; i < 4 * padded; ++i) folded[i] = 0;
  for (int64_t j = 0; j < hidden; ++j) {
    for (int64_t gate = 0; gate < 3; ++gate) {
      const float recurrent = bias_hh != nullptr ? bias_hh[gate * hidden + j] : 0.0f;
      const float own = bias_ih != nullptr ? bias_ih[gate * hidden + j] : 0.0f;
      folded[gate * padded + j] = gate < 2 ? own + recurrent : own;
      if (gate == 2) folded[3 * padded + j] = recurrent;
    }
  }
}

// projected[row * row_step + ...] = values[row] W_ih^T + bias.
template <typename T>
void project(const Layer& layer, const T* values, int64_t stride, int64_t rows, float* projected,
             int64_t row_step) {
  gemm(product(values, stride, layer.weight_ih, rows, 3 * layer.padded, layer.input),
       [&](int64_t row, int64_t col, vf sum) {
         store(projected + row * row_step + col, sum + load(layer.bias + col));
       });
}

// The gates of kLanes units of one row. `sums` holds the row's h W_hh^T for the panel: r, z, n.
template <typename T>
inline void apply_gates(const Layer& layer, const Step<T>& step, int64_t row, int64_t unit, vf sum_r,
                        vf sum_z, vf sum_n) {
  const int64_t padded = layer.padded;
  const float* projected = step.projected + row * 3 * padded + unit;
  const vf r = sigmoid(sum_r + load(projected));
  const vf z = sigmoid(sum_z + load(projected + padded));
  const vf recurrent = sum_n + load(layer.bias + 3 * padded + unit);
  const vf n = tanh(fma(r, recurrent, load(projected + 2 * padded)));
  const vf h = load(step.state + row * padded + unit);
  const vf h_new = fma(z, h - n, n);
  store(step.next + row * padded + unit, h_new);
  store_some(step.output[row] + unit, h_new, layer.hidden - unit);
  if (step.save_gates) {
    float* gates = step.gates[row] + unit;
    store(gates, r);
    store(gates + padded, z);
    store(gates + 2 * padded, n);
    store(gates + 3 * padded, recurrent);
  }
}

template <int Rows, typename T>
void step_block(const Layer& layer, const Step<T>& step, int64_t first, int64_t unit) {
  vf sums[Rows][3 * kPanelVecs];
  const Product<float> p = {step.state + first * layer.padded,
                            layer.padded,
                            1,
                            layer.weight_hh + unit * layer.hidden,
                            layer.padded * layer.hidden,
                            kPanel,
                            Rows,
                            3 * kPanel,
                            layer.hidden};
  gemm_tile<Rows, 3>(p, 0, 0, [&](int64_t row, int64_t col, vf sum) { sums[row][col / kLanes] = sum; });
  for (int row = 0; row < Rows; ++row)
    for (int v = 0; v < kPanelVecs; ++v)
      apply_gates(layer, step, first + row, unit + v * kLanes, sums[row][v], sums[row][kPanelVecs + v],
                  sums[row][2 * kPanelVecs + v]);
}

template <int Rows, typename T>
void step_rows_left(const Layer& layer, const Step<T>& step, int64_t first, int64_t rows, int64_t unit) {
  if constexpr (Rows > 0) {
    if (rows == Rows) return step_block<Rows>(layer, step, first, unit);
    step_rows_left<Rows - 1>(layer, step, first, rows, unit);
  }
}

template <typename T>
void run_step(const Layer& layer, const Step<T>& step, int64_t rows) {
  for (int64_t unit = 0; unit < layer.padded; unit += kPanel) {
    int64_t row = 0;
    for (; row + kBlockRows <= rows; row += kBlockRows) step_block<kBlockRows>(layer, step, row, unit);
    step_rows_left<kBlockRows - 1>(layer, step, row, rows - row, unit);
  }
}

template <typename T>
void load_state(const T* source, int64_t hidden, float* state) {
  for (int64_t j = 0; j < gru_padded(hidden); ++j)
    state[j] = source != nullptr && j < hidden ? to_float(source[j]) : 0;
}

template <typename T>
void store_state(const float* state, int64_t hidden, T* target) {
  for (int64_t j = 0; j < hidden; j += kLanes) store_some(target + j, load(state + j), hidden - j);
}

template <typename T>
void run_tile(const GruForwardArgs& args, const Layer& layer, const GruTile& tile, float* scratch) {
  const int64_t hidden = layer.hidden, padded = layer.padded, chunk = gru_chunk_steps(padded);
  const int64_t step_size = kMaxTileRows * 3 * padded;
  float* projected = scratch;
  float* state = projected + chunk * step_size;
  float* next = state + kMaxTileRows * padded;
  const TensorView& initial = args.initial_state;
  for (int64_t i = 0; i < tile.rows; ++i)
    load_state(initial ? initial.as<const T>() + tile.sequence[i] * initial.stride[0] : nullptr, hidden,
               state + i * padded);
  int64_t active = tile.active(0);
  const auto finish = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      store_state(state + i * padded, hidden, args.final_state.as<T>() + tile.sequence[i] * hidden);
  };
  finish(active, tile.rows);
  Step<T> step;
  step.save_gates = static_cast<bool>(args.gates);
  for (int64_t t = 0; active > 0; ++t) {
    if (t % kStepsPerPoll == 0 && interrupted()) return;
    if (t % chunk == 0)
      for (int64_t i = 0; i < active; ++i)
        project(layer, args.values.as<const T>() + (tile.first[i] + t) * args.values.stride[0],
                args.values.stride[0], min64(chunk, tile.length[i] - t), projected + i * 3 * padded,
                step_size);
    for (int64_t i = 0; i < active; ++i) {
      step.output[i] = args.output.as<T>() + (tile.first[i] + t) * hidden;
      if (step.save_gates) step.gates[i] = args.gates.as<float>() + (tile.first[i] + t) * 4 * padded;
    }
    step.projected = projected + t % chunk * step_size;
    step.state = state;
    step.next = next;
    run_step(layer, step, active);
    next = state;
    state = const_cast<float*>(step.next);
    const int64_t left = tile.active(t + 1);
    finish(left, active);
    active = left;
  }
}

template <typename T>
void forward(const GruForwardArgs& args) {
  const int64_t hidden = args.output.shape[1], events = args.values.shape[0];
  const int64_t sequences = args.final_state.shape[0], padded = gru_padded(hidden);
  const GruForwardScratch scratch(args.scratch.data, sequences, events, hidden, gru_chunk_steps(padded));
  const int64_t* offsets = args.offsets.as<const int64_t>();
  gru_sort(offsets, sequences, scratch.starts, scratch.order);
  fold_bias(args.bias_ih.as<const float>(), args.bias_hh.as<const float>(), hidden, scratch.bias);
  const Layer layer = {args.values.shape[1],
                       hidden,
                       padded,
                       args.weight_ih.as<const float>(),
                       args.weight_hh.as<const float>(),
                       scratch.bias};
  const int64_t rows = gru_tile_rows(sequences);
  parallel_for((sequences + rows - 1) / rows, [&](int64_t task, int thread) {
    const GruTile tile(offsets, scratch.order, sequences, task);
    run_tile<T>(args, layer, tile, scratch.threads + thread * scratch.per_thread);
  });
}

template <typename T>
void one_step(const GruStepArgs& args) {
  const int64_t sequences = args.values.shape[0], hidden = args.state.shape[1], padded = gru_padded(hidden);
  const GruForwardScratch scratch(args.scratch.data, 0, 0, hidden, 1);
  fold_bias(args.bias_ih.as<const float>(), args.bias_hh.as<const float>(), hidden, scratch.bias);
  const Layer layer = {args.values.shape[1],
                       hidden,
                       padded,
                       args.weight_ih.as<const float>(),
                       args.weight_hh.as<const float>(),
                       scratch.bias};
  const int64_t size = gru_tile_rows(sequences);
  parallel_for((sequences + size - 1) / size, [&](int64_t task, int thread) {
    const int64_t first = task * size, rows = min64(size, sequences - first);
    float* projected = scratch.threads + thread * scratch.per_thread;
    float* state = projected + kMaxTileRows * 3 * padded;
    project(layer, args.values.as<const T>() + first * args.values.stride[0], args.values.stride[0], rows,
            projected, 3 * padded);
    Step<T> step = {projected, state, state + kMaxTileRows * padded, {}, {}, false};
    for (int64_t i = 0; i < rows; ++i) {
      load_state(args.state.as<const T>() + (first + i) * args.state.stride[0], hidden, state + i * padded);
      step.output[i] = args.new_state.as<T>() + (first + i) * hidden;
    }
    run_step(layer, step, rows);
  });
}

}  // namespace

void gru_forward(const GruForwardArgs& args) {
  args.values.dtype == DType::bf16 ? forward<bf16>(args) : forward<float>(args);
}

void gru_step(const GruStepArgs& args) {
  args.values.dtype == DType::bf16 ? one_step<bf16>(args) : one_step<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
