// The formulas of gru; blocks r, z, n.
#include "cuda/recurrent_run.cuh"

namespace chronorec::cuda {
namespace {

struct Gru {
  static constexpr int kGates = 3, kSlots = 4, kSaved = 4;
  static constexpr bool kHasCell = false, kHasRecurrentGradient = true;
  template <typename T>
  static constexpr int kHeld = held_tiles<T>(8, 3);
  template <typename T>
  static constexpr int kHeldBackward = held_tiles<T>(8, 2);

  // n has one for the values and one for the state.
  template <typename Ih, typename Hh>
  __device__ __forceinline__ static float bias(int slot, Ih ih, Hh hh) {
    return slot == 3 ? hh(2) : slot == 2 ? ih(2) : ih(slot) + hh(slot);
  }

  __device__ __forceinline__ static void forward(const float (&in)[3], const float (&sum)[3],
                                                 const float (&bias)[4], float (&state)[1],
                                                 float (&saved)[4]) {
    const float r = sigmoid(in[0] + sum[0] + bias[0]), z = sigmoid(in[1] + sum[1] + bias[1]);
    const float of_state = sum[2] + bias[3], n = tanhf(in[2] + bias[2] + r * of_state);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = of_state;
    state[0] = n + z * (state[0] - n);
  }

  __device__ __forceinline__ static void backward(const float (&saved)[4], const float (&before)[1],
                                                  float (&grad)[1], float (&in)[3], float (&recurrent)[3]) {
    const float r = saved[0], z = saved[1], n = saved[2];
    const float of_n = grad[0] * (1 - z) * (1 - n * n);
    in[0] = of_n * saved[3] * r * (1 - r);
    in[1] = grad[0] * (before[0] - n) * z * (1 - z);
    in[2] = of_n;
    recurrent[0] = in[0], recurrent[1] = in[1], recurrent[2] = of_n * r;
    grad[0] *= z;
  }
};

}  // namespace

void gru_recurrence(const RecurrenceArgs& args, Stream stream) { run_forward<Gru>(args, stream); }

void gru_recurrence_backward(const RecurrenceBackwardArgs& args, Stream stream) {
  run_backward<Gru>(args, stream);
}

int64_t gru_recurrence_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return forward_scratch<Gru>(sequences, hidden, element);
}

int64_t gru_recurrence_backward_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return backward_scratch<Gru>(sequences, hidden, element);
}

}  // namespace chronorec::cuda
