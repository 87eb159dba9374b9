// Contract of item_cross_entropy and item_sampled_loss; the legend is in ops.h.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- item_cross_entropy: softmax loss over items, without storing the logits ---------------------------
// The mean over the rows that have a target, weighted. Logit of item v for row n: (hidden[n] . table[v] +
// bias[v]) / temperature; in sampled mode less log_q. Row n has the targets target_offsets[n] ..
// target_offsets[n + 1]; a row of weight 0 is as if it had none. Gradients are those of the loss; ask for
// them by passing them.
struct ItemCrossEntropyArgs {
  TensorView hidden;          // float/bf16 [N, D], rows may be strided
  TensorView table;           // float/bf16 [V, D], rows may be strided
  TensorView targets;         // int64 [M]
  TensorView target_offsets;  // int64 [N + 1], or none: M = N, one target per row
  TensorView target_order;    // int64 [M]: positions of targets, ascending by item; none without gradients of
                              // table and bias
  TensorView bias;            // float/bf16 [V] or none
  TensorView negatives;       // int64 [K], ascending, duplicates allowed; or none: all items compete
  TensorView negative_log_q;  // float [K] or none
  TensorView target_log_q;    // float [M] or none
  TensorView weights;         // float [N], finite, not negative, or none: all 1
  double temperature;         // above 0
  double label_smoothing;     // 0 to 1: the labels' part that is spread over all items; 0 in sampled mode
  TensorView loss;            // float [1]
  TensorView hidden_grad;     // float/bf16 [N, D] or none
  TensorView table_grad;      // float/bf16 [V, D] or none
  TensorView bias_grad;       // float/bf16 [V] or none
  TensorView scratch;
};
void item_cross_entropy(const ItemCrossEntropyArgs& args);
// cols: V, or K where `sampled`; `rounded`: the inputs are bf16; `smoothed`: label_smoothing is not 0; the
// other flags say which gradients are wanted.
int64_t item_cross_entropy_scratch(int64_t rows, int64_t cols, int64_t targets, int64_t depth, bool sampled,
                                   bool rounded, bool hidden_grad, bool table_grad, bool bias_grad,
                                   bool smoothed);

// ---- item_sampled_loss: losses over negatives of each row's own ----------------------------------------
// The mean over the rows that have a target, weighted. Logits, targets, rows that count and gradients as in
// item_cross_entropy. A negative that is one of the row's targets does not compete. With s the logit of a
// target and x those of the K' negatives left, the loss of a row is the mean over its targets of
//   softmax: log(1 + exp(logsumexp(x) - s)), both less log_q
//   gbce:    (-exponent log sigmoid(s) - sum log(1 - sigmoid(x))) / (K' + 1)
//   bpr:     mean of -log sigmoid(s - x), 0 where none is left
enum class SampledLossKind : int64_t { softmax = 0, gbce = 1, bpr = 2 };

struct ItemSampledLossArgs {
  TensorView hidden;          // float/bf16 [N, D], rows may be strided; N below 2^31
  TensorView table;           // float/bf16 [V, D], rows may be strided; V below 2^31
  TensorView targets;         // int64 [M]
  TensorView target_offsets;  // int64 [N + 1], or none: M = N, one target per row
  TensorView bias;            // float/bf16 [V] or none
  TensorView negatives;       // int64 [N, K], rows may be strided (stride 0: all rows share them)
  TensorView negative_log_q;  // float [N, K], likewise, or none; softmax alone
  TensorView target_log_q;    // float [M] or none; softmax alone
  TensorView weights;         // float [N], finite, not negative, or none: all 1
  double temperature;         // above 0
  int64_t kind;               // SampledLossKind
  double exponent;            // of gbce
  TensorView loss;            // float [1]
  TensorView hidden_grad;     // float/bf16 [N, D] or none
  TensorView table_grad;      // float/bf16 [V, D] or none
  TensorView bias_grad;       // float/bf16 [V] or none
  TensorView scratch;         // item_sampled_loss_scratch(N, V, K, M, D, table_grad or bias_grad, shared)
};
void item_sampled_loss(const ItemSampledLossArgs& args);
// shared: N > 1, the stride of negatives' rows is 0, and the loss is not softmax.
int64_t item_sampled_loss_scratch(int64_t rows, int64_t items, int64_t negatives, int64_t targets,
                                  int64_t depth, bool scatters, bool shared);

}  // namespace chronorec
