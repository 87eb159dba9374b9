// Contract of the recurrent part of gru, lstm and rnn on a GPU; formulas are in recurrent.h, the legend in
// ops.h. Products with no state in them belong to the caller: values by weight_ih before, and after backward
// the gradients of values, weights and biases from those of the gates. G blocks of a weight, A arrays saved.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// `order` holds the sequences by falling length, or is none where they stand so or are at most 16. No
// offsets: sequence b is event b.
struct RecurrenceArgs {
  TensorView inputs;            // float [N, G H]: values by weight_ih, without biases
  TensorView offsets;           // int64 [B + 1] or none
  TensorView order;             // int64 [B] or none
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView bias_ih, bias_hh;  // float, or of the type of weight_hh, [G H] or none
  TensorView initial_state;     // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView initial_cell;      // likewise
  TensorView recurrent_mask;    // float/bf16 [B, H], rows may be strided, or none
  TensorView zoneout_mask;      // float/bf16 [N, H], rows may be strided, or none
  bool reverse;
  TensorView output;       // float/bf16 [N, H] or none: not wanted
  TensorView final_state;  // float/bf16 [B, H]: the initial state where a sequence is empty
  TensorView final_cell;   // likewise
  TensorView saved;        // float/bf16 [N, ceil(H / 16), A, 16] or none: for backward
  TensorView scratch;
};

struct RecurrenceBackwardArgs {
  TensorView grad_output;       // float/bf16 [N, H], rows may be strided, or none: zeros
  TensorView grad_final_state;  // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView grad_final_cell;   // likewise
  TensorView offsets, order;    // as in RecurrenceArgs
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView initial_state, initial_cell, recurrent_mask, zoneout_mask;  // as in RecurrenceArgs
  bool reverse;
  TensorView output;              // float/bf16 [N, H] of forward
  TensorView saved;               // float/bf16 [N, ceil(H / 16), A, 16] of forward
  TensorView grad_inputs;         // float/bf16 [N, G H]: of what the gates take from the values
  TensorView grad_recurrent;      // float/bf16 [N, H]: of what gru's n takes from the state; others none
  TensorView seen;                // float/bf16 [N, H]: the state before each event, masked
  TensorView grad_initial_state;  // float/bf16 [B, H] or none: not wanted
  TensorView grad_initial_cell;   // likewise
  TensorView scratch;
};

}  // namespace chronorec
