// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/gru_tiles.h"
#include "cpu/kernels.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

DType element_type(const TensorView& values) {
  return values.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

// Weights packed gate by gate, and biases.
void expect_packed_weights(const TensorView& weight_ih, const TensorView& weight_hh,
                           const TensorView& bias_ih, const TensorView& bias_hh, int64_t input,
                           int64_t hidden) {
  const int64_t panels = gru_padded(hidden) / 16;
  expect_packed(weight_ih, "weight_ih", DType::f32, {3, panels, input, 16});
  expect_packed(weight_hh, "weight_hh", DType::f32, {3, panels, hidden, 16});
  if (bias_ih) expect_packed(bias_ih, "bias_ih", DType::f32, {3 * hidden});
  if (bias_hh) expect_packed(bias_hh, "bias_hh", DType::f32, {3 * hidden});
}

}  // namespace

int64_t gru_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"hidden_size", hidden_size}});
  const int64_t chunk = gru_chunk_steps(gru_padded(hidden_size));
  return GruForwardScratch(nullptr, sequences, events, hidden_size, chunk).bytes;
}

int64_t gru_step_scratch(int64_t hidden_size) {
  expect_sizes({{"hidden_size", hidden_size}});
  return GruForwardScratch(nullptr, 0, 0, hidden_size, 1).bytes;
}

int64_t gru_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size) {
  expect_sizes({{"sequences", sequences},
                {"events", events},
                {"input_size", input_size},
                {"hidden_size", hidden_size}});
  return GruBackwardScratch(nullptr, sequences, events, input_size, hidden_size).bytes;
}

void gru_forward(const GruForwardArgs& args) {
  const DType dtype = element_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t events = args.values.shape[0];
  const int64_t sequences = expect_offsets(args.offsets, "offsets", events);
  expect_output(args.output, "output", dtype, {events, kAnySize});
  const int64_t hidden = args.output.shape[1];
  expect_packed_weights(args.weight_ih, args.weight_hh, args.bias_ih, args.bias_hh, args.values.shape[1],
                        hidden);
  if (args.initial_state) expect(args.initial_state, "initial_state", dtype, {sequences, hidden});
  expect_output(args.final_state, "final_state", dtype, {sequences, hidden});
  if (args.gates) expect_output(args.gates, "gates", DType::f32, {events, 4, gru_padded(hidden)});
  const ScratchThreads threads(args.scratch, [&] { return gru_forward_scratch(sequences, events, hidden); });
  kernels().gru_forward(args);
}

void gru_step(const GruStepArgs& args) {
  const DType dtype = element_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t sequences = args.values.shape[0];
  expect(args.state, "state", dtype, {sequences, kAnySize});
  const int64_t hidden = args.state.shape[1];
  expect_packed_weights(args.weight_ih, args.weight_hh, args.bias_ih, args.bias_hh, args.values.shape[1],
                        hidden);
  expect_output(args.new_state, "new_state", dtype, {sequences, hidden});
  const ScratchThreads threads(args.scratch, [&] { return gru_step_scratch(hidden); });
  kernels().gru_step(args);
}

void gru_backward(const GruBackwardArgs& args) {
  const DType dtype = element_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t events = args.values.shape[0], input = args.values.shape[1];
  const int64_t sequences = expect_offsets(args.offsets, "offsets", events);
  expect_packed(args.output, "output", dtype, {events, kAnySize});
  const int64_t hidden = args.output.shape[1];
  expect(args.grad_output, "grad_output", dtype, {events, hidden});
  expect(args.grad_final_state, "grad_final_state", dtype, {sequences, hidden});
  expect(args.weight_ih, "weight_ih", dtype, {3 * hidden, input});
  expect(args.weight_hh, "weight_hh", dtype, {3 * hidden, hidden});
  if (args.initial_state) expect(args.initial_state, "initial_state", dtype, {sequences, hidden});
  expect_packed(args.gates, "gates", DType::f32, {events, 4, gru_padded(hidden)});
  expect_output(args.grad_values, "grad_values", dtype, {events, input});
  expect_output(args.grad_weight_ih, "grad_weight_ih", dtype, {3 * hidden, input});
  expect_output(args.grad_weight_hh, "grad_weight_hh", dtype, {3 * hidden, hidden});
  if (args.grad_bias_ih) expect_output(args.grad_bias_ih, "grad_bias_ih", dtype, {3 * hidden});
  if (args.grad_bias_hh) expect_output(args.grad_bias_hh, "grad_bias_hh", dtype, {3 * hidden});
  if (args.grad_initial_state)
    expect_output(args.grad_initial_state, "grad_initial_state", dtype, {sequences, hidden});
  const ScratchThreads threads(args.scratch,
                               [&] { return gru_backward_scratch(sequences, events, input, hidden); });
  kernels().gru_backward(args);
}

}  // namespace chronorec
