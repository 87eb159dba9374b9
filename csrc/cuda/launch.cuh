// How a kernel is launched and gets its dynamic shared memory: under nvcc, and as host C++ in the tests.
//
//   CHRONOREC_LAUNCH(kernel, grid, block, shared, stream, arguments...);
//   CHRONOREC_LAUNCH_COOPERATIVE(kernel, grid, block, shared, stream, arguments...);  // all blocks at once
//   CHRONOREC_DYNAMIC_SHARED(float, tile);  // in a kernel: float* tile, aligned to 32 bytes
//   limits()  // of the current device, for plans that depend on it
//
// A kernel with template arguments stands in parentheses: CHRONOREC_LAUNCH((rows<float, 4>), ...). Nothing
// here waits for the device; a launch that the driver refuses throws. Kernels and their launchers stand in
// anonymous namespaces, use full-mask warp calls, and leave inline PTX to cuda/ptx.h.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define CHRONOREC_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ::chronorec::cuda::launch(#kernel, false, kernel, grid, block, shared, stream, __VA_ARGS__)
#define CHRONOREC_LAUNCH_COOPERATIVE(kernel, grid, block, shared, stream, ...) \
  ::chronorec::cuda::launch(#kernel, true, kernel, grid, block, shared, stream, __VA_ARGS__)

namespace chronorec::cuda {

struct Limits {
  int multiprocessors;
  int shared;  // bytes that a block can have
};

}  // namespace chronorec::cuda

#ifdef __CUDACC__

#define CHRONOREC_DYNAMIC_SHARED(T, name)                  \
  extern __shared__ __align__(32) char chronorec_shared[]; \
  T* name = reinterpret_cast<T*>(chronorec_shared)

namespace chronorec::cuda {

inline void check(cudaError_t error, const char* name) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(name) + ": CUDA says " + cudaGetErrorString(error));
}

inline Limits limits() {
  int device = 0;
  check(cudaGetDevice(&device), "the current device");
  Limits found{};
  check(cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device), "limits");
  check(cudaDeviceGetAttribute(&found.shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "limits");
  return found;
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, bool cooperative, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared, cudaStream_t stream, Arguments... arguments) {
  constexpr size_t kUsual = 48 << 10;  // more has to be asked for
  if (shared > kUsual)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          name);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace chronorec::cuda

#else

#define CHRONOREC_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())

namespace chronorec::cuda {

inline Limits limits() {
  return {::simt::limits().multiprocessors, static_cast<int>(::simt::limits().shared)};
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, bool cooperative, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared, cudaStream_t, Arguments... arguments) {
  ::simt::launch(name, cooperative, kernel, grid, block, shared, arguments...);
}

}  // namespace chronorec::cuda

#endif
