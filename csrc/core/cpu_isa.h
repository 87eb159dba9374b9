// Which instruction-set level this process uses: the best that was compiled in and that the machine has,
// capped by the environment variable CHRONOREC_ISA. Chosen once.
#pragma once

namespace chronorec {

enum class Level : int { baseline, avx2, avx512 };

Level best_level();      // of this machine and build
Level selected_level();  // best_level capped by CHRONOREC_ISA; throws on an unknown name
const char* name_of(Level level);

}  // namespace chronorec
