// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/kernels.h"
#include "ops/graph_checks.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

struct Sizes {
  int64_t neighbours, heads, width;
};

Sizes expect_inputs(const TensorView& features, const TensorView& source_score) {
  const DType dtype = features.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect_rows(features, "features", dtype, {kAnySize, kAnySize, kAnySize});
  const Sizes s = {features.shape[0], features.shape[1], features.shape[2]};
  expect_that(s.width > 0, "features", "a width of at least 1", "0");
  expect_packed(source_score, "source_score", DType::f32, {s.neighbours, s.heads});
  return s;
}

}  // namespace

int64_t graph_attention_scratch(int64_t rows, int64_t edges, int64_t heads, int64_t width) {
  expect_sizes({{"rows", rows}, {"edges", edges}, {"heads", heads}, {"width", width}});
  return plan_graph_attention(rows, edges, heads, width, num_threads()).floats() * 4;
}

int64_t graph_attention_backward_scratch(int64_t rows, int64_t neighbours, int64_t edges, int64_t heads,
                                         int64_t width) {
  expect_sizes(
      {{"rows", rows}, {"neighbours", neighbours}, {"edges", edges}, {"heads", heads}, {"width", width}});
  return plan_graph_attention_backward(rows, neighbours, edges, heads, width, num_threads()).floats() * 4;
}

void graph_attention_forward(const GraphAttentionForwardArgs& args) {
  const Sizes s = expect_inputs(args.features, args.source_score);
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, s.neighbours);
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  expect_packed(args.destination_score, "destination_score", DType::f32, {rows, s.heads});
  if (args.edge_score) expect_packed(args.edge_score, "edge_score", DType::f32, {edges, s.heads});
  expect_output(args.output, "output", args.features.dtype, {rows, s.heads, s.width});
  expect_output(args.softmax, "softmax", DType::f32, {rows, 2, s.heads});
  const ScratchThreads threads(args.scratch,
                               [&] { return graph_attention_scratch(rows, edges, s.heads, s.width); });
  kernels().graph_attention_forward(args);
}

void graph_attention_backward(const GraphAttentionBackwardArgs& args) {
  const Sizes s = expect_inputs(args.features, args.source_score);
  const DType dtype = args.features.dtype;
  expect_packed(args.rows, "rows", args.rows.dtype == DType::i64 ? DType::i64 : DType::i32, {kAnySize});
  const int64_t edges = args.rows.shape[0];
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  expect_that(
      expect_offsets(args.transposed_offsets, "transposed_offsets", edges) == s.neighbours,
      "transposed_offsets", [&] { return std::to_string(s.neighbours) + " rows"; },
      args.transposed_offsets.shape[0] - 1);
  expect_graph_ids(args.rows, "rows", edges, rows);
  expect_graph_ids(args.edges, "edges", edges, edges, &args.rows);
  expect_rows(args.grad_output, "grad_output", dtype, {rows, s.heads, s.width});
  expect_packed(args.destination_score, "destination_score", DType::f32, {rows, s.heads});
  if (args.edge_score) expect_packed(args.edge_score, "edge_score", DType::f32, {edges, s.heads});
  expect_packed(args.output, "output", dtype, {rows, s.heads, s.width});
  expect_packed(args.softmax, "softmax", DType::f32, {rows, 2, s.heads});
  expect_output(args.grad_features, "grad_features", dtype, {s.neighbours, s.heads, s.width});
  expect_output(args.grad_source_score, "grad_source_score", DType::f32, {s.neighbours, s.heads});
  expect_output(args.grad_destination_score, "grad_destination_score", DType::f32, {rows, s.heads});
  expect_output(args.grad_edge_score, "grad_edge_score", DType::f32, {edges, s.heads});
  const ScratchThreads threads(args.scratch, [&] {
    return graph_attention_backward_scratch(rows, s.neighbours, edges, s.heads, s.width);
  });
  kernels().graph_attention_backward(args);
}

}  // namespace chronorec
