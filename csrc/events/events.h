// From an event log to histories: group by user, stable order by time, gather the columns.
// Legend: N events, B users, V distinct codes. Arrays are contiguous; outputs belong to the caller.
// Unlike the kernels, these functions allocate their own work space: they run once per log.
#pragma once
#include "core/tensor_view.h"

namespace chronorec {

// Events grouped by user, inside a user by key, ties in the order of the log.
struct GroupEventsArgs {
  TensorView user;          // int32 [N]: codes in [0, B)
  TensorView key;           // int64 [N], what a user's events are ordered by, or none: the order of the log
  TensorView item;          // int32 [N] or none
  TensorView offsets;       // int64 [B + 1], written
  TensorView grouped_key;   // int64 [N], written; none if key is none
  TensorView grouped_item;  // int32 [N], written; none if item is none
  TensorView order;  // int32 or int64 [N], written: position in the log of every grouped event; or none
  TensorView out_of_order;  // int64 [1], written: events with a smaller key than the user's event before them
};
void group_events(const GroupEventsArgs& args);

// output[i] = values[order[i]]
struct GatherEventsArgs {
  TensorView values;  // any 1-, 2-, 4- or 8-byte type [N]
  TensorView order;   // int32 or int64 [M]: positions in [0, N)
  TensorView output;  // same type [M]
};
void gather_events(const GatherEventsArgs& args);

// Adds how often each code occurs to counts.
struct CountCodesArgs {
  TensorView codes;   // int32 [N]: codes in [0, V)
  TensorView counts;  // int64 [V], added to
};
void count_codes(const CountCodesArgs& args);

// Events that repeat an earlier one of the same user: equal key, item and extra.
struct CountDuplicatesArgs {
  TensorView offsets;     // int64 [B + 1]
  TensorView key;         // int64 [N], ascending inside each user
  TensorView item;        // int32 [N]
  TensorView extra;       // int64 [N], a digest of the other columns, or none
  TensorView duplicates;  // int64 [1], written
};
void count_duplicates(const CountDuplicatesArgs& args);

}  // namespace chronorec
