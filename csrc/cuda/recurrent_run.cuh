// Checks the arguments of a recurrence, and runs it for their type; a .cu file adds the formulas of its cell.
#pragma once
#include "core/check.h"
#include "cuda/on_stream.h"
#include "cuda/recurrent_backward.cuh"
#include "cuda/recurrent_forward.cuh"
#include "cuda/recurrent_sweep.cuh"

namespace chronorec::cuda {
namespace {

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + expf(-x)); }

// Depths that stay in registers, as many tiles of 16 as leave room to work in: 4 registers for each gate and
// part.
template <typename T>
constexpr int held_tiles(int in_bf16, int in_float) {
  return kPartsOf<T> == 1 ? in_bf16 : in_float;
}

inline DType float_type(const TensorView& view) {
  return view.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

inline void expect_bias(const TensorView& bias, const char* name, DType weight, int64_t count) {
  if (bias) expect_packed(bias, name, bias.dtype == weight ? weight : DType::f32, {count}, Device::cuda);
}

inline void expect_units(const TensorView& view, const char* name, DType dtype, int64_t rows, int64_t hidden,
                         bool allowed = true) {
  expect_that(allowed || !view, name, "none", "an array");
  if (view) expect(view, name, dtype, {rows, hidden}, Device::cuda);
}

// Writable; needed where `needed`.
inline void expect_result(const TensorView& view, const char* name, DType dtype, int64_t rows, int64_t width,
                          bool allowed, bool needed) {
  expect_that(allowed || !view, name, "none", "an array");
  if (view || needed) expect_output(view, name, dtype, {rows, width}, Device::cuda);
}

inline void expect_saved(const TensorView& saved, DType dtype, int64_t events, int64_t hidden,
                         int64_t arrays) {
  if (!saved) return;
  expect_output(saved, "saved", dtype, {events, (hidden + kTile - 1) / kTile, arrays, kTile}, Device::cuda);
  expect_that(reinterpret_cast<uintptr_t>(saved.data) % 16 == 0, "saved", "memory aligned to 16 bytes",
              "other");
}

// What forward and backward take alike; fills that part of the pass.
template <typename Pass, typename Args>
void take_layer(Pass& pass, const Args& args, DType dtype, int64_t sequences, int64_t events) {
  constexpr bool kCell = Pass::Cell::kHasCell;
  const int64_t hidden = args.weight_hh.shape[1];
  if (args.offsets) expect_packed(args.offsets, "offsets", DType::i64, {sequences + 1}, Device::cuda);
  if (args.order) expect_packed(args.order, "order", DType::i64, {sequences}, Device::cuda);
  expect_units(args.initial_state, "initial_state", dtype, sequences, hidden);
  expect_units(args.initial_cell, "initial_cell", dtype, sequences, hidden, kCell);
  expect_units(args.recurrent_mask, "recurrent_mask", dtype, sequences, hidden);
  expect_units(args.zoneout_mask, "zoneout_mask", dtype, events, hidden);
  expect_saved(args.saved, dtype, events, hidden, Pass::kSaved);
  expect_that(sequences < INT32_MAX && events < INT32_MAX, "offsets", "fewer than 2^31 - 1 events", events);
  using T = typename Pass::T;
  pass.sequences = {args.offsets.template as<const int64_t>(), args.order.template as<const int64_t>(),
                    sequences, args.reverse};
  pass.hidden = static_cast<int>(hidden);
  pass.tiles = static_cast<int>((hidden + kTile - 1) / kTile);
  pass.initial_state = units_of<const T>(args.initial_state);
  pass.initial_cell = units_of<const T>(args.initial_cell);
  pass.recurrent_mask = units_of<const T>(args.recurrent_mask);
  pass.zoneout_mask = units_of<const T>(args.zoneout_mask);
  pass.output = units_of<typename Pass::Output>(args.output);
  pass.saved = args.saved.template as<typename Pass::Saved>();
}

inline int64_t hidden_of(const TensorView& weight, int64_t gates) {
  const DType dtype = float_type(weight);
  expect(weight, "weight_hh", dtype, {kAnySize, kAnySize}, Device::cuda);
  expect(weight, "weight_hh", dtype, {gates * weight.shape[1], weight.shape[1]}, Device::cuda);
  expect_that(weight.shape[1] >= 1, "weight_hh", "a hidden size of at least 1", weight.shape[1]);
  return weight.shape[1];
}

template <typename Cell, typename T>
void forward_in(const RecurrenceArgs& args, Stream stream) {
  using Pass = Forward<Cell, T>;
  const DType dtype = float_type(args.weight_hh);
  const int64_t hidden = hidden_of(args.weight_hh, Pass::kGates), height = Pass::kGates * hidden;
  expect(args.inputs, "inputs", DType::f32, {kAnySize, height}, Device::cuda);
  expect(args.final_state, "final_state", dtype, {kAnySize, hidden}, Device::cuda);
  const int64_t events = args.inputs.shape[0], sequences = args.final_state.shape[0];
  if (!args.offsets) expect(args.inputs, "inputs", DType::f32, {sequences, height}, Device::cuda);
  expect_bias(args.bias_ih, "bias_ih", dtype, height);
  expect_bias(args.bias_hh, "bias_hh", dtype, height);
  expect_result(args.output, "output", dtype, events, hidden, true, false);
  expect_result(args.final_state, "final_state", dtype, sequences, hidden, true, true);
  expect_result(args.final_cell, "final_cell", dtype, sequences, hidden, Cell::kHasCell, Cell::kHasCell);
  Pass pass{};
  take_layer(pass, args, dtype, sequences, events);
  pass.bias_ih = {args.bias_ih.data, args.bias_ih.dtype == DType::bf16};
  pass.bias_hh = {args.bias_hh.data, args.bias_hh.dtype == DType::bf16};
  pass.inputs = units_of<const float>(args.inputs);
  pass.inputs.wide = pass.inputs.wide && hidden % 4 == 0;
  pass.final_state = units_of<T>(args.final_state);
  pass.final_cell = units_of<T>(args.final_cell);
  run_sweep(pass, args.weight_hh, args.scratch, static_cast<cudaStream_t>(stream));
}

template <typename Cell, typename T>
void backward_in(const RecurrenceBackwardArgs& args, Stream stream) {
  using Pass = Backward<Cell, T>;
  const DType dtype = float_type(args.weight_hh);
  const int64_t hidden = hidden_of(args.weight_hh, Pass::kGates), height = Pass::kGates * hidden;
  expect_packed(args.output, "output", dtype, {kAnySize, hidden}, Device::cuda);
  expect_packed(args.offsets, "offsets", DType::i64, {kAnySize}, Device::cuda);
  expect_that(args.offsets.shape[0] >= 1, "offsets", "at least one offset", "none");
  const int64_t events = args.output.shape[0], sequences = args.offsets.shape[0] - 1;
  expect_units(args.grad_output, "grad_output", dtype, events, hidden);
  expect_units(args.grad_final_state, "grad_final_state", dtype, sequences, hidden);
  expect_units(args.grad_final_cell, "grad_final_cell", dtype, sequences, hidden, Cell::kHasCell);
  constexpr bool kRecurrent = Cell::kHasRecurrentGradient;
  expect_result(args.grad_inputs, "grad_inputs", dtype, events, height, true, true);
  expect_result(args.grad_recurrent, "grad_recurrent", dtype, events, hidden, kRecurrent, kRecurrent);
  expect_result(args.seen, "seen", dtype, events, hidden, true, true);
  expect_result(args.grad_initial_state, "grad_initial_state", dtype, sequences, hidden, true, false);
  expect_result(args.grad_initial_cell, "grad_initial_cell", dtype, sequences, hidden, Cell::kHasCell, false);
  expect_that(bool{args.saved}, "saved", "an array", "none");
  Pass pass{};
  take_layer(pass, args, dtype, sequences, events);
  pass.grad_output = units_of<const T>(args.grad_output);
  pass.grad_final_state = units_of<const T>(args.grad_final_state);
  pass.grad_final_cell = units_of<const T>(args.grad_final_cell);
  pass.grad_inputs = units_of<T>(args.grad_inputs);
  pass.grad_recurrent = units_of<T>(args.grad_recurrent);
  pass.grad_inputs.wide = pass.grad_inputs.wide && hidden % 4 == 0;
  pass.seen = units_of<T>(args.seen);
  pass.grad_initial_state = units_of<T>(args.grad_initial_state);
  pass.grad_initial_cell = units_of<T>(args.grad_initial_cell);
  run_sweep(pass, args.weight_hh, args.scratch, static_cast<cudaStream_t>(stream));
}

template <typename Cell>
void run_forward(const RecurrenceArgs& args, Stream stream) {
  if (args.weight_hh.dtype == DType::bf16)
    forward_in<Cell, bf16>(args, stream);
  else
    forward_in<Cell, float>(args, stream);
}

template <typename Cell>
void run_backward(const RecurrenceBackwardArgs& args, Stream stream) {
  if (args.weight_hh.dtype == DType::bf16)
    backward_in<Cell, bf16>(args, stream);
  else
    backward_in<Cell, float>(args, stream);
}

// `element`: bytes of one, 4 or 2.
template <typename Cell>
int64_t forward_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return element == 2 ? scratch_bytes<Forward<Cell, bf16>>(sequences, hidden)
                      : scratch_bytes<Forward<Cell, float>>(sequences, hidden);
}

template <typename Cell>
int64_t backward_scratch(int64_t sequences, int64_t hidden, int64_t element) {
  return element == 2 ? scratch_bytes<Backward<Cell, bf16>>(sequences, hidden)
                      : scratch_bytes<Backward<Cell, float>>(sequences, hidden);
}

}  // namespace
}  // namespace chronorec::cuda
