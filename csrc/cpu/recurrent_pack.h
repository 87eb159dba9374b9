// Packs the weights of a recurrent layer, so that the gates of a unit stand in the same lane.
#pragma once
#include "core/parallel.h"
#include "cpu/recurrent_weights.h"
#include "cpu/transpose.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Rows of a weight that become one panel, at most 16; the panel has zeros in place of missing ones.
template <typename T>
struct PanelRows {
  const T* first;
  int64_t step, count, depth;

  vf load_at(int64_t row, int64_t k) const {
    return row < count ? load_some(first + row * step + k, depth - k) : splat(0);
  }
};

template <typename T>
void pack_rows(const PanelRows<T>& rows, float* panel) {
  for (int64_t j = 0; j < kPanel; j += kLanes)
    for (int64_t k = 0; k < rows.depth; k += kLanes) {
      vf block[kLanes];
      load_transposed(Rows<const T>{rows.first + j * rows.step + k, rows.step}, rows.count - j,
                      rows.depth - k, block);
      for (int64_t i = 0; i < min64(kLanes, rows.depth - k); ++i)
        store(panel + (k + i) * kPanel + j, block[i]);
    }
}

// As pairs of gemm_bf16.h: a tile of the matrix unit is a transposed block of pairs.
template <typename T>
void pack_rows(const PanelRows<T>& rows, bf16* panel) {
  constexpr int64_t kPairs = kRun / 2;
  for (int64_t k = 0; k < rows.depth; k += kRun, panel += kRun * kPanel) {
    bf16 rounded[kPanel][kRun];
    for (int64_t i = 0; i < kPanel; ++i)
      for (int64_t h = 0; h < kRun; h += kLanes) store_rounded(&rounded[i][h], rows.load_at(i, k + h));
    float pairs[kPanel][kPairs];
    __builtin_memcpy(pairs, rounded, sizeof pairs);
    for (int64_t j = 0; j < kPanel; j += kLanes)
      for (int64_t h = 0; h < kPairs; h += kLanes) {
        vf block[kLanes];
        load_transposed(Rows<const float>{&pairs[j][h], kPairs}, kLanes, kLanes, block);
        for (int64_t i = 0; i < kLanes; ++i)
          __builtin_memcpy(panel + ((h + i) * kPanel + j) * 2, &block[i], sizeof(vf));
      }
  }
}

// As codes: a number is the nearest whole number of 127ths of its row's largest. A row that is not finite has
// the scale NaN.
template <typename T>
void pack_rows(const PanelRows<T>& rows, uint8_t* panel) {
  constexpr int64_t kGroup = CodeTraits<uint8_t>::kGroup;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest even whole number
  float scales[kPanel];
  for (int64_t i = 0; i < kPanel; ++i) {
    vf largest = splat(0), finite = splat(0);
    for (int64_t k = 0; k < rows.depth; k += kLanes) {
      const vf x = rows.load_at(i, k);
      largest = max(largest, max(x, -x));
      finite += x - x;
    }
    scales[i] = max_of(largest) / 127 + sum(finite);
  }
  for (int64_t k = 0; k < round_up(rows.depth, 4); ++k)
    for (int64_t i = 0; i < kPanel; ++i) {
      const bool some = i < rows.count && k < rows.depth && scales[i] > 0;
      const float code = some ? to_float(rows.first[i * rows.step + k]) / scales[i] + kMagic - kMagic : 0;
      panel[(k / kGroup * kPanel + i) * kGroup + k % kGroup] = static_cast<uint8_t>(code + 128);
    }
  __builtin_memcpy(panel + round_up(rows.depth, 4) * kPanel, scales, sizeof scales);
}

template <typename T, typename W>
void pack_gate(const TensorView& weight, int64_t first, int64_t count, W* packed, int64_t panel) {
  const int64_t depth = weight.shape[1], step = weight.stride[0];
  const PanelRows<T> rows = {weight.as<const T>() + first * step, step, count, depth};
  pack_rows(rows, packed + panel * PackedWeight<W>{packed, depth}.panel_size());
}

template <typename Cell, typename T, typename W>
void pack_unit_panel(const RecurrentPackArgs& args, int64_t panel, const T*, const W*) {
  constexpr int64_t kGates = Cell::kKind.gates, kSlots = Cell::kKind.slots;
  const int64_t hidden = args.weight_hh.shape[1], unit = panel * kPanel, count = min64(kPanel, hidden - unit);
  for (int64_t slot = 0; slot < kGates; ++slot) {
    const int64_t input_row = Cell::input_gate(slot) * hidden + unit;
    const int64_t state_row = Cell::state_gate(slot) * hidden + unit;
    pack_gate<T>(args.weight_ih, input_row, count, args.packed_ih.as<W>(), panel * kGates + slot);
    pack_gate<T>(args.weight_hh, state_row, count, args.packed_hh.as<W>(), panel * kGates + slot);
  }
  for (int64_t slot = 0; slot < kSlots; ++slot)
    for (int64_t j = 0; j < kPanel; ++j) {
      float sum = 0;
      if (args.bias_ih && slot < kGates && j < count)
        sum += to_float(args.bias_ih.as<const T>()[Cell::input_gate(slot) * hidden + unit + j]);
      if (args.bias_hh && slot >= Cell::kStateSlot && j < count)
        sum += to_float(
            args.bias_hh.as<const T>()[Cell::state_gate(slot - Cell::kStateSlot) * hidden + unit + j]);
      args.packed_bias.as<float>()[(panel * kSlots + slot) * kPanel + j] = sum;
    }
}

template <typename Cell>
void recurrent_pack(const RecurrentPackArgs& args) {
  with_types(args.weight_hh.dtype, args.packed_hh.dtype, [&](auto* weights, auto* packed) {
    parallel_for(padded_units(args.weight_hh.shape[1]) / kPanel,
                 [&](int64_t panel, int) { pack_unit_panel<Cell>(args, panel, weights, packed); });
  });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
