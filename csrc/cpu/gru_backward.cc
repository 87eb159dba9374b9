// GRU backward: a task runs the reversed time loop of a tile of sequences and leaves the gate gradients of
// every event; the gradients of values, weights and biases are then products over all events.
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/gru_tiles.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kColumnsPerTask = 3 * kPanel;  // of a weight gradient: one register tile wide
constexpr int64_t kEventsPerTask = 64;
constexpr int64_t kSlice = 64;  // events summed in one go: bounds the rounding error, stays in the cache

struct Backward {
  const GruBackwardArgs& args;
  GruBackwardScratch scratch;
  int64_t sequences, events, input, hidden, padded;

  explicit Backward(const GruBackwardArgs& a)
      : args(a),
        scratch(a.scratch.data, a.grad_final_state.shape[0], a.values.shape[0], a.values.shape[1],
                a.output.shape[1]),
        sequences(a.grad_final_state.shape[0]),
        events(a.values.shape[0]),
        input(a.values.shape[1]),
        hidden(a.output.shape[1]),
        padded(gru_padded(hidden)) {}
};

// Packs weight [3H, cols] as the right side of gate_grads [.., 3P] times weight: rows of padding are zero.
template <typename T>
void pack_weight(const TensorView& weight, int64_t hidden, float* packed) {
  const int64_t padded = gru_padded(hidden), cols = weight.shape[1];
  for (int64_t panel = 0; panel * kPanel < cols; ++panel)
    for (int64_t gate = 0; gate < 3; ++gate) {
      float* target = packed + (panel * 3 + gate) * padded * kPanel;
      const int64_t wide = min64(kPanel, cols - panel * kPanel);
      pack_panels(weight.as<const T>() + gate * hidden * weight.stride[0] + panel * kPanel, weight.stride[0],
                  1, hidden, wide, target);
      for (int64_t i = hidden * kPanel; i < padded * kPanel; ++i) target[i] = 0;
    }
}

// Gradients of one event's gates, and of the state before it as far as it does not pass through weight_hh.
// In: state_grad holds the gradient of the new state from later steps.
template <typename T>
inline void gate_gradients(int64_t hidden, const float* gates, const float* previous, const T* grad_output,
                           float* state_grad, float* gate_grads, float* recurrent_grads) {
  const int64_t padded = gru_padded(hidden);
  for (int64_t j = 0; j < padded; j += kLanes) {
    // lanes of padding may hold NaN, an infinity times a weight of zero: they must not reach a product
    const auto own = [&](const float* at) { return first_lanes(load(at + j), hidden - j); };
    const vf r = own(gates), z = own(gates + padded), n = own(gates + 2 * padded);
    const vf recurrent = own(gates + 3 * padded);
    const vf d_new = own(state_grad) + load_some(grad_output + j, hidden - j);
    const vf one = splat(1);
    const vf d_n = d_new * (one - z) * (one - n * n);
    const vf d_z = d_new * (load(previous + j) - n) * z * (one - z);
    const vf d_r = d_n * recurrent * r * (one - r);
    const vf d_recurrent = d_n * r;
    store(state_grad + j, d_new * z);
    store(gate_grads + j, d_r);
    store(gate_grads + padded + j, d_z);
    store(gate_grads + 2 * padded + j, d_n);
    store(gate_grads + 3 * padded + j, d_recurrent);
    store(recurrent_grads + j, d_r);
    store(recurrent_grads + padded + j, d_z);
    store(recurrent_grads + 2 * padded + j, d_recurrent);
  }
}

template <typename T>
void load_row(const T* source, int64_t hidden, float* target) {
  for (int64_t j = 0; j < gru_padded(hidden); j += kLanes)
    store(target + j, source != nullptr ? load_some(source + j, hidden - j) : splat(0));
}

template <typename T>
inline void prefetch_row(const T* row, int64_t count) {
  for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + j, 0, 2);
}

