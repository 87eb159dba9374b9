// Checks of arrays in GPU memory, by shape and dtype.
#pragma once
#include <utility>

#include "core/check.h"

namespace chronorec::cuda {
namespace {

// float32 or bfloat16 [any, any], rows may be strided.
inline void expect_features(const TensorView& view, const char* name) {
  expect(view, name, view.dtype == DType::bf16 ? DType::bf16 : DType::f32, {kAnySize, kAnySize},
         Device::cuda);
}

inline void expect_ids_on_gpu(const TensorView& view, const char* name, DType dtype, int64_t count) {
  expect_packed(view, name, dtype, {count}, Device::cuda);
}

inline void expect_scale(const TensorView& view, const char* name, int64_t count) {
  if (view) expect_packed(view, name, DType::f32, {count}, Device::cuda);
}

// Offsets and neighbours of a CSR matrix. Returns (rows, edges).
inline std::pair<int64_t, int64_t> expect_matrix(const TensorView& offsets, const TensorView& neighbours,
                                                 const char* name = "neighbours") {
  expect_packed(offsets, "offsets", DType::i64, {kAnySize}, Device::cuda);
  expect_that(offsets.shape[0] >= 1, "offsets", "at least one offset", "none");
  expect_that(offsets.shape[0] <= INT32_MAX, "offsets", "fewer than 2^31 rows", offsets.shape[0] - 1);
  expect_ids_on_gpu(neighbours, name, neighbours.dtype == DType::i64 ? DType::i64 : DType::i32, kAnySize);
  return {offsets.shape[0] - 1, neighbours.shape[0]};
}

}  // namespace
}  // namespace chronorec::cuda
