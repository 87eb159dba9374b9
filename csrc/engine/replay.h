// Whole histories through a program, event by event: what sessions of the same events answer, bit for bit.
#pragma once
#include "engine/program.h"

namespace chronorec {

// B histories of N events in all, oldest first.
struct ReplayArgs {
  TensorView items;    // int32 [N]
  TensorView offsets;  // int64 [B + 1]
  TensorView times;    // int64 [N], microseconds, or none
  TensorView at;       // int64 [B], microseconds, of each request, or none
  TensorView answers;  // float [B, D]
};
void replay(const Program& program, const ReplayArgs& args);

}  // namespace chronorec
