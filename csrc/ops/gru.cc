// Checks, then the kernel of the selected level.
#include "ops/recurrent_checks.h"

namespace chronorec {

int64_t gru_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size) {
  return forward_scratch(kGru, sequences, events, hidden_size);
}

int64_t gru_step_scratch(int64_t hidden_size) { return step_scratch(kGru, hidden_size); }

int64_t gru_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size) {
  return backward_scratch(kGru, sequences, events, input_size, hidden_size);
}

void gru_pack(const RecurrentPackArgs& args) { run_pack(args, kGru, kernels().gru_pack); }

void gru_forward(const RecurrentForwardArgs& args) { run_forward(args, kGru, kernels().gru_forward); }

void gru_step(const RecurrentStepArgs& args) { run_step(args, kGru, kernels().gru_step); }

void gru_backward(const RecurrentBackwardArgs& args) { run_backward(args, kGru, kernels().gru_backward); }

}  // namespace chronorec
