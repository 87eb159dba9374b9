// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "core/parallel.h"
#include "cpu/integers.h"
#include "cpu/kernels.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

constexpr int64_t kKeys = kAttentionKeys + kAttentionQueries;
constexpr int64_t kBiasBytes = kAttentionBiasBytes + kAttentionMemoBytes;

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

void expect_ascending(const TensorView& boundaries, const char* name) {
  const float* at = boundaries.as<float>();
  for (int64_t i = 0; i < boundaries.shape[0]; ++i)
    expect_that(at[i] == at[i] && (i == 0 || at[i - 1] <= at[i]), name, "ascending numbers",
                [&] { return std::to_string(at[i]) + " at position " + std::to_string(i); });
}

// One row per head.
void expect_table(const TensorView& table, const char* name, int64_t heads, int64_t columns) {
  expect(table, name, DType::f32, {heads, columns});
  expect_that(table.shape[1] > 0, name, "at least one column", "none");
}

void expect_buckets(const TensorView& table, const char* name, const TensorView& boundaries,
                    const char* boundaries_name, int64_t heads) {
  expect_packed(boundaries, boundaries_name, DType::f32, {kAnySize});
  expect_ascending(boundaries, boundaries_name);
  expect_table(table, name, heads, boundaries.shape[0] + 1);
  expect_that(
      table.shape[1] <= kAttentionBuckets, name,
      [] { return "at most " + std::to_string(kAttentionBuckets) + " buckets"; }, table.shape[1]);
}

// What all three functions take between scale and output. Returns the columns of all tables.
template <typename Args>
int64_t expect_form(const Args& args, int64_t events, int64_t heads) {
  expect_that(args.window > 0, "window", "at least 1", args.window);
  expect_that(!args.silu || (args.divisor == args.divisor && args.divisor != 0), "divisor",
              "a number other than 0", [&] { return std::to_string(args.divisor); });
  int64_t columns = 0;
  if (args.position) {
    expect_table(args.position, "position", heads, kAnySize);
    columns += args.position.shape[1];
  }
  if (args.time_table) {
    expect_packed(args.times, "times", DType::i64, {events});
    expect_buckets(args.time_table, "time_table", args.time_boundaries, "time_boundaries", heads);
    columns += args.time_table.shape[1];
  }
  if (args.distance_table) {
    expect_packed(args.places, "places", DType::f32, {events, 3});
    expect_buckets(args.distance_table, "distance_table", args.distance_boundaries, "distance_boundaries",
                   heads);
    columns += args.distance_table.shape[1];
  }
  return columns;
}

void expect_table_grad(const TensorView& table, const TensorView& grad, const char* name) {
  if (table) expect_output(grad, name, DType::f32, {table.shape[0], table.shape[1]});
}

}  // namespace

int64_t jagged_attention_order_bytes(int64_t sequences, int64_t events) {
  return round_up(8 * (2 * sequences + events / (2 * kAttentionQueries)), 64);
}

int64_t jagged_attention_table_bytes(int64_t sequences, int64_t events, int64_t table_size) {
  return round_up(4 * (sequences + events / kAttentionPart + 1) * table_size, 64);
}

int64_t jagged_attention_forward_scratch(int64_t sequences, int64_t events, int64_t width) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"width", width}});
  const int64_t floats =
      round_up(width, 16) * (2 * kAttentionQueries + 2 * kKeys) + kKeys * kAttentionQueries;
  return jagged_attention_order_bytes(sequences, events) + num_threads() * (floats * 4 + kBiasBytes);
}

int64_t jagged_attention_backward_scratch(int64_t sequences, int64_t events, int64_t width,
                                          int64_t table_size) {
  expect_sizes({{"sequences", sequences}, {"events", events}, {"width", width}, {"table_size", table_size}});
  const int64_t floats = round_up(width, 16) * (5 * kAttentionQueries + 2 * kKeys + 2 * kAttentionWhole) +
                         2 * kKeys * kAttentionQueries;
  return jagged_attention_order_bytes(sequences, events) +
         jagged_attention_table_bytes(sequences, events, table_size) +
         num_threads() * (floats * 4 + kBiasBytes);
}

int64_t jagged_attention_step_scratch(int64_t width, bool biased) {
  expect_sizes({{"width", width}});
  return num_threads() * ((2 * round_up(width, 16) + kKeys) * 4 + (biased ? kAttentionBiasBytes : 0));
}

void jagged_attention_forward(const JaggedAttentionForwardArgs& args) {
  const Sizes s = expect_inputs(args.query, args.key, args.value);
  const int64_t sequences = expect_offsets(args.offsets, "offsets", s.events);
  expect_form(args, s.events, s.heads);
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
  const int64_t columns = expect_form(args, s.events, s.heads);
  expect(args.grad_output, "grad_output", dtype, {s.events, s.heads, s.width});
  if (!args.silu) {
    expect_packed(args.output, "output", dtype, {s.events, s.heads, s.width});
    expect_packed(args.lse, "lse", DType::f32, {s.events, s.heads});
  }
  expect_output(args.grad_query, "grad_query", dtype, {s.events, s.heads, s.width});
  expect_output(args.grad_key, "grad_key", dtype, {s.events, s.heads, s.width});
  expect_output(args.grad_value, "grad_value", dtype, {s.events, s.heads, s.width});
  expect_table_grad(args.position, args.grad_position, "grad_position");
  expect_table_grad(args.time_table, args.grad_time_table, "grad_time_table");
  expect_table_grad(args.distance_table, args.grad_distance_table, "grad_distance_table");
  const ScratchThreads threads(args.scratch, [&] {
    return jagged_attention_backward_scratch(sequences, s.events, s.width, s.heads * columns);
  });
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
  const bool biased = expect_form(args, keys, heads) > 0;
  expect_output(args.output, "output", dtype, {rows, heads, width});
  const ScratchThreads threads(args.scratch, [&] { return jagged_attention_step_scratch(width, biased); });
  kernels().jagged_attention_step(args);
}

}  // namespace chronorec
