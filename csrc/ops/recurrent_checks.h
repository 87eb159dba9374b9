// What the checks of gru, lstm and rnn share.
#pragma once
#include "core/check.h"
#include "cpu/kernels.h"
#include "cpu/recurrent_tiles.h"
#include "ops/scratch.h"

namespace chronorec {

inline DType float_type(const TensorView& array) {
  return array.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

// Of packed weights: fp32 where it is none of the others.
inline DType packed_type(const TensorView& packed) {
  return packed.dtype == DType::u8 ? DType::u8 : float_type(packed);
}

inline void expect_packed_layer(const TensorView& weight_ih, const TensorView& weight_hh,
                                const TensorView& bias, const RecurrentKind& kind, int64_t input,
                                int64_t hidden) {
  const int64_t panels = padded_units(hidden) / kUnitPanel;
  const DType packed = packed_type(weight_hh);
  expect_packed(weight_ih, "weight_ih", packed, {panels, kind.gates, panel_depth(packed, input), kUnitPanel});
  expect_packed(weight_hh, "weight_hh", packed,
                {panels, kind.gates, panel_depth(packed, hidden), kUnitPanel});
  expect_packed(bias, "bias", DType::f32, {panels, kind.slots, kUnitPanel});
}

inline void expect_no_cell(const TensorView& cell, const char* name) {
  expect_that(!cell, name, "none", "an array");
}

inline void run_pack(const RecurrentPackArgs& args, const RecurrentKind& kind,
                     void (*kernel)(const RecurrentPackArgs&)) {
  const DType dtype = float_type(args.weight_hh);
  expect(args.weight_hh, "weight_hh", dtype, {kAnySize, kAnySize});
  const int64_t hidden = args.weight_hh.shape[1], rows = kind.gates * hidden;
  expect(args.weight_hh, "weight_hh", dtype, {rows, hidden});
  expect(args.weight_ih, "weight_ih", dtype, {rows, kAnySize});
  if (args.bias_ih) expect_packed(args.bias_ih, "bias_ih", dtype, {rows});
  if (args.bias_hh) expect_packed(args.bias_hh, "bias_hh", dtype, {rows});
  const int64_t panels = padded_units(hidden) / kUnitPanel;
  const DType packed = packed_type(args.packed_hh);
  expect_output(args.packed_ih, "packed_ih", packed,
                {panels, kind.gates, panel_depth(packed, args.weight_ih.shape[1]), kUnitPanel});
  expect_output(args.packed_hh, "packed_hh", packed,
                {panels, kind.gates, panel_depth(packed, hidden), kUnitPanel});
  expect_output(args.packed_bias, "packed_bias", DType::f32, {panels, kind.slots, kUnitPanel});
  kernel(args);
}

inline int64_t forward_scratch(const RecurrentKind& kind, int64_t sequences, int64_t events, int64_t hidden) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"hidden_size", hidden}});
  return ForwardScratch(nullptr, kind, sequences, events, hidden, chunk_steps(kind)).bytes;
}

inline int64_t step_scratch(const RecurrentKind& kind, int64_t hidden) {
  expect_sizes({{"hidden_size", hidden}});
  return ForwardScratch(nullptr, kind, 0, 0, hidden, 1).bytes;
}

inline int64_t backward_scratch(const RecurrentKind& kind, int64_t sequences, int64_t events, int64_t input,
                                int64_t hidden) {
  expect_sizes(
      {{"sequences", sequences}, {"events", events}, {"input_size", input}, {"hidden_size", hidden}});
  return BackwardScratch(nullptr, kind, sequences, events, input, hidden).bytes;
}

// The inputs that forward and backward have alike.
template <typename Args>
inline void expect_sequence_inputs(const Args& args, const RecurrentKind& kind, DType dtype,
                                   int64_t sequences, int64_t events, int64_t hidden) {
  if (args.initial_state) expect(args.initial_state, "initial_state", dtype, {sequences, hidden});
  if (!kind.cell) expect_no_cell(args.initial_cell, "initial_cell");
  if (args.initial_cell) expect(args.initial_cell, "initial_cell", dtype, {sequences, hidden});
  if (args.recurrent_mask) expect(args.recurrent_mask, "recurrent_mask", dtype, {sequences, hidden});
  if (args.zoneout_mask) expect(args.zoneout_mask, "zoneout_mask", dtype, {events, hidden});
}