// What the step before `event` will read: too many rows, too far apart, for the hardware to foresee.
template <typename T>
inline void prefetch_step_before(const Backward& b, int64_t event) {
  prefetch_row(b.args.gates.as<const float>() + (event - 1) * 4 * b.padded, 4 * b.padded);
  prefetch_row(b.args.grad_output.as<const T>() + (event - 1) * b.args.grad_output.stride[0], b.hidden);
  if (event > 1) prefetch_row(b.args.output.as<const T>() + (event - 2) * b.hidden, b.hidden);
}

template <typename T>
void run_tile(const Backward& b, const GruTile& tile, float* scratch) {
  const GruBackwardArgs& args = b.args;
  const int64_t hidden = b.hidden, padded = b.padded;
  float* recurrent_grads = scratch;
  float* state_grads = scratch + kMaxTileRows * 3 * padded;
  for (int64_t i = 0; i < tile.rows; ++i)
    load_row(args.grad_final_state.as<const T>() + tile.sequence[i] * args.grad_final_state.stride[0], hidden,
             state_grads + i * padded);
  for (int64_t t = tile.length[0] - 1; t >= 0; --t) {
    if (t % kStepsPerPoll == 0 && interrupted()) return;
    const int64_t active = tile.active(t);
    for (int64_t i = 0; i < active; ++i) {
      const int64_t event = tile.first[i] + t;
      const TensorView& initial = args.initial_state;
      float* previous = b.scratch.previous + event * padded;
      load_row(t > 0     ? args.output.as<const T>() + (event - 1) * hidden
               : initial ? initial.as<const T>() + tile.sequence[i] * initial.stride[0]
                         : nullptr,
               hidden, previous);
      gate_gradients(hidden, args.gates.as<const float>() + event * 4 * padded, previous,
                     args.grad_output.as<const T>() + event * args.grad_output.stride[0],
                     state_grads + i * padded, b.scratch.gate_grads + event * 4 * padded,
                     recurrent_grads + i * 3 * padded);
      if (t > 0) prefetch_step_before<T>(b, event);
    }
    gemm(product(recurrent_grads, 3 * padded, b.scratch.weight_hh, active, padded, 3 * padded),
         [&](int64_t row, int64_t col, vf sum) {
           float* at = state_grads + row * padded + col;
           store(at, load(at) + sum);
         });
  }
  if (!args.grad_initial_state) return;
  for (int64_t i = 0; i < tile.rows; ++i)
    for (int64_t j = 0; j < hidden; j += kLanes)
      store_some(args.grad_initial_state.as<T>() + tile.sequence[i] * hidden + j,
                 load(state_grads + i * padded + j), hidden - j);
}

template <typename T>
void gradient_of_values(const Backward& b) {
  parallel_for((b.events + kEventsPerTask - 1) / kEventsPerTask, [&](int64_t task, int) {
    const int64_t first = task * kEventsPerTask;
    gemm(product(b.scratch.gate_grads + first * 4 * b.padded, 4 * b.padded, b.scratch.weight_ih,
                 min64(kEventsPerTask, b.events - first), b.input, 3 * b.padded),
         [&](int64_t row, int64_t col, vf sum) {
           if (col < b.input)
             store_some(b.args.grad_values.as<T>() + (first + row) * b.input + col, sum, b.input - col);
         });
  });
}

// A weight's gradient, or its bias's: one task per kColumnsPerTask columns of [r, z, n or its recurrent
// part], each P wide, summed over all events in slices of fixed size, in order.
template <typename T, typename Left>
struct WeightGradient {
  const Backward& b;
  const Left* left;  // [N, size]: what the weight is multiplied with
  int64_t stride, size;
  bool recurrent;
  float* transposed;  // [3P / kColumnsPerTask, size, kColumnsPerTask]
  T* weight;          // [3H, size]
  T* bias;            // [3H] or null

