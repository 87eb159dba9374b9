#include "core/cpu_isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace chronorec {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level read_selected() {
  const Level best = best_level();
  const char* cap = std::getenv("CHRONOREC_ISA");
  if (cap == nullptr || *cap == '\0') return best;
  for (int i = 0; i < 3; ++i)
    if (std::string(cap) == kNames[i]) return i < static_cast<int>(best) ? static_cast<Level>(i) : best;
  throw std::invalid_argument("CHRONOREC_ISA: wanted baseline, avx2 or avx512, got '" + std::string(cap) +
                              "'");
}

}  // namespace

Level best_level() {
#if defined(__x86_64__)
#if defined(CHRONOREC_HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
    return Level::avx512;
#endif
#if defined(CHRONOREC_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return Level::avx2;
#endif
#endif
  return Level::baseline;
}

Level selected_level() {
  static const Level level = read_selected();
  return level;
}

const char* name_of(Level level) { return kNames[static_cast<int>(level)]; }

}  // namespace chronorec
