// Compiled once: picks the table of the level selected for this process.
#include "core/cpu_isa.h"
#include "cpu/kernels.h"

namespace chronorec {

#define CHRONOREC_DECLARE(name, Args) void name(const Args&);
#define CHRONOREC_ADDRESS(name, Args) name,
namespace baseline {
CHRONOREC_KERNELS(CHRONOREC_DECLARE)
static const KernelTable table = {CHRONOREC_KERNELS(CHRONOREC_ADDRESS)};
}  // namespace baseline
#if defined(CHRONOREC_HAVE_AVX2)
namespace avx2 {
CHRONOREC_KERNELS(CHRONOREC_DECLARE)
static const KernelTable table = {CHRONOREC_KERNELS(CHRONOREC_ADDRESS)};
}  // namespace avx2
#endif
#if defined(CHRONOREC_HAVE_AVX512)
namespace avx512 {
CHRONOREC_KERNELS(CHRONOREC_DECLARE)
static const KernelTable table = {CHRONOREC_KERNELS(CHRONOREC_ADDRESS)};
}  // namespace avx512
#endif

const KernelTable& kernels() {
  switch (selected_level()) {
#if defined(CHRONOREC_HAVE_AVX512)
    case Level::avx512:
      return avx512::table;
#endif
#if defined(CHRONOREC_HAVE_AVX2)
    case Level::avx2:
      return avx2::table;
#endif
    default:
      return baseline::table;
  }
}

}  // namespace chronorec