  void run(int64_t begin) const {
    float slice[kSlice * kColumnsPerTask], bias_sum[kColumnsPerTask] = {};
    float* total = transposed + begin * size;
    for (int64_t i = 0; i < size * kColumnsPerTask; ++i) total[i] = 0;
    for (int64_t first = 0; first < b.events && !interrupted(); first += kSlice) {
      const int64_t count = min64(kSlice, b.events - first);
      for (int64_t col = 0; col < kColumnsPerTask; col += kLanes)
        gather(first, count, begin + col, slice + col, bias_sum + col);
      prefetch_left(first + kSlice);
      const Product<Left> p = {left + first * stride, 1,    stride,          slice, kPanel,
                               kColumnsPerTask,       size, kColumnsPerTask, count};
      gemm(p, [&](int64_t row, int64_t col, vf sum) {
        float* at = total + row * kColumnsPerTask + col;
        store(at, load(at) + sum);
      });
    }
    for (int64_t col = 0; col < kColumnsPerTask; ++col) store_column(begin + col, total + col, bias_sum[col]);
  }

  // Copies kLanes columns of a slice of events to where the product finds them in the nearest cache, and
  // adds them up for the bias. The rows are far apart, so the next slice is asked for by hand.
  void gather(int64_t first, int64_t count, int64_t col, float* slice, float* bias_sum) const {
    const int64_t step = 4 * b.padded;
    const bool moved = recurrent && col >= 2 * b.padded;  // the recurrent part stands one gate further
    const float* grads = b.scratch.gate_grads + first * step + col + (moved ? b.padded : 0);
    vf sum = splat(0);
    for (int64_t k = 0; k < count; ++k) {
      if (first + k + kSlice < b.events) __builtin_prefetch(grads + (k + kSlice) * step, 0, 2);
      const vf grad = load(grads + k * step);
      sum += grad;
      store(slice + k * kColumnsPerTask, grad);
    }
    store(bias_sum, load(bias_sum) + sum);
  }

  void prefetch_left(int64_t first) const {
    for (int64_t event = first; event < min64(b.events, first + kSlice); ++event)
      prefetch_row(left + event * stride, size);
  }

  void store_column(int64_t col, const float* total, float bias_sum) const {
    const int64_t unit = col % b.padded;
    if (unit >= b.hidden) return;
    const int64_t row = col / b.padded * b.hidden + unit;
    for (int64_t i = 0; i < size; ++i) from_float(total[i * kColumnsPerTask], weight + row * size + i);
    if (bias != nullptr) from_float(bias_sum, bias + row);
  }
};

template <typename T>
void gradients_of_weights(const Backward& b) {
  const GruBackwardArgs& args = b.args;
  const WeightGradient<T, T> ih = {
      b,     args.values.as<const T>(), args.values.stride[0],       b.input,
      false, b.scratch.grad_ih,         args.grad_weight_ih.as<T>(), args.grad_bias_ih.as<T>()};
  const WeightGradient<T, float> hh = {b,
                                       b.scratch.previous,
                                       b.padded,
                                       b.hidden,
                                       true,
                                       b.scratch.grad_hh,
                                       args.grad_weight_hh.as<T>(),
                                       args.grad_bias_hh.as<T>()};
  const int64_t tasks = 3 * b.padded / kColumnsPerTask;  // P is a multiple of 16
  parallel_for(2 * tasks, [&](int64_t task, int) {
    const int64_t begin = task % tasks * kColumnsPerTask;
    task < tasks ? ih.run(begin) : hh.run(begin);
  });
}

template <typename T>
void backward(const GruBackwardArgs& args) {
  const Backward b(args);
  const int64_t* offsets = args.offsets.as<const int64_t>();
  gru_sort(offsets, b.sequences, b.scratch.starts, b.scratch.order);
  pack_weight<T>(args.weight_hh, b.hidden, b.scratch.weight_hh);
  pack_weight<T>(args.weight_ih, b.hidden, b.scratch.weight_ih);
  const int64_t rows = gru_tile_rows(b.sequences);
  parallel_for((b.sequences + rows - 1) / rows, [&](int64_t task, int thread) {
    run_tile<T>(b, GruTile(offsets, b.scratch.order, b.sequences, task),
                b.scratch.threads + thread * b.scratch.per_thread);
  });
  gradient_of_values<T>(b);
  gradients_of_weights<T>(b);
}

}  // namespace

void gru_backward(const GruBackwardArgs& args) {
  args.values.dtype == DType::bf16 ? backward<bf16>(args) : backward<float>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
