// Argument checks of the core: an error names the argument, what was wanted and what came.
#pragma once
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "core/tensor_view.h"

namespace chronorec {

// Bad shape or value (ValueError in Python) and bad dtype or device (TypeError).
struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct DTypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

const char* name_of(DType dtype);
std::string shape_of(const TensorView& view);

constexpr int64_t kAnySize = -1;

// The view must be there, on this device, of this dtype and shape (kAnySize matches every size), with its
// last dimension contiguous; the leading strides are free (zero and negative ones included).
void expect(const TensorView& view, const char* name, DType dtype, std::initializer_list<int64_t> shape,
            Device device = Device::cpu);
// As expect, and what a first index leaves is contiguous: the rows, which may be strided.
void expect_rows(const TensorView& view, const char* name, DType dtype, std::initializer_list<int64_t> shape,
                 Device device = Device::cpu);
// As expect, and fully contiguous.
void expect_packed(const TensorView& view, const char* name, DType dtype,
                   std::initializer_list<int64_t> shape, Device device = Device::cpu);
// As expect_packed, and writable.
void expect_output(const TensorView& view, const char* name, DType dtype,
                   std::initializer_list<int64_t> shape, Device device = Device::cpu);
// Scratch: a writable, contiguous uint8 array of at least `bytes`, aligned to 64.
void expect_scratch(const TensorView& view, const char* name, int64_t bytes, Device device = Device::cpu);
// int64 [rows + 1], starting at 0, never falling, ending at `total`. Returns rows.
int64_t expect_offsets(const TensorView& view, const char* name, int64_t total);
// Contiguous, int32 or int64, every id in [0, bound).
void expect_ids(const TensorView& view, const char* name, int64_t bound);

[[noreturn]] void refuse(const char* name, const std::string& wanted, const std::string& came);
inline std::string text_of(const std::string& text) { return text; }
inline std::string text_of(int64_t number) { return std::to_string(number); }
template <typename Text>
inline auto text_of(const Text& text) -> decltype(std::string(text())) {
  return text();
}
// What was wanted and what came: a literal, a number, or a function that makes the text; called in loops, so
// nothing is made of them while the check holds.
template <typename Wanted, typename Came>
inline void expect_that(bool holds, const char* name, const Wanted& wanted, const Came& came) {
  if (!holds) refuse(name, text_of(wanted), text_of(came));
}

}  // namespace chronorec
