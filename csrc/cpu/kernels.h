// The kernels that every level provides, and the table through which one level is chosen.
// A kernel file implements `void name(const Args&)` inside namespace chronorec::CHRONOREC_LEVEL; its
// arguments were checked by csrc/ops/<op>.cc.
#pragma once
#include "ops.h"

// One line per kernel: X(function, args struct).
#define CHRONOREC_KERNELS(X)                                \
  X(dense, DenseArgs)                                       \
  X(pack_panels, PackPanelsArgs)                            \
  X(embed, EmbedArgs)                                       \
  X(layer_norm, LayerNormArgs)                              \
  X(item_topk, ItemTopkArgs)                                \
  X(item_rank, ItemRankArgs)                                \
  X(item_score, ItemScoreArgs)                              \
  X(jagged_attention_forward, JaggedAttentionForwardArgs)   \
  X(jagged_attention_backward, JaggedAttentionBackwardArgs) \
  X(jagged_attention_step, JaggedAttentionStepArgs)         \
  X(item_cross_entropy, ItemCrossEntropyArgs)               \
  X(gru_pack, RecurrentPackArgs)                            \
  X(gru_forward, RecurrentForwardArgs)                      \
  X(gru_step, RecurrentStepArgs)                            \
  X(gru_backward, RecurrentBackwardArgs)                    \
  X(lstm_pack, RecurrentPackArgs)                           \
  X(lstm_forward, RecurrentForwardArgs)                     \
  X(lstm_step, RecurrentStepArgs)                           \
  X(lstm_backward, RecurrentBackwardArgs)                   \
  X(rnn_pack, RecurrentPackArgs)                            \
  X(rnn_tanh_forward, RecurrentForwardArgs)                 \
  X(rnn_relu_forward, RecurrentForwardArgs)                 \
  X(rnn_tanh_step, RecurrentStepArgs)                       \
  X(rnn_relu_step, RecurrentStepArgs)                       \
  X(rnn_tanh_backward, RecurrentBackwardArgs)               \
  X(rnn_relu_backward, RecurrentBackwardArgs)               \
  X(graph_transpose, GraphTransposeArgs)                    \
  X(graph_sum, GraphSumArgs)                                \
  X(graph_dot, GraphDotArgs)                                \
  X(graph_max, GraphMaxArgs)                                \
  X(graph_max_backward, GraphMaxBackwardArgs)               \
  X(pack_item_codes, PackItemCodesArgs)                     \
  X(item_sampled_loss, ItemSampledLossArgs)                 \
  X(graph_attention_forward, GraphAttentionForwardArgs)     \
  X(graph_attention_backward, GraphAttentionBackwardArgs)

namespace chronorec {

struct KernelTable {
#define CHRONOREC_ENTRY(name, Args) void (*name)(const Args&);
  CHRONOREC_KERNELS(CHRONOREC_ENTRY)
#undef CHRONOREC_ENTRY
};

const KernelTable& kernels();  // of the level selected for this process

#ifdef CHRONOREC_LEVEL
namespace CHRONOREC_LEVEL {
#define CHRONOREC_DECLARE(name, Args) void name(const Args&);
CHRONOREC_KERNELS(CHRONOREC_DECLARE)
#undef CHRONOREC_DECLARE
}  // namespace CHRONOREC_LEVEL
#endif

}  // namespace chronorec
