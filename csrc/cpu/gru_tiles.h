// What gru_forward, gru_step and gru_backward share: how sequences become tiles, and the layout of scratch.
// Freestanding and the same at every level, since the scratch size is also asked for outside the kernels.
#pragma once
#include <stdint.h>

#include "core/parallel.h"

namespace chronorec {
namespace {

// A tile is a group of sequences whose whole time loop one task runs, without any barrier between steps.
// Small batches are cut finer, so that there is more than one task; results do not depend on the cut.
constexpr int64_t kMaxTileRows = 16;
inline int64_t gru_tile_rows(int64_t sequences) { return sequences < 64 ? kMaxTileRows / 2 : kMaxTileRows; }

// A long sequence is one task: it listens for Ctrl-C on its way.
constexpr int64_t kStepsPerPoll = 1024;

inline int64_t gru_padded(int64_t hidden_size) { return (hidden_size + 15) / 16 * 16; }

// Steps whose input projection is computed ahead, so that it is one larger product but stays in the cache.
inline int64_t gru_chunk_steps(int64_t padded) { return padded <= 64 ? 32 : padded <= 128 ? 16 : 8; }

// Cuts one block of memory into aligned arrays; with a null base it only counts bytes.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return array;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

struct GruForwardScratch {
  int64_t* order;   // [B] sequences by falling length
  int64_t* starts;  // [N + 2] work space of the sort
  float* bias;      // [4, P]: r and z summed over both biases, n of bias_ih, n of bias_hh
  float* threads;   // per thread: projected inputs [chunk, kMaxTileRows, 3P], states [2, kMaxTileRows, P]
  int64_t per_thread;
  int64_t bytes;

  GruForwardScratch(void* base, int64_t sequences, int64_t events, int64_t hidden, int64_t chunk) {
    const int64_t padded = gru_padded(hidden);
    Carver carver(base);
    order = carver.take<int64_t>(sequences);
    starts = carver.take<int64_t>(events + 2);
    bias = carver.take<float>(4 * padded);
    per_thread = kMaxTileRows * (3 * chunk + 2) * padded;
    threads = carver.take<float>(per_thread * num_threads());
    bytes = carver.used();
  }
};

struct GruBackwardScratch {
  int64_t* order;     // [B] sequences by falling length
  int64_t* starts;    // [N + 2] work space of the sort
  float* gate_grads;  // [N, 4, P]: gradients of the sums inside r, z, n and of W_hn h + b_hn
  float* previous;    // [N, P]: the state before each event
  float* weight_hh;   // [P / 16, 3P, 16], packed for gate_grads times weight_hh
  float* weight_ih;   // [ceil(I / 16), 3P, 16], packed for gate_grads times weight_ih
  float* grad_ih;     // [P / 16, I, 48], the transpose of the weight's gradient
  float* grad_hh;     // [P / 16, H, 48], likewise
  float* threads;     // per thread: gate gradients of one step [kMaxTileRows, 3P], state's [.., P]
  int64_t per_thread;
  int64_t bytes;

  GruBackwardScratch(void* base, int64_t sequences, int64_t events, int64_t input, int64_t hidden) {
    const int64_t padded = gru_padded(hidden);
    Carver carver(base);
    order = carver.take<int64_t>(sequences);
    starts = carver.take<int64_t>(events + 2);
    gate_grads = carver.take<float>(events * 4 * padded);
    previous = carver.take<float>(events * padded);
    weight_hh = carver.take<float>(padded * 3 * padded);
    weight_ih = carver.take<float>(gru_padded(input) * 3 * padded);
    grad_ih = carver.take<float>(input * 3 * padded);
    grad_hh = carver.take<float>(hidden * 3 * padded);
    per_thread = kMaxTileRows * 4 * padded;
    threads = carver.take<float>(per_thread * num_threads());
    bytes = carver.used();
  }
};

// Stable counting sort of the sequences by falling length, so that the active rows of a tile are a prefix.
inline void gru_sort(const int64_t* offsets, int64_t sequences, int64_t* starts, int64_t* order) {
  int64_t longest = 0;
  for (int64_t b = 0; b < sequences; ++b)
    if (offsets[b + 1] - offsets[b] > longest) longest = offsets[b + 1] - offsets[b];
  for (int64_t i = 0; i <= longest + 1; ++i) starts[i] = 0;
  for (int64_t b = 0; b < sequences; ++b) ++starts[longest - (offsets[b + 1] - offsets[b]) + 1];
  for (int64_t i = 1; i <= longest; ++i) starts[i] += starts[i - 1];
  for (int64_t b = 0; b < sequences; ++b) order[starts[longest - (offsets[b + 1] - offsets[b])]++] = b;
}

struct GruTile {
  int64_t rows;
  int64_t sequence[kMaxTileRows];
  int64_t first[kMaxTileRows];        // event of its first step
  int64_t length[kMaxTileRows] = {};  // falling

  GruTile(const int64_t* offsets, const int64_t* order, int64_t sequences, int64_t tile) {
    const int64_t size = gru_tile_rows(sequences), begin = tile * size;
    rows = sequences - begin < size ? sequences - begin : size;
    for (int64_t i = 0; i < rows; ++i) {
      sequence[i] = order[begin + i];
      first[i] = offsets[sequence[i]];
      length[i] = offsets[sequence[i] + 1] - first[i];
    }
  }
  // How many rows have an event at this step.
  int64_t active(int64_t step) const {
    int64_t count = rows;
    while (count > 0 && length[count - 1] <= step) --count;
    return count;
  }
};

}  // namespace
}  // namespace chronorec
