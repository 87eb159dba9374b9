// What the recurrent kernels share: how sequences become tiles, and the layout of gates and of scratch.
// Freestanding and the same at every level, since the scratch size is also asked for outside the kernels.
#pragma once
#include "core/carve.h"
#include "core/parallel.h"
#include "cpu/integers.h"
#include "ops.h"

namespace chronorec {
namespace {

// Units stand in panels of 16. A panel of sums or of gradients has `slots` times 16 columns: first those that
// only the input feeds, then those that both feed, then those that only the state feeds. So the panels of a
// packed weight, kGates per panel of units, line up with the slots.
struct RecurrentKind {
  int64_t gates;  // blocks of H rows in a weight
  int64_t slots;
  int64_t saved;  // arrays of P saved per event for backward
  bool cell;      // has a second state
};
constexpr RecurrentKind kGru = {3, 4, 4, false};  // slots n, r, z, W_hn h + b_hn; saved likewise
constexpr RecurrentKind kLstm = {4, 4, 5, true};  // slots i, f, g, o; saved likewise, and the cell
constexpr RecurrentKind kRnn = {1, 1, 1, false};  // the new state

constexpr int64_t kUnitPanel = 16;
inline int64_t padded_units(int64_t hidden_size) { return round_up(hidden_size, kUnitPanel); }
// Units as depths of a product of bf16: whole tiles of the matrix unit.
inline int64_t pair_units(int64_t units) { return round_up(units, 32); }
// Rows a cache line further than a multiple of the cache's own stride.
inline int64_t row_stride(int64_t columns) { return columns + 16; }

// A tile is a group of sequences whose whole time loop one task runs, without any barrier between steps.
// Small batches are cut finer, so that there is more than one task; results do not depend on the cut.
constexpr int64_t kMaxTileRows = 16;
inline int64_t tile_rows(int64_t sequences) {
  if (sequences >= 4 * kMaxTileRows) return kMaxTileRows;
  if (sequences >= kMaxTileRows) return kMaxTileRows / 2;
  return sequences > 2 ? (sequences + 1) / 2 : 1;
}
inline int64_t count_tiles(int64_t sequences) { return ceil_div(sequences, tile_rows(sequences)); }

// A long sequence is one task: it listens for Ctrl-C on its way.
constexpr int64_t kStepsPerPoll = 1024;

// Steps whose input projection is computed ahead, so that it fills blocks of registers but stays in the
// cache.
constexpr int64_t chunk_steps(const RecurrentKind& kind) { return kind.gates == 4 ? 12 : 8; }

// Depth of the panels that stay in the nearest cache while all rows pass; bounds the rounding error too.
constexpr int64_t kDepthSlice = 128;

// Packed weights are fp32, bf16 or codes of 8 bits. Depths that a panel of 16 columns has room for: pairs of
// bf16 up to a tile of the matrix unit, codes with the 16 scales of the columns behind them.
constexpr int64_t kScaleDepths = 16 * sizeof(float) / kUnitPanel;
inline int64_t panel_depth(DType packed, int64_t depth) {
  if (packed == DType::bf16) return round_up(depth, 32);
  return packed == DType::u8 ? round_up(depth, 4) + kScaleDepths : depth;
}
// Bytes of a row of values or states, ready to be multiplied with weights of any of these types.
inline int64_t left_row_bytes(int64_t depth) { return 6 * round_up(depth, 32) + 64; }

// Events whose outer products are summed in one go: bounds the rounding error, stays in the cache.
constexpr int64_t kSlice = 128;
// Columns of gate gradients that a product with them takes at once.
constexpr int64_t kBlock = 4 * kUnitPanel;

// Tiles whose weight gradients are summed in one array; the arrays are added up in order at the end. Their
// number depends on the shape alone, and their room is bounded.
inline int64_t count_groups(int64_t tiles, int64_t floats_each) {
  const int64_t room = (int64_t{1} << 24) / (floats_each + 1);
  return max64(1, min64(tiles, max64(4, min64(room, 32))));
}

struct ForwardScratch {
  int64_t* order;   // [B] sequences by falling length
  int64_t* starts;  // [N + 2] work space of the sort
  float* threads;   // per thread, see ForwardRoom
  int64_t per_thread;
  int64_t bytes;

