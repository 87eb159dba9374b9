// Scratch and the number of threads it is made for.
#pragma once
#include <initializer_list>

#include "core/check.h"
#include "core/parallel.h"

namespace chronorec {

struct NamedSize {
  const char* name;
  int64_t size;
};

// The arguments of a <function>_scratch: sizes of arrays.
inline void expect_sizes(std::initializer_list<NamedSize> sizes) {
  for (const NamedSize& s : sizes) expect_that(s.size >= 0, s.name, "at least 0", s.size);
}

// Checks the scratch of a call, whose size in bytes for num_threads() threads is bytes(), and pins the number
// of threads: fewer where set_num_threads was raised after the caller had asked for the size.
class ScratchThreads {
 public:
  template <typename Bytes>
  ScratchThreads(const TensorView& scratch, Bytes&& bytes) : pinned_(fitting(scratch, bytes)) {
    expect_scratch(scratch, "scratch", bytes());
  }

 private:
  template <typename Bytes>
  static int fitting(const TensorView& scratch, Bytes& bytes) {
    for (int threads = num_threads(); threads > 1; --threads) {
      const PinnedThreads trial(threads);
      if (bytes() <= scratch.shape[0]) return threads;
    }
    return 1;
  }

  const PinnedThreads pinned_;
};

}  // namespace chronorec
