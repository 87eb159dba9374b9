// LSTM: the slots are the gates of the weights in their order, i, f, g, o.
#include "cpu/recurrent_backward.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

struct LstmCell {
  using Slots = LstmCell;
  static constexpr RecurrentKind kKind = kLstm;
  static constexpr int kStateSlot = 0, kUnitPanels = 1;

  static int64_t input_gate(int64_t slot) { return slot; }
  static int64_t state_gate(int64_t slot) { return slot; }

  template <typename T>
  static inline vf forward(const float* sums, vf, vf& cell, vf* saved) {
    const vf i = gate_sigmoid<T>(load(sums)), f = gate_sigmoid<T>(load(sums + kPanel));
    const vf g = gate_tanh<T>(load(sums + 2 * kPanel)), o = gate_sigmoid<T>(load(sums + 3 * kPanel));
    cell = fma(f, cell, i * g);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = cell;
    return o * gate_tanh<T>(cell);
  }

  template <typename T>
  static inline vf backward(const T* saved, vf, vf d_state, vf cell, vf& d_cell, vf* grads) {
    const vf i = load(saved), f = load(saved + kPanel), g = load(saved + 2 * kPanel);
    const vf o = load(saved + 3 * kPanel), one = splat(1);
    const vf t = gate_tanh<T>(fma(f, cell, i * g));
    const vf d = fma(d_state * o, one - t * t, d_cell);
    grads[0] = d * g * i * (one - i);
    grads[1] = d * cell * f * (one - f);
    grads[2] = d * i * (one - g * g);
    grads[3] = d_state * t * o * (one - o);
    d_cell = d * f;
    return splat(0);
  }
};

}  // namespace

void lstm_pack(const RecurrentPackArgs& args) { recurrent_pack<LstmCell>(args); }

void lstm_forward(const RecurrentForwardArgs& args) { recurrent_forward<LstmCell>(args); }

void lstm_step(const RecurrentStepArgs& args) { recurrent_step<LstmCell>(args); }

void lstm_backward(const RecurrentBackwardArgs& args) { recurrent_backward<LstmCell>(args); }

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
