// How the rows of a CSR matrix are cut into tasks: by the sizes alone, never by the number of threads.
// Included by the checks (for the scratch size) and by the kernels; everything has internal linkage.
#pragma once
#include "cpu/integers.h"

namespace chronorec {
namespace {

// A task is a stretch of this many positions, where row r stands at offsets[r] + r: an edge and the start of
// a row count alike. A row of more edges than this is divided into parts of this many.
constexpr int64_t kGraphPart = 2048;
constexpr int64_t kGraphAlone = 8;  // fewer tasks take less than waking a thread

inline int64_t graph_tasks(int64_t rows, int64_t edges) { return ceil_div(rows + edges, kGraphPart); }

// Parts of divided rows start at least kGraphPart positions apart within a row, and the second of a row that
// many behind the last of any row before it. So in each stretch starts at most one first part and one other:
// a slot for each.
inline int64_t graph_slots(int64_t rows, int64_t edges) { return 2 * graph_tasks(rows, edges); }

// The slot of part `part` of the row at `position`.
inline int64_t graph_slot(int64_t position, int64_t part) {
  return 2 * ((position + part * kGraphPart) / kGraphPart) + (part == 0 ? 0 : 1);
}

// Parts in which the edges of a matrix are counted for its transpose; its result does not depend on them.
inline int64_t graph_chunks(int64_t edges, int64_t threads) { return min64(threads, 1 + edges / 65536); }

// Floats of a slot that holds sums of `width` columns.
inline int64_t graph_pitch(int64_t width) { return round_up(width, 16); }

// Scratch of the attention kernels, in floats: which head a column belongs to, a row of `kept` per thread,
// and `kept` floats per slot. Backward keeps what its rows gather twice: four numbers per head.
struct GraphAttentionPlan {
  int64_t head_table, stats, kept, threads, slots;

  int64_t floats() const { return head_table + stats + (threads + slots) * kept; }
};

inline GraphAttentionPlan plan_graph_attention(int64_t rows, int64_t edges, int64_t heads, int64_t width,
                                               int64_t threads) {
  return {16 * (width + 1), 0, graph_pitch(heads * width) + 2 * graph_pitch(heads), threads,
          graph_slots(rows, edges)};
}

inline GraphAttentionPlan plan_graph_attention_backward(int64_t rows, int64_t neighbours, int64_t edges,
                                                        int64_t heads, int64_t width, int64_t threads) {
  GraphAttentionPlan plan = plan_graph_attention(max64(rows, neighbours), edges, heads, width, threads);
  plan.stats = 4 * graph_pitch(rows * heads);
  return plan;
}

}  // namespace
}  // namespace chronorec
