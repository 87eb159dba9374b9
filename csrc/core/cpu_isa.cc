#include "core/cpu_isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
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

std::atomic<bool> amx_wanted{true};

// Whether the processor has bf16 tiles, and the kernel saves them and lends them to this process.
bool ask_for_amx() {
#if defined(__x86_64__) && defined(CHRONOREC_HAVE_AVX512)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;       // leaf 7, edx
  constexpr unsigned kSavesState = 1u << 27;                   // leaf 1, ecx: xgetbv exists
  constexpr unsigned kTileState = 3u << 17;                    // of XCR0
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSavesState)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBf16) || !(d & kTile)) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & kTileState) != kTileState) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool has_amx() {
  static const bool has = selected_level() == Level::avx512 && ask_for_amx();
  return has;
}

bool use_amx() { return amx_wanted.load(std::memory_order_relaxed) && has_amx(); }

void set_amx(bool on) { amx_wanted.store(on, std::memory_order_relaxed); }

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
