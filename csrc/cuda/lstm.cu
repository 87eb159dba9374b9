// The formulas of lstm; blocks i, f, g, o.
#include "cuda/recurrent_run.cuh"

namespace chronorec::cuda {
namespace {

struct Lstm {
  static constexpr int kGates = 4, kSlots = 4, kSaved = 5;  // the last saved is the cell
  static constexpr bool kHasCell = true, kHasRecurrentGradient = false;
  template <typename T>
  static constexpr int kHeld = held_tiles<T>(7, 1);
  template <typename T>
  static constexpr int kHeldBackward = held_tiles<T>(7, 1);

  template <typename Ih, typename Hh>
  __device__ __forceinline__ static float bias(int slot, Ih ih, Hh hh) {
    return ih(slot) + hh(slot);
  }

  __device__ __forceinline__ static void forward(const float (&in)[4], const float (&sum)[4],
                                                 const float (&bias)[4], float (&state)[2],
                                                 float (&saved)[5]) {
    const float i = sigmoid(in[0] + sum[0] + bias[0]), f = sigmoid(in[1] + sum[1] + bias[1]);
    const float g = tanhf(in[2] + sum[2] + bias[2]), o = sigmoid(in[3] + sum[3] + bias[3]);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o;
    state[1] = f * state[1] + i * g;
    state[0] = o * tanhf(state[1]);
  }

  __device__ __forceinline__ static void backward(const float (&saved)[5], const float (&before)[2],
                                                  float (&grad)[2], float (&in)[4], float (&recurrent)[4]) {
    const float i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const float cell = tanhf(f * before[1] + i * g);  // the new one, before zoneout
    const float of_cell = grad[1] + grad[0] * o * (1 - cell * cell);
    in[0] = of_cell * g * i * (1 - i);
    in[1] = of_cell * before[1] * f * (1 - f);
    in[2] = of_cell * i * (1 - g * g);
    in[3] = grad[0] * cell * o * (1 - o);
    for (int k = 0; k < 4; ++k) recurrent[k] = in[k];
    grad[0] = 0;
    grad[1] = of_cell * f;
  }
};

}  // namespace

void lstm_recurrence(const RecurrenceArgs& args, Stream stream) { run_forward<Lstm>(args, stream); }

void lstm_recurrence_backward(const RecurrenceBackwardArgs& args, Stream stream) {
  run_backward<Lstm>(args, stream);
}

int64_t lstm_recurrence_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return forward_scratch<Lstm>(sequences, hidden, element);
}

int64_t lstm_recurrence_backward_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return backward_scratch<Lstm>(sequences, hidden, element);
}

}  // namespace chronorec::cuda
