// Every function of cuda/on_stream.h for ctypes.
#include "cuda/on_stream.h"
#include "simt.h"
#include "simt_entry.h"

extern "C" void simt_seed(uint64_t seed) { simt::set_seed(seed); }
extern "C" void simt_limits(int multiprocessors, int64_t shared) {
  simt::limits() = {multiprocessors, static_cast<size_t>(shared)};
}

#define ENTRY(name, Args)                                                      \
  extern "C" const char* simt_##name(const chronorec::Args& args) {            \
    return simt::text_of_error([&] { chronorec::cuda::name(args, nullptr); }); \
  }
CHRONOREC_ON_STREAM(ENTRY)
#undef ENTRY

// the sizes come as an array, whatever their number
template <typename... Sizes, size_t... I>
static int64_t apply(int64_t (*function)(Sizes...), const int64_t* sizes, std::index_sequence<I...>) {
  return function(sizes[I]...);
}
template <typename... Sizes>
static int64_t apply(int64_t (*function)(Sizes...), const int64_t* sizes) {
  return apply(function, sizes, std::index_sequence_for<Sizes...>{});
}
#define ENTRY(name, ...) \
  extern "C" int64_t simt_##name(const int64_t* sizes) { return apply(chronorec::cuda::name, sizes); }
CHRONOREC_ON_STREAM_SCRATCH(ENTRY)
