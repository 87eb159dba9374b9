// A test-only SIMT machine: runs CUDA kernels compiled as host C++, one fiber per thread.
//
// What it is for: a kernel that is right here does the right arithmetic, keeps to its memory, and
// synchronises where it must. Threads change only at collective calls (barriers, shuffles), in an order drawn
// from a seed; a missing barrier therefore shows as a wrong result, most often as the NaN that shared memory
// is filled with before every block. What it cannot show: races of the memory model, and anything about
// speed.
//
// It is stricter than the hardware, so that what passes here is defined there:
// - all threads of a block must meet at the same __syncthreads() (of the source, not only of the count), and
//   none may have ended; the same for the grid barrier of a cooperative launch;
// - every lane named in the mask of a warp call must exist, live and make the same call with the same mask;
// - a shuffle may not read a lane outside the mask; wmma pointers must be aligned as the hardware wants them.
//
// Rules for kernels: they stand in anonymous namespaces (templates too), take dynamic shared memory and are
// launched by the macros of cuda/launch.cuh, never wait for another thread in a loop of their own, and keep
// inline PTX to cuda/ptx.h.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "vector_types.h"

namespace simt {

// A rule was broken: names the kernel, the place and the threads.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where a collective call stands in the source: every such call has a last argument `Site site =
// Site::here()`.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct Launch {
  const char* kernel;
  bool cooperative;
  dim3 grid, block;
  size_t shared;
};

// Runs every thread of the grid to its end. Throws Error.
void run(const Launch& launch, void (*call)(void*), void* context);

// What kernels that plan by the device are told of it; the tests make it small.
struct Limits {
  int multiprocessors;
  size_t shared;  // bytes that a block can have
};
Limits& limits();

// 0 runs blocks and threads in order; any other number draws the order.
void set_seed(uint64_t seed);
uint64_t seed();

[[noreturn]] void fail(const char* what, Site site);
void barrier_block(Site site);
void barrier_grid(Site site);
void* dynamic_shared();
int lane();

// What the lanes of one warp call do together once all of them are there: `values[lane]` is what each
// brought, to be replaced by what it takes away; null for lanes outside the mask.
using Exchange = void (*)(void* const values[32], const int arguments[32], unsigned mask, Site site);
void meet_warp(const char* call, unsigned mask, void* value, int argument, Exchange exchange, Site site);

template <typename... Parameters, typename... Arguments>
void launch(const char* name, bool cooperative, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared, Arguments... arguments) {
  static_assert((!std::is_reference_v<Parameters> && ...), "a kernel takes its parameters by value");
  auto call = [&] { kernel(static_cast<Parameters>(arguments)...); };
  run(
      {name, cooperative, grid, block, shared}, [](void* it) { (*static_cast<decltype(call)*>(it))(); },
      &call);
}

}  // namespace simt