  ForwardScratch(void* base, const RecurrentKind& kind, int64_t sequences, int64_t events, int64_t hidden,
                 int64_t chunk) {
    const int64_t padded = padded_units(hidden);
    Carver carver(base);
    order = carver.take<int64_t>(sequences);
    starts = carver.take<int64_t>(events + 2);
    const int64_t left = max64(chunk * left_row_bytes(kDepthSlice), left_row_bytes(hidden)) / 4;
    per_thread = kMaxTileRows * (chunk * row_stride(kind.slots * padded) + 2 * row_stride(padded) + left);
    threads = carver.take<float>(per_thread * num_threads());
    bytes = carver.used();
  }
};

// A thread's part of ForwardScratch. Rows of sums and of states are row_stride apart.
struct ForwardRoom {
  float* sums;   // [chunk * kMaxTileRows, P / 16, slots, 16]: of the input, then of both
  float* state;  // [kMaxTileRows, P]
  float* cell;   // [kMaxTileRows, P]
  char* left;    // rows that are multiplied: of a chunk's values, or of a step's states

  ForwardRoom(float* base, const RecurrentKind& kind, int64_t padded, int64_t chunk) {
    sums = base;
    state = sums + chunk * kMaxTileRows * row_stride(kind.slots * padded);
    cell = state + kMaxTileRows * row_stride(padded);
    left = reinterpret_cast<char*>(cell + kMaxTileRows * row_stride(padded));
  }
};

// What a thread gathers of a slice of events. In fp32:
struct FloatSliceRoom {
  float* gates;      // [kMaxTileRows, slots, P]: gradients of one step's sums, rows row_stride apart
  float* values;     // [kMaxTileRows, I]: gradient of one step's values
  float* gradients;  // [blocks, kSlice, kBlock]: gradients of the sums of the slice's events
  float* states;     // [kSlice, P]: what weight_hh was multiplied with
  float* inputs;     // [kSlice, I]: what weight_ih was multiplied with
  int64_t bytes;

  FloatSliceRoom(void* base, const RecurrentKind& kind, int64_t input, int64_t hidden) {
    const int64_t padded = padded_units(hidden), wide = padded_units(input);
    Carver carver(base);
    gates = carver.take<float>(kMaxTileRows, row_stride(kind.slots * padded));
    values = carver.take<float>(kMaxTileRows, wide);
    gradients = carver.take<float>(kSlice, round_up(kind.slots * padded, kBlock));
    states = carver.take<float>(kSlice, row_stride(padded));
    inputs = carver.take<float>(kSlice, row_stride(wide));
    bytes = carver.used();
  }
};

// In bf16, with Q = pair_units(H) and J = pair_units(I). The rows of a step are multiplied as a whole tile.
struct PairSliceRoom {
  char* gradients;      // [kSlice + kMaxTileRows, slots, Q], rows row_stride apart
  char* states;         // [kSlice, Q]
  char* inputs;         // [kSlice, J]
  char* turned_states;  // [kSlice / 32, Q, 32]: the transpose
  char* turned_inputs;  // [kSlice / 32, J, 32]
  char* panels;         // [kBlock / 16, kSlice / 2, 16, 2]: a block of the gradients, ready to be multiplied
  int64_t bytes;

  PairSliceRoom(void* base, const RecurrentKind& kind, int64_t input, int64_t hidden) {
    const int64_t units = pair_units(hidden), wide = pair_units(input);
    Carver carver(base);
    gradients = carver.take<char>(kSlice + kMaxTileRows, row_stride(kind.slots * units), 2);
    states = carver.take<char>(kSlice, units, 2);
    inputs = carver.take<char>(kSlice, wide, 2);
    turned_states = carver.take<char>(kSlice, units, 2);
    turned_inputs = carver.take<char>(kSlice, wide, 2);
    panels = carver.take<char>(kSlice, kBlock, 2);
    bytes = carver.used();
  }
};

// A thread's part of BackwardScratch. Rows are row_stride apart.
struct BackwardRoom {
  float* direct;   // [kMaxTileRows, P]: gradient of the state as far as it does not pass through weight_hh
  float* through;  // [kMaxTileRows, P]: as far as it does, before the recurrent mask
  float* cell;     // [kMaxTileRows, P]: gradient of the cell
  char* slice;     // a FloatSliceRoom or a PairSliceRoom
  int64_t bytes;

