// Checks, then the kernel of the selected level.
#include "ops/recurrent_checks.h"

namespace chronorec {

int64_t lstm_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size) {
  return forward_scratch(kLstm, sequences, events, hidden_size);
}

int64_t lstm_step_scratch(int64_t hidden_size) { return step_scratch(kLstm, hidden_size); }

int64_t lstm_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size) {
  return backward_scratch(kLstm, sequences, events, input_size, hidden_size);
}

void lstm_pack(const RecurrentPackArgs& args) { run_pack(args, kLstm, kernels().lstm_pack); }

void lstm_forward(const RecurrentForwardArgs& args) { run_forward(args, kLstm, kernels().lstm_forward); }

void lstm_step(const RecurrentStepArgs& args) { run_step(args, kLstm, kernels().lstm_step); }

void lstm_backward(const RecurrentBackwardArgs& args) { run_backward(args, kLstm, kernels().lstm_backward); }

}  // namespace chronorec
