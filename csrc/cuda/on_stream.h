// The functions of csrc/ops.h on a GPU: the same args, their arrays in the memory of the current device, and
// a stream (cudaStream_t). They return when the work is on the stream, allocate nothing, and cannot look at
// what the arrays hold: shapes and dtypes are checked, ids and offsets are the caller's word. Scratch has a
// size of its own here.
#pragma once
#include "ops.h"

// One line per function: X(function, args struct); and one per size of scratch, of `int64_t... sizes`.
// clang-format off
#define CHRONOREC_ON_STREAM(X) \
  X(graph_sum, GraphSumArgs) \
  X(graph_dot, GraphDotArgs) \
  X(graph_max, GraphMaxArgs) \
  X(graph_max_backward, GraphMaxBackwardArgs) \
  X(graph_attention_forward, GraphAttentionForwardArgs) \
  X(graph_attention_backward, GraphAttentionBackwardArgs) \
  X(gru_recurrence, RecurrenceArgs) \
  X(gru_recurrence_backward, RecurrenceBackwardArgs) \
  X(lstm_recurrence, RecurrenceArgs) \
  X(lstm_recurrence_backward, RecurrenceBackwardArgs) \
  X(rnn_tanh_recurrence, RecurrenceArgs) \
  X(rnn_tanh_recurrence_backward, RecurrenceBackwardArgs) \
  X(rnn_relu_recurrence, RecurrenceArgs) \
  X(rnn_relu_recurrence_backward, RecurrenceBackwardArgs)
#define CHRONOREC_RECURRENCE_SIZES int64_t sequences, int64_t hidden_size, int64_t element_bytes
#define CHRONOREC_ON_STREAM_SCRATCH(X) \
  X(graph_scratch, int64_t rows, int64_t edges, int64_t width) \
  X(graph_attention_scratch, int64_t rows, int64_t edges, int64_t heads, int64_t width) \
  X(graph_attention_backward_scratch, int64_t rows, int64_t neighbours, int64_t edges, int64_t heads, \
    int64_t width) \
  X(gru_recurrence_scratch, CHRONOREC_RECURRENCE_SIZES) \
  X(gru_recurrence_backward_scratch, CHRONOREC_RECURRENCE_SIZES) \
  X(lstm_recurrence_scratch, CHRONOREC_RECURRENCE_SIZES) \
  X(lstm_recurrence_backward_scratch, CHRONOREC_RECURRENCE_SIZES) \
  X(rnn_recurrence_scratch, CHRONOREC_RECURRENCE_SIZES) \
  X(rnn_recurrence_backward_scratch, CHRONOREC_RECURRENCE_SIZES)
// clang-format on

namespace chronorec::cuda {

using Stream = void*;

#define CHRONOREC_ENTRY(name, Args) void name(const Args& args, Stream stream);
CHRONOREC_ON_STREAM(CHRONOREC_ENTRY)
#undef CHRONOREC_ENTRY
#define CHRONOREC_ENTRY(name, ...) int64_t name(__VA_ARGS__);
CHRONOREC_ON_STREAM_SCRATCH(CHRONOREC_ENTRY)
#undef CHRONOREC_ENTRY

}  // namespace chronorec::cuda
