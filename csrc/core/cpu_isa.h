// Which instruction-set level this process uses: the best that was compiled in and that the machine has,
// capped by the environment variable CHRONOREC_ISA. Chosen once. Freestanding: per-level kernel files include
// it for use_amx().
#pragma once

namespace chronorec {

enum class Level : int { baseline, avx2, avx512 };

Level best_level();      // of this machine and build
Level selected_level();  // best_level capped by CHRONOREC_ISA; throws on an unknown name
const char* name_of(Level level);

// The matrix unit (AMX tiles, bf16) belongs to the avx512 level where processor and kernel have it. The
// kernel lends the tile registers to the whole process, threads and forked children included, when asked.
bool has_amx();  // asks the kernel at the first call
bool use_amx();  // has_amx() unless switched off
void set_amx(bool on);

}  // namespace chronorec
