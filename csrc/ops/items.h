// Contract of item_topk, item_rank and item_score; the legend is in ops.h.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// ---- item_topk, item_rank, item_score: score(b, v) = queries[b] . table[v] + bias[v] + adjustment(b, v)
// The product adds over d = 0, 1, ... in the order of gemm.h, then comes the bias, then the adjustment,
// so all three functions and every batch size agree bitwise. Query b adjusts the items
// adjust_items[adjust_offsets[b] .. adjust_offsets[b + 1]], strictly ascending, by adjust_values, or takes
// them out where there are no values; items whose byte of `allow` is 0 are taken out too. An item is left if
// its score > -inf: a score of -inf or NaN, wherever it came from, means taken out. The adjust_* arrays are
// all none, or offsets and items are given (and values if wanted). D may be 0.
struct ItemTopkArgs {
  TensorView queries;         // float [B, D], rows may be strided
  TensorView table;           // float, packed by pack_panels from [V, D]: [ceil(V / 16), D, 16]
  int64_t num_items;          // V, below 2^31
  TensorView bias;            // float [V] or none
  TensorView adjust_offsets;  // int64 [B + 1] or none
  TensorView adjust_items;    // int32 [N] or none
  TensorView adjust_values;   // float [N] or none
  TensorView allow;           // uint8 [V], or [B, V] whose rows may be strided, or none
  TensorView codes;           // the table as pack_item_codes made it on this machine, or none
  TensorView code_facts;      // with codes: only rows whose approximate score may be among the best are read
  int64_t k;                  // K >= 1, may exceed V
  TensorView top_scores;      // float [B, K], descending, ties by ascending item; -inf where no item is left
  TensorView top_items;       // int32 [B, K]; -1 where no item is left
  TensorView scratch;         // item_topk_scratch(B, V, D, K, code_bits(codes))
};
void item_topk(const ItemTopkArgs& args);
int64_t item_topk_scratch(int64_t queries, int64_t num_items, int64_t depth, int64_t k, int64_t code_bits);
// 0 without codes.
CHRONOREC_INLINE int64_t code_bits(const TensorView& codes) { return codes ? 8 * size_of(codes.dtype) : 0; }

// A table in short codes with what bounds their error, for item_topk: the answer is the same, bit by bit, and
// less memory is read for it. The order of the codes belongs to the instruction-set level.
struct PackItemCodesArgs {
  TensorView rows;  // float/bf16 [V, D], rows may be strided; D at most kMostCodedDepth
  TensorView
      codes;  // uint8 [ceil(V / 16), ceil(D / 4), 64] for 8 bits, bf16 [ceil(V / 16), ceil(D / 2), 32] for 16
  TensorView facts;  // bf16 [ceil(V / 16), 3, 16]
};
void pack_item_codes(const PackItemCodesArgs& args);
constexpr int64_t kMostCodedDepth = 1 << 16;  // sums of products of codes fit into 32 bits

// For each target of a query: how many other items that are left score more, and how many exactly as much.
// A target that was itself taken out is a miss at every cutoff: greater = num_items, equal = 0.
struct ItemRankArgs {
  TensorView queries;  // as in ItemTopkArgs, down to allow
  TensorView table;
  int64_t num_items;
  TensorView bias, adjust_offsets, adjust_items, adjust_values, allow;
  TensorView targets;         // int32/int64 [M], in [0, V)
  TensorView target_offsets;  // int64 [B + 1], or none: M = B, one target per query
  TensorView greater;         // int64 [M]
  TensorView equal;           // int64 [M]
  TensorView scratch;
};
void item_rank(const ItemRankArgs& args);
int64_t item_rank_scratch(int64_t targets);

// The scores of listed items; -inf where the adjustment or the mask takes an item out.
struct ItemScoreArgs {
  TensorView queries;  // as in ItemTopkArgs, down to allow
  TensorView table;    // or its rows themselves: float/bf16 [V, D], rows may be strided
  int64_t num_items;
  TensorView bias, adjust_offsets, adjust_items, adjust_values, allow;
  TensorView list_items;    // int32/int64 [M], in [0, V)
  TensorView list_offsets;  // int64 [B + 1], or none: M = B, one item per query
  TensorView scores;        // float [M]
};
void item_score(const ItemScoreArgs& args);

}  // namespace chronorec
