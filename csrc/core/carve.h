// Cuts one block of memory into arrays. Freestanding, and with internal linkage, for kernel files and for the
// functions that say how large a scratch must be: both walk the same cuts.
#pragma once
#include <stdint.h>

namespace chronorec {
namespace {

// With a null base it only counts bytes. Arrays start at multiples of 64 bytes. A size that is negative or
// beyond what a machine can hold makes too_large() true for good, and used() stays at kLargest.
class Carver {
 public:
  static constexpr int64_t kLargest = int64_t{1} << 56;

  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* array = base_ == nullptr || too_large() ? nullptr : reinterpret_cast<T*>(base_ + used_);
    if (count < 0 || count > (kLargest - used_) / static_cast<int64_t>(sizeof(T)))
      used_ = kLargest;
    else
      used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return array;
  }
  // An array of rows x cols (x depth) elements: the product is checked too.
  template <typename T>
  T* take(int64_t rows, int64_t cols) {
    return take<T>(product(rows, cols));
  }
  template <typename T>
  T* take(int64_t rows, int64_t cols, int64_t depth) {
    return take<T>(product(product(rows, cols), depth));
  }

  int64_t used() const { return used_; }
  bool too_large() const { return used_ >= kLargest; }

  // Of sizes; -1, which take() refuses, where it overflows.
  static int64_t product(int64_t a, int64_t b) {
    int64_t both;
    return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &both) ? -1 : both;
  }
  static int64_t sum(int64_t a, int64_t b) {
    int64_t both;
    return a < 0 || b < 0 || __builtin_add_overflow(a, b, &both) ? -1 : both;
  }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace
}  // namespace chronorec
