// The item table of an engine, the best of its items for one state, and the answer to a request.
#pragma once
#include <stdint.h>

#include <vector>

#include "engine/session_store.h"

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

// What a user of a store is to get.
struct SessionRequest {
  UserId user;
  int64_t at, end, now;  // as SessionStore::query takes them
  bool leave_seen;       // the items of the events used leave the answer
  TensorView profile;    // int32 [C] or none
  TensorView exclude;    // int32 [N], in any order, or none
  TensorView allow;      // uint8 [V] or none
  TensorView scores;     // float [K]: as Scorer::best fills them
  TensorView items;      // int32 [K]
};

// Returns how many events were used.
int64_t recommend(SessionStore& store, const Scorer& scorer, const SessionRequest& request);

}  // namespace chronorec
