// A borrowed view of somebody else's array: what every function of the core takes and fills.
#pragma once
#include <stdint.h>

namespace chronorec {

enum class DType : int32_t { f32, bf16, f64, i32, i64, u8, i8 };
enum class Device : int32_t { cpu, cuda };

constexpr int kMaxDims = 4;

// Kernel files of every level use these: inlined always, lest the linker keep one level's copy for all.
#define CHRONOREC_INLINE inline __attribute__((always_inline))

// `data` is null where an optional argument was None. Strides count elements, not bytes.
struct TensorView {
  void* data = nullptr;
  int32_t ndim = 0;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  bool writable = true;
  int64_t shape[kMaxDims] = {0, 0, 0, 0};
  int64_t stride[kMaxDims] = {0, 0, 0, 0};

  CHRONOREC_INLINE explicit operator bool() const { return data != nullptr || ndim > 0; }

  template <typename T>
  CHRONOREC_INLINE T* as() const {
    return static_cast<T*>(data);
  }
};

CHRONOREC_INLINE constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace chronorec
