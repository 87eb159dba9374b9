// The plain recurrent network of Elman, with tanh or max(0, .); few sums a unit, so several panels of units
// are taken together.
#include "cpu/recurrent_backward.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

struct RnnSlots {
  using Slots = RnnSlots;
  static constexpr RecurrentKind kKind = kRnn;
  static constexpr int kStateSlot = 0, kUnitPanels = 4;

  static int64_t input_gate(int64_t) { return 0; }
  static int64_t state_gate(int64_t) { return 0; }
};

struct TanhCell : RnnSlots {
  template <typename T>
  static inline vf forward(const float* sums, vf, vf&, vf* saved) {
    return saved[0] = gate_tanh<T>(load(sums));
  }

  template <typename T>
  static inline vf backward(const T* saved, vf, vf d_state, vf, vf&, vf* grads) {
    const vf state = load(saved);
    grads[0] = d_state * (splat(1) - state * state);
    return splat(0);
  }
};

struct ReluCell : RnnSlots {
  template <typename T>
  static inline vf forward(const float* sums, vf, vf&, vf* saved) {
    const vf sum = load(sums);
    return saved[0] = sum < splat(0) ? splat(0) : sum;  // NaN stays
  }

  template <typename T>
  static inline vf backward(const T* saved, vf, vf d_state, vf, vf&, vf* grads) {
    grads[0] = load(saved) <= splat(0) ? splat(0) : d_state;
    return splat(0);
  }
};

}  // namespace

void rnn_pack(const RecurrentPackArgs& args) { recurrent_pack<TanhCell>(args); }

void rnn_tanh_forward(const RecurrentForwardArgs& args) { recurrent_forward<TanhCell>(args); }

void rnn_relu_forward(const RecurrentForwardArgs& args) { recurrent_forward<ReluCell>(args); }

void rnn_tanh_step(const RecurrentStepArgs& args) { recurrent_step<TanhCell>(args); }

void rnn_relu_step(const RecurrentStepArgs& args) { recurrent_step<ReluCell>(args); }

void rnn_tanh_backward(const RecurrentBackwardArgs& args) { recurrent_backward<TanhCell>(args); }

void rnn_relu_backward(const RecurrentBackwardArgs& args) { recurrent_backward<ReluCell>(args); }

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
