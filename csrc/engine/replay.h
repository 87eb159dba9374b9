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
  TensorView types;    // int32 [N], codes of the types of events, -1: missing; or none
  TensorView profile;  // int32 [B, C], codes of the columns that the program reads, -1: missing; or none
  TensorView answers;  // float [B, D]
};
void replay(const Program& program, const ReplayArgs& args);

}  // namespace chronorec
