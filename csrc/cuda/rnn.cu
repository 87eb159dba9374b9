// The formulas of rnn.
#include "cuda/recurrent_run.cuh"

namespace chronorec::cuda {
namespace {

template <bool kRelu>
struct Rnn {
  static constexpr int kGates = 1, kSlots = 1, kSaved = 1;
  static constexpr bool kHasCell = false, kHasRecurrentGradient = false;
  template <typename T>
  static constexpr int kHeld = held_tiles<T>(8, 8);
  template <typename T>
  static constexpr int kHeldBackward = held_tiles<T>(8, 8);

  template <typename Ih, typename Hh>
  __device__ __forceinline__ static float bias(int slot, Ih ih, Hh hh) {
    return ih(slot) + hh(slot);
  }

  __device__ __forceinline__ static void forward(const float (&in)[1], const float (&sum)[1],
                                                 const float (&bias)[1], float (&state)[1],
                                                 float (&saved)[1]) {
    const float x = in[0] + sum[0] + bias[0];
    state[0] = saved[0] = kRelu ? (x < 0 ? 0.f : x) : tanhf(x);  // NaN stays
  }

  __device__ __forceinline__ static void backward(const float (&saved)[1], const float (&)[1],
                                                  float (&grad)[1], float (&in)[1], float (&recurrent)[1]) {
    const float slope = kRelu ? (saved[0] > 0 ? 1.f : 0.f) : 1 - saved[0] * saved[0];
    in[0] = recurrent[0] = grad[0] * slope;
    grad[0] = 0;
  }
};

}  // namespace

void rnn_tanh_recurrence(const RecurrenceArgs& args, Stream stream) { run_forward<Rnn<false>>(args, stream); }
void rnn_relu_recurrence(const RecurrenceArgs& args, Stream stream) { run_forward<Rnn<true>>(args, stream); }

void rnn_tanh_recurrence_backward(const RecurrenceBackwardArgs& args, Stream stream) {
  run_backward<Rnn<false>>(args, stream);
}
void rnn_relu_recurrence_backward(const RecurrenceBackwardArgs& args, Stream stream) {
  run_backward<Rnn<true>>(args, stream);
}

int64_t rnn_recurrence_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return forward_scratch<Rnn<false>>(sequences, hidden, element);
}

int64_t rnn_recurrence_backward_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return backward_scratch<Rnn<false>>(sequences, hidden, element);
}

}  // namespace chronorec::cuda