inline void run_forward(const RecurrentForwardArgs& args, const RecurrentKind& kind,
                        void (*kernel)(const RecurrentForwardArgs&)) {
  const DType dtype = float_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t events = args.values.shape[0];
  const int64_t sequences = expect_offsets(args.offsets, "offsets", events);
  expect_output(args.output, "output", dtype, {events, kAnySize});
  const int64_t hidden = args.output.shape[1];
  expect_packed_layer(args.weight_ih, args.weight_hh, args.bias, kind, args.values.shape[1], hidden);
  expect_sequence_inputs(args, kind, dtype, sequences, events, hidden);
  expect_output(args.final_state, "final_state", dtype, {sequences, hidden});
  if (kind.cell)
    expect_output(args.final_cell, "final_cell", dtype, {sequences, hidden});
  else
    expect_no_cell(args.final_cell, "final_cell");
  const int64_t panels = padded_units(hidden) / kUnitPanel;
  if (args.saved) expect_output(args.saved, "saved", dtype, {events, panels, kind.saved, kUnitPanel});
  const ScratchThreads threads(args.scratch,
                               [&] { return forward_scratch(kind, sequences, events, hidden); });
  kernel(args);
}

inline void run_step(const RecurrentStepArgs& args, const RecurrentKind& kind,
                     void (*kernel)(const RecurrentStepArgs&)) {
  const DType dtype = float_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t sequences = args.values.shape[0];
  expect(args.state, "state", dtype, {sequences, kAnySize});
  const int64_t hidden = args.state.shape[1];
  expect_packed_layer(args.weight_ih, args.weight_hh, args.bias, kind, args.values.shape[1], hidden);
  expect_output(args.new_state, "new_state", dtype, {sequences, hidden});
  if (kind.cell) {
    expect(args.cell, "cell", dtype, {sequences, hidden});
    expect_output(args.new_cell, "new_cell", dtype, {sequences, hidden});
  } else {
    expect_no_cell(args.cell, "cell");
    expect_no_cell(args.new_cell, "new_cell");
  }
  const ScratchThreads threads(args.scratch, [&] { return step_scratch(kind, hidden); });
  kernel(args);
}

inline void expect_gradients(const RecurrentBackwardArgs& args, const RecurrentKind& kind, DType dtype,
                             int64_t sequences) {
  const int64_t events = args.values.shape[0], input = args.values.shape[1], hidden = args.output.shape[1];
  const int64_t rows = kind.gates * hidden;
  expect_output(args.grad_values, "grad_values", dtype, {events, input});
  expect_output(args.grad_weight_ih, "grad_weight_ih", dtype, {rows, input});
  expect_output(args.grad_weight_hh, "grad_weight_hh", dtype, {rows, hidden});
  if (args.grad_bias_ih) expect_output(args.grad_bias_ih, "grad_bias_ih", dtype, {rows});
  if (args.grad_bias_hh) expect_output(args.grad_bias_hh, "grad_bias_hh", dtype, {rows});
  if (args.grad_initial_state)
    expect_output(args.grad_initial_state, "grad_initial_state", dtype, {sequences, hidden});
  if (!kind.cell) expect_no_cell(args.grad_initial_cell, "grad_initial_cell");
  if (args.grad_initial_cell)
    expect_output(args.grad_initial_cell, "grad_initial_cell", dtype, {sequences, hidden});
}

inline void run_backward(const RecurrentBackwardArgs& args, const RecurrentKind& kind,
                         void (*kernel)(const RecurrentBackwardArgs&)) {
  const DType dtype = float_type(args.values);
  expect(args.values, "values", dtype, {kAnySize, kAnySize});
  const int64_t events = args.values.shape[0], input = args.values.shape[1];
  const int64_t sequences = expect_offsets(args.offsets, "offsets", events);
  expect_packed(args.output, "output", dtype, {events, kAnySize});
  const int64_t hidden = args.output.shape[1];
  if (args.grad_output) expect(args.grad_output, "grad_output", dtype, {events, hidden});
  if (args.grad_final_state) expect(args.grad_final_state, "grad_final_state", dtype, {sequences, hidden});
  if (!kind.cell) expect_no_cell(args.grad_final_cell, "grad_final_cell");
  if (args.grad_final_cell) expect(args.grad_final_cell, "grad_final_cell", dtype, {sequences, hidden});
  expect(args.weight_ih, "weight_ih", dtype, {kind.gates * hidden, input});
  expect(args.weight_hh, "weight_hh", dtype, {kind.gates * hidden, hidden});
  expect_sequence_inputs(args, kind, dtype, sequences, events, hidden);
  const int64_t panels = padded_units(hidden) / kUnitPanel;
  expect_packed(args.saved, "saved", dtype, {events, panels, kind.saved, kUnitPanel});
  expect_gradients(args, kind, dtype, sequences);
  const ScratchThreads threads(args.scratch,
                               [&] { return backward_scratch(kind, sequences, events, input, hidden); });
  kernel(args);
}

}  // namespace chronorec
