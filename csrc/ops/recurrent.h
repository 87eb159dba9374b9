// Contract of gru, lstm and rnn; the legend is in ops.h.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- gru, lstm, rnn: one recurrent layer over jagged sequences, in the formulas of torch.nn ---------------
//   gru   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h +
//   b_hn)),
//         h' = n + z (h - n); blocks of H rows in a weight: r, z, n
//   lstm  c' = f c + i g, h' = o tanh(c'); i, f, o by sigmoid, g by tanh; blocks i, f, g, o
//   rnn   h' = tanh(W_i x + b_i + W_h h + b_h), or max(0, .)
// P = round_up(H, 16). G blocks of a weight, S slots of a sum, A arrays saved: gru 3, 4, 4; lstm 4, 4, 5; rnn
// 1, 1, 1 (RecurrentKind in cpu/recurrent_tiles.h). The state is carried in fp32 whatever the dtype. What has
// to do with a cell is none but for lstm. recurrent_mask multiplies the state before weight_hh does, at every
// step of a sequence; zoneout_mask m blends each new state h' with the one before it, h: m h + (1 - m) h'
// (cells likewise). In reverse a sequence runs from its last event to its first.
//
// Packed weights are float, bf16 (pairs of depths) or u8 (codes of 8 bits, the nearest whole numbers of
// 127ths of the largest of a row, and the rows' scales); their layout belongs to the level. They have room
// for K(depth) depths: depth in float, round_up(depth, 32) in bf16, round_up(depth, 4) + 4 in u8. Values and
// states are multiplied with float weights as they are, with bf16 weights rounded to bf16, with u8 weights as
// numbers of 24 bits times one scale a row (NaN where the row is not finite); all sums are float. Backward
// multiplies gradients of sums, states and weights in the type of the values.
struct RecurrentPackArgs {
  TensorView weight_ih;         // float/bf16 [G H, I], rows may be strided
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView bias_ih, bias_hh;  // float/bf16 [G H] or none
  TensorView packed_ih;         // float/bf16/u8 [P / 16, G, K(I), 16]
  TensorView packed_hh;         // of the same type [P / 16, G, K(H), 16]
  TensorView packed_bias;       // float [P / 16, S, 16]
};
void gru_pack(const RecurrentPackArgs& args);
void lstm_pack(const RecurrentPackArgs& args);
void rnn_pack(const RecurrentPackArgs& args);

struct RecurrentForwardArgs {
  TensorView values;          // float/bf16 [N, I], rows may be strided
  TensorView offsets;         // int64 [B + 1]
  TensorView weight_ih;       // packed_ih of RecurrentPackArgs, float/bf16/u8 whatever the values are
  TensorView weight_hh;       // packed_hh
  TensorView bias;            // float, packed_bias
  TensorView initial_state;   // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView initial_cell;    // likewise
  TensorView recurrent_mask;  // float/bf16 [B, H], rows may be strided, or none
  TensorView zoneout_mask;    // float/bf16 [N, H], rows may be strided, or none
  bool reverse;
  TensorView output;       // float/bf16 [N, H]
  TensorView final_state;  // float/bf16 [B, H]: the initial state where a sequence is empty
  TensorView final_cell;   // likewise
  TensorView saved;        // float/bf16 [N, P / 16, A, 16] or none: for backward
  TensorView scratch;
};
void gru_forward(const RecurrentForwardArgs& args);
void lstm_forward(const RecurrentForwardArgs& args);
void rnn_tanh_forward(const RecurrentForwardArgs& args);
void rnn_relu_forward(const RecurrentForwardArgs& args);
int64_t gru_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);
int64_t lstm_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);
int64_t rnn_forward_scratch(int64_t sequences, int64_t events, int64_t hidden_size);

// One step of B independent sequences; bitwise what forward gives for a sequence of length one.
struct RecurrentStepArgs {
  TensorView values;                      // float/bf16 [B, I], rows may be strided
  TensorView state;                       // float/bf16 [B, H], rows may be strided
  TensorView cell;                        // likewise
  TensorView weight_ih, weight_hh, bias;  // as in RecurrentForwardArgs
  TensorView new_state;                   // float/bf16 [B, H]
  TensorView new_cell;                    // likewise
  TensorView scratch;
};
void gru_step(const RecurrentStepArgs& args);
void lstm_step(const RecurrentStepArgs& args);
void rnn_tanh_step(const RecurrentStepArgs& args);
void rnn_relu_step(const RecurrentStepArgs& args);
int64_t gru_step_scratch(int64_t hidden_size);
int64_t lstm_step_scratch(int64_t hidden_size);
int64_t rnn_step_scratch(int64_t hidden_size);

struct RecurrentBackwardArgs {
  TensorView grad_output;       // float/bf16 [N, H], rows may be strided, or none: zeros
  TensorView grad_final_state;  // float/bf16 [B, H], rows may be strided, or none: zeros
  TensorView grad_final_cell;   // likewise
  TensorView values;            // float/bf16 [N, I], rows may be strided
  TensorView offsets;           // int64 [B + 1]
  TensorView weight_ih;         // float/bf16 [G H, I], rows may be strided
  TensorView weight_hh;         // float/bf16 [G H, H], rows may be strided
  TensorView initial_state, initial_cell, recurrent_mask, zoneout_mask;  // as in RecurrentForwardArgs
  bool reverse;
  TensorView output;                      // float/bf16 [N, H] of forward
  TensorView saved;                       // float/bf16 [N, P / 16, A, 16] of forward
  TensorView grad_values;                 // float/bf16 [N, I]
  TensorView grad_weight_ih;              // float/bf16 [G H, I]
  TensorView grad_weight_hh;              // float/bf16 [G H, H]
  TensorView grad_bias_ih, grad_bias_hh;  // float/bf16 [G H] or none: not wanted
  TensorView grad_initial_state;          // float/bf16 [B, H] or none: not wanted
  TensorView grad_initial_cell;           // likewise
  TensorView scratch;
};
void gru_backward(const RecurrentBackwardArgs& args);
void lstm_backward(const RecurrentBackwardArgs& args);
void rnn_tanh_backward(const RecurrentBackwardArgs& args);
void rnn_relu_backward(const RecurrentBackwardArgs& args);
int64_t gru_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);
int64_t lstm_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);
int64_t rnn_backward_scratch(int64_t sequences, int64_t events, int64_t input_size, int64_t hidden_size);

}  // namespace chronorec