  BackwardRoom(void* base, const RecurrentKind& kind, int64_t input, int64_t hidden) {
    const int64_t stride = row_stride(padded_units(hidden));
    Carver carver(base);
    direct = carver.take<float>(kMaxTileRows, stride);
    through = carver.take<float>(kMaxTileRows, stride);
    cell = carver.take<float>(kMaxTileRows, stride);
    slice = carver.take<char>(max64(FloatSliceRoom(nullptr, kind, input, hidden).bytes,
                                    PairSliceRoom(nullptr, kind, input, hidden).bytes));
    bytes = carver.used();
  }
};

struct BackwardScratch {
  int64_t* order;   // [B] sequences by falling length
  int64_t* starts;  // [N + 2] work space of the sort
  // Packed for gradients of gates times a weight: [P / 16, gates * P, 16] and [ceil(I / 16), gates * P, 16];
  // in bf16 with Q in place of the second P, which takes no more room.
  float *weight_hh, *weight_ih;
  float* groups;  // per group: gradients of weight_ih, of weight_hh and of the biases, see the sizes
  char* threads;  // per thread, see BackwardRoom
  int64_t num_groups, blocks, ih_size, hh_size, bias_size, per_group, per_thread;
  int64_t bytes;

  BackwardScratch(void* base, const RecurrentKind& kind, int64_t sequences, int64_t events, int64_t input,
                  int64_t hidden) {
    const int64_t padded = padded_units(hidden);
    Carver carver(base);
    order = carver.take<int64_t>(sequences);
    starts = carver.take<int64_t>(events + 2);
    weight_hh = carver.take<float>(padded * kind.gates * padded);
    weight_ih = carver.take<float>(padded_units(input) * kind.gates * padded);
    blocks = ceil_div(kind.slots * padded, kBlock);
    const int64_t wide = kind.gates < 3 ? kBlock : kind.gates * kUnitPanel;
    ih_size = blocks * input * wide;   // [blocks, I, wide]: weight_ih's gradient, transposed
    hh_size = blocks * hidden * wide;  // [blocks, H, wide]
    bias_size = blocks * kBlock;       // [blocks, kBlock]: sums of the gradients
    per_group = ih_size + hh_size + bias_size;
    num_groups = count_groups(count_tiles(sequences), per_group);
    groups = carver.take<float>(per_group * num_groups);
    per_thread = BackwardRoom(nullptr, kind, input, hidden).bytes;
    threads = carver.take<char>(per_thread, num_threads());
    bytes = carver.used();
  }
};

// Stable counting sort of the sequences by falling length, so that the active rows of a tile are a prefix.
inline void sort_by_length(const int64_t* offsets, int64_t sequences, int64_t* starts, int64_t* order) {
  int64_t longest = 0;
  for (int64_t b = 0; b < sequences; ++b)
    if (offsets[b + 1] - offsets[b] > longest) longest = offsets[b + 1] - offsets[b];
  for (int64_t i = 0; i <= longest + 1; ++i) starts[i] = 0;
  for (int64_t b = 0; b < sequences; ++b) ++starts[longest - (offsets[b + 1] - offsets[b]) + 1];
  for (int64_t i = 1; i <= longest; ++i) starts[i] += starts[i - 1];
  for (int64_t b = 0; b < sequences; ++b) order[starts[longest - (offsets[b + 1] - offsets[b])]++] = b;
}

struct SequenceTile {
  int64_t rows;
  int64_t step;  // from an event to the next one: 1, or -1 in reverse
  int64_t sequence[kMaxTileRows];
  int64_t first[kMaxTileRows];        // event of its first step
  int64_t length[kMaxTileRows] = {};  // falling

  SequenceTile(const int64_t* offsets, const int64_t* order, int64_t sequences, int64_t tile, bool reverse) {
    const int64_t size = tile_rows(sequences), begin = tile * size;
    rows = sequences - begin < size ? sequences - begin : size;
    step = reverse ? -1 : 1;
    for (int64_t i = 0; i < rows; ++i) {
      sequence[i] = order[begin + i];
      length[i] = offsets[sequence[i] + 1] - offsets[sequence[i]];
      first[i] = reverse ? offsets[sequence[i] + 1] - 1 : offsets[sequence[i]];
    }
  }
  int64_t event(int64_t row, int64_t t) const { return first[row] + t * step; }
  // How many rows have an event at this step.
  int64_t active(int64_t t) const {
    int64_t count = rows;
    while (count > 0 && length[count - 1] <= t) --count;
    return count;
  }
};

}  // namespace
}  // namespace chronorec
