// Packs the weights of a recurrent layer, so that the gates of a unit stand in the same lane.
#pragma once
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/recurrent_tiles.h"
#include "cpu/transpose.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Rows [first, first + count) of a weight, count <= 16, as one panel: [K, 16], zeros in place of missing
// rows.
template <typename T>
void pack_rows(const TensorView& weight, int64_t first, int64_t count, float* panel) {
  const int64_t depth = weight.shape[1], step = weight.stride[0];
  for (int64_t j = 0; j < kPanel; j += kLanes)
    for (int64_t k = 0; k < depth; k += kLanes) {
      vf block[kLanes];
      load_transposed(Rows<const T>{weight.as<const T>() + (first + j) * step + k, step}, count - j,
                      depth - k, block);
      for (int64_t i = 0; i < min64(kLanes, depth - k); ++i) store(panel + (k + i) * kPanel + j, block[i]);
    }
}

template <typename Cell, typename T>
void pack_unit_panel(const RecurrentPackArgs& args, int64_t panel) {
  constexpr int64_t kGates = Cell::kKind.gates, kSlots = Cell::kKind.slots;
  const int64_t hidden = args.weight_hh.shape[1], input = args.weight_ih.shape[1];
  const int64_t unit = panel * kPanel, count = min64(kPanel, hidden - unit);
  for (int64_t slot = 0; slot < kGates; ++slot) {
    pack_rows<T>(args.weight_ih, Cell::input_gate(slot) * hidden + unit, count,
                 args.packed_ih.as<float>() + (panel * kGates + slot) * input * kPanel);
    pack_rows<T>(args.weight_hh, Cell::state_gate(slot) * hidden + unit, count,
                 args.packed_hh.as<float>() + (panel * kGates + slot) * hidden * kPanel);
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
  parallel_for(padded_units(args.weight_hh.shape[1]) / kPanel, [&](int64_t panel, int) {
    if (args.weight_ih.dtype == DType::bf16)
      pack_unit_panel<Cell, bf16>(args, panel);
    else
      pack_unit_panel<Cell, float>(args, panel);
  });
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
