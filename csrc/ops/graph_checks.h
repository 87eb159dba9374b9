// Checks of what describes a graph. Ids are many and checked at every call: in parallel, without a branch.
#pragma once
#include "core/check.h"
#include "core/parallel.h"
#include "cpu/graph_plan.h"

namespace chronorec {
namespace {

template <typename Id, typename Wide>
bool ids_fit(const Id* ids, int64_t count, Wide bound) {
  constexpr int64_t kChunk = 1 << 16;
  bool bad = false;
  parallel_for((count + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    const int64_t end = count < (chunk + 1) * kChunk ? count : (chunk + 1) * kChunk;
    Wide outside = 0;  // a negative id is a huge unsigned one
    for (int64_t i = chunk * kChunk; i < end; ++i)
      outside |= static_cast<Wide>(static_cast<Wide>(ids[i]) >= bound);
    if (outside != 0) __atomic_store_n(&bad, true, __ATOMIC_RELAXED);
  });
  return !bad;
}

// Contiguous int32 or int64 ids [count] in [0, bound), of the dtype of `like` if that is given. Returns
// count.
int64_t expect_graph_ids(const TensorView& view, const char* name, int64_t count, int64_t bound,
                         const TensorView* like = nullptr) {
  const DType wanted = like != nullptr ? like->dtype : view.dtype == DType::i64 ? DType::i64 : DType::i32;
  expect_packed(view, name, wanted, {count});
  const int64_t size = view.shape[0];
  const bool fit = wanted == DType::i64
                       ? ids_fit(view.as<const int64_t>(), size, static_cast<uint64_t>(bound))
                       : ids_fit(view.as<const int32_t>(), size,
                                 static_cast<uint32_t>(bound <= INT32_MAX ? bound : INT64_C(1) << 31));
  if (!fit) expect_ids(view, name, bound);
  return size;
}

// Edges are numbered in the dtype of the neighbours.
inline void expect_countable(const TensorView& neighbours, const char* name) {
  expect_that(neighbours.dtype == DType::i64 || neighbours.shape[0] <= INT32_MAX, name,
              "int64 ids for 2^31 edges or more", "int32");
}

inline void expect_scale(const TensorView& view, const char* name, int64_t count) {
  if (view) expect_packed(view, name, DType::f32, {count});
}

}  // namespace
}  // namespace chronorec
