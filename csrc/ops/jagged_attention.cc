// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

constexpr int64_t kKeys = kAttentionKeys + kAttentionQueries;

struct Sizes {
  int64_t events, heads, width;
};

// query, key and value: one shape, one dtype.
Sizes expect_inputs(const TensorView& query, const TensorView& key, const TensorView& value) {
  const DType dtype = query.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect(query, "query", dtype, {kAnySize, kAnySize, kAnySize});
  const Sizes s = {query.shape[0], query.shape[1], query.shape[2]};
  expect_that(s.width > 0, "query", "a width of at least 1", "0");
  expect(key, "key", dtype, {s.events, s.heads, s.width});
  expect(value, "value", dtype, {s.events, s.heads, s.width});
  return s;
}

}  // namespace

int64_t jagged_attention_order_bytes(int64_t sequences, int64_t events) {
  return (8 * (2 * sequences + events / (2 * kAttentionQueries)) + 63) / 64 * 64;
}

int64_t jagged_attention_forward_scratch(int64_t sequences, int64_t events, int64_t width) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"width", width}});
  const int64_t floats = padded(width) * (2 * kAttentionQueries + 2 * kKeys) + kKeys * kAttentionQueries;
  return jagged_attention_order_bytes(sequences, events) + num_threads() * floats * 4;
}

int64_t jagged_attention_backward_scratch(int64_t sequences, int64_t events, int64_t width) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"width", width}});
  const int64_t floats = padded(width) * (5 * kAttentionQueries + 2 * kKeys + 2 * kAttentionWhole) +
                         2 * kKeys * kAttentionQueries;
  return jagged_attention_order_bytes(sequences, events) + num_threads() * floats * 4;
}

int64_t jagged_attention_step_scratch(int64_t width) {
  expect_sizes({{"width", width}});
  return num_threads() * (2 * padded(width) + kKeys) * 4;
}

void jagged_attention_forward(const JaggedAttentionForwardArgs& args) {
  const Sizes s = expect_inputs(args.query, args.key, args.value);
  const int64_t sequences = expect_offsets(args.offsets, "offsets", s.events);
  expect_output(args.output, "output", args.query.dtype, {s.events, s.heads, s.width});
  if (args.lse) expect_output(args.lse, "lse", DType::f32, {s.events, s.heads});
  const ScratchThreads threads(
      args.scratch, [&] { return jagged_attention_forward_scratch(sequences, s.events, s.width); });
  kernels().jagged_attention_forward(args);
}

void jagged_attention_backward(const JaggedAttentionBackwardArgs& args) {
  const Sizes s = expect_inputs(args.query, args.key, args.value);
  const DType dtype = args.query.dtype;
  const int64_t sequences = expect_offsets(args.offsets, "offsets", s.events);
  expect(args.grad_output, "grad_output", dtype, {s.events, s.heads, s.width});
  expect_packed(args.output, "output", dtype, {s.events, s.heads, s.width});
  expect_packed(args.lse, "lse", DType::f32, {s.events, s.heads});
  expect_output(args.grad_query, "grad_query", dtype, {s.events, s.heads, s.width});
  expect_output(args.grad_key, "grad_key", dtype, {s.events, s.heads, s.width});
  expect_output(args.grad_value, "grad_value", dtype, {s.events, s.heads, s.width});
  const ScratchThreads threads(
      args.scratch, [&] { return jagged_attention_backward_scratch(sequences, s.events, s.width); });
  kernels().jagged_attention_backward(args);
}

void jagged_attention_step(const JaggedAttentionStepArgs& args) {
  const DType dtype = args.query.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect(args.query, "query", dtype, {kAnySize, kAnySize, kAnySize});
  const int64_t rows = args.query.shape[0], heads = args.query.shape[1], width = args.query.shape[2];
  expect_that(width > 0, "query", "a width of at least 1", "0");
  expect(args.key_cache, "key_cache", dtype, {kAnySize, heads, width});
  const int64_t keys = args.key_cache.shape[0];
  expect(args.value_cache, "value_cache", dtype, {keys, heads, width});
  const int64_t sequences = expect_offsets(args.offsets, "offsets", keys);
  expect_that(
      sequences == rows, "offsets", [&] { return std::to_string(rows) + " rows, one per query"; }, sequences);
  expect_output(args.output, "output", dtype, {rows, heads, width});
  const ScratchThreads threads(args.scratch, [&] { return jagged_attention_step_scratch(width); });
  kernels().jagged_attention_step(args);
}

}  // namespace chronorec
