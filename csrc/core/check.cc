#include "core/check.h"

namespace chronorec {
namespace {

[[noreturn]] void shape_error(const std::string& text) { throw ShapeError(text); }

std::string shape_text(std::initializer_list<int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += size == kAnySize ? "any" : std::to_string(size);
  }
  return text + "]";
}

// Contiguous from dimension `first` on.
bool is_contiguous(const TensorView& view, int first = 0) {
  int64_t step = 1;
  for (int d = view.ndim - 1; d >= first; --d) {
    if (view.shape[d] > 1 && view.stride[d] != step) return false;
    step *= view.shape[d];
  }
  return true;
}

bool is_empty(const TensorView& view) {
  for (int d = 0; d < view.ndim; ++d)
    if (view.shape[d] == 0) return true;
  return false;
}

template <typename Id>
void check_ids(const Id* ids, int64_t count, const char* name, int64_t bound) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || static_cast<int64_t>(ids[i]) >= bound)
      shape_error(std::string(name) + ": every id must be in [0, " + std::to_string(bound) + "), got " +
                  std::to_string(ids[i]) + " at position " + std::to_string(i));
}

}  // namespace

const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "bfloat16", "float64", "int32", "int64", "uint8", "int8"};
  return names[static_cast<int>(dtype)];
}

std::string shape_of(const TensorView& view) {
  std::string text = "[";
  for (int d = 0; d < view.ndim; ++d) text += (d ? ", " : "") + std::to_string(view.shape[d]);
  return text + "]";
}

void expect(const TensorView& view, const char* name, DType dtype, std::initializer_list<int64_t> shape,
            Device device) {
  if (!view)
    shape_error(std::string(name) + ": wanted an array of shape " + shape_text(shape) + ", got None");
  if (view.device != device)
    throw DTypeError(std::string(name) + ": wanted an array in " +
                     (device == Device::cpu ? "CPU memory" : "GPU memory"));
  if (view.dtype != dtype)
    throw DTypeError(std::string(name) + ": wanted " + name_of(dtype) + ", got " + name_of(view.dtype));
  bool same = view.ndim == static_cast<int32_t>(shape.size());
  for (int d = 0; same && d < view.ndim; ++d) {
    const int64_t wanted = shape.begin()[d];
    same = wanted == kAnySize || wanted == view.shape[d];
  }
  if (!same)
    shape_error(std::string(name) + ": wanted shape " + shape_text(shape) + ", got " + shape_of(view));
  if (is_empty(view)) return;
  const int last = view.ndim - 1;
  if (last >= 0 && view.shape[last] > 1 && view.stride[last] != 1)
    shape_error(std::string(name) + ": the last dimension must be contiguous");
}

void expect_rows(const TensorView& view, const char* name, DType dtype, std::initializer_list<int64_t> shape,
                 Device device) {
  expect(view, name, dtype, shape, device);
  if (!is_empty(view) && !is_contiguous(view, 1)) shape_error(std::string(name) + ": wanted contiguous rows");
}

void expect_packed(const TensorView& view, const char* name, DType dtype,
                   std::initializer_list<int64_t> shape, Device device) {
  expect(view, name, dtype, shape, device);
  if (!is_empty(view) && !is_contiguous(view)) shape_error(std::string(name) + ": wanted a contiguous array");
}

void expect_output(const TensorView& view, const char* name, DType dtype,
                   std::initializer_list<int64_t> shape, Device device) {
  expect_packed(view, name, dtype, shape, device);
  if (!view.writable) shape_error(std::string(name) + ": wanted a writable array");
}

void expect_scratch(const TensorView& view, const char* name, int64_t bytes, Device device) {
  if (bytes == 0) return;
  expect_output(view, name, DType::u8, {kAnySize}, device);
  if (view.shape[0] < bytes)
    shape_error(std::string(name) + ": wanted at least " + std::to_string(bytes) + " bytes, got " +
                std::to_string(view.shape[0]));
  if (reinterpret_cast<uintptr_t>(view.data) % 64 != 0)
    shape_error(std::string(name) + ": wanted memory aligned to 64 bytes");
}

int64_t expect_offsets(const TensorView& view, const char* name, int64_t total) {
  expect_packed(view, name, DType::i64, {kAnySize});
  const int64_t rows = view.shape[0] - 1;
  const int64_t* offsets = view.as<int64_t>();
  if (rows < 0) shape_error(std::string(name) + ": wanted at least one offset, got none");
  if (offsets[0] != 0)
    shape_error(std::string(name) + ": must start at 0, got " + std::to_string(offsets[0]));
  for (int64_t b = 0; b < rows; ++b)
    if (offsets[b + 1] < offsets[b])
      shape_error(std::string(name) + ": must never fall, got " + std::to_string(offsets[b + 1]) + " after " +
                  std::to_string(offsets[b]) + " at position " + std::to_string(b + 1));
  if (offsets[rows] != total)
    shape_error(std::string(name) + ": must end at " + std::to_string(total) + ", got " +
                std::to_string(offsets[rows]));
  return rows;
}

void expect_ids(const TensorView& view, const char* name, int64_t bound) {
  if (!view) shape_error(std::string(name) + ": wanted an array of ids, got None");
  if (view.device != Device::cpu) throw DTypeError(std::string(name) + ": wanted an array in CPU memory");
  if (!is_empty(view) && !is_contiguous(view)) shape_error(std::string(name) + ": wanted a contiguous array");
  int64_t count = 1;
  for (int d = 0; d < view.ndim; ++d) count *= view.shape[d];
  if (view.dtype == DType::i64)
    check_ids(view.as<int64_t>(), count, name, bound);
  else if (view.dtype == DType::i32)
    check_ids(view.as<int32_t>(), count, name, bound);
  else
    throw DTypeError(std::string(name) + ": wanted int32 or int64, got " + name_of(view.dtype));
}

void refuse(const char* name, const std::string& wanted, const std::string& came) {
  shape_error(std::string(name) + ": wanted " + wanted + ", got " + came);
}

}  // namespace chronorec
