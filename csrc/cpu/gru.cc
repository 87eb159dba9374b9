// GRU: the slots are n (the input's part), r, z, and W_hn h + b_hn.
#include "cpu/recurrent_backward.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

struct GruCell {
  using Slots = GruCell;
  static constexpr RecurrentKind kKind = kGru;
  static constexpr int kStateSlot = 1, kUnitPanels = 1;

  // A weight's blocks of rows are r, z, n.
  static int64_t input_gate(int64_t slot) { return slot == 0 ? 2 : slot - 1; }
  static int64_t state_gate(int64_t slot) { return slot; }

  template <typename T>
  static inline vf forward(const float* sums, vf before, vf&, vf* saved) {
    const vf r = gate_sigmoid<T>(load(sums + kPanel)), z = gate_sigmoid<T>(load(sums + 2 * kPanel));
    const vf recurrent = load(sums + 3 * kPanel);
    const vf n = gate_tanh<T>(fma(r, recurrent, load(sums)));
    saved[0] = n, saved[1] = r, saved[2] = z, saved[3] = recurrent;
    return fma(z, before - n, n);
  }

  template <typename T>
  static inline vf backward(const T* saved, vf before, vf d_state, vf, vf&, vf* grads) {
    const vf n = load(saved), r = load(saved + kPanel), z = load(saved + 2 * kPanel);
    const vf one = splat(1);
    grads[0] = d_state * (one - z) * (one - n * n);
    grads[1] = grads[0] * load(saved + 3 * kPanel) * r * (one - r);
    grads[2] = d_state * (before - n) * z * (one - z);
    grads[3] = grads[0] * r;
    return d_state * z;
  }
};

}  // namespace

void gru_pack(const RecurrentPackArgs& args) { recurrent_pack<GruCell>(args); }

void gru_forward(const RecurrentForwardArgs& args) { recurrent_forward<GruCell>(args); }

void gru_step(const RecurrentStepArgs& args) { recurrent_step<GruCell>(args); }

void gru_backward(const RecurrentBackwardArgs& args) { recurrent_backward<GruCell>(args); }

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
