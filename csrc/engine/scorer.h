// The item table of an engine and the best of its items for one state.
#pragma once
#include <stdint.h>

#include <vector>

#include "engine/program.h"

namespace chronorec {

struct Scorer {
  TensorView panels;             // float [ceil(V / 16), D, 16], packed by pack_panels
  int64_t num_items;             // V
  TensorView bias;               // float [V] or none
  TensorView codes, code_facts;  // by pack_item_codes, or none

  // The k best items that are not in `out` (ascending, each once) and that `allow` (uint8 [V] or none)
  // leaves: scores fall, -inf and item -1 where none is left.
  void best(const float* state, const std::vector<int32_t>& out, const TensorView& allow, int64_t k,
            float* scores, int32_t* items, Workspace& work) const;
};

}  // namespace chronorec
