// Checks, then the kernel of the selected level.
#include "ops/recurrent_checks.h"

namespace chronorec {

int64_t rnn_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size) {
  return forward_scratch(kRnn, sequences, events, hidden_size);
}

int64_t rnn_step_scratch(int64_t hidden_size) { return step_scratch(kRnn, hidden_size); }

int64_t rnn_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size) {
  return backward_scratch(kRnn, sequences, events, input_size, hidden_size);
}

void rnn_pack(const RecurrentPackArgs& args) { run_pack(args, kRnn, kernels().rnn_pack); }

void rnn_tanh_forward(const RecurrentForwardArgs& args) {
  run_forward(args, kRnn, kernels().rnn_tanh_forward);
}

void rnn_relu_forward(const RecurrentForwardArgs& args) {
  run_forward(args, kRnn, kernels().rnn_relu_forward);
}

void rnn_tanh_step(const RecurrentStepArgs& args) { run_step(args, kRnn, kernels().rnn_tanh_step); }

void rnn_relu_step(const RecurrentStepArgs& args) { run_step(args, kRnn, kernels().rnn_relu_step); }

void rnn_tanh_backward(const RecurrentBackwardArgs& args) {
  run_backward(args, kRnn, kernels().rnn_tanh_backward);
}

void rnn_relu_backward(const RecurrentBackwardArgs& args) {
  run_backward(args, kRnn, kernels().rnn_relu_backward);
}

}  // namespace chronorec
