// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/kernels.h"
#include "ops/graph_checks.h"
#include "ops/scratch.h"

namespace chronorec {
namespace {

DType float_of(const TensorView& view) { return view.dtype == DType::bf16 ? DType::bf16 : DType::f32; }

}  // namespace

int64_t graph_transpose_scratch(int64_t neighbours, int64_t edges) {
  expect_sizes({{"neighbours", neighbours}, {"edges", edges}});
  return graph_chunks(edges, num_threads()) * (neighbours + 1) * 8;
}

void graph_transpose(const GraphTransposeArgs& args) {
  expect_output(args.transposed_offsets, "transposed_offsets", DType::i64, {kAnySize});
  const int64_t neighbours = args.transposed_offsets.shape[0] - 1;
  expect_that(neighbours >= 0, "transposed_offsets", "at least one offset", "none");
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, neighbours);
  expect_countable(args.neighbours, "neighbours");
  expect_offsets(args.offsets, "offsets", edges);
  expect_output(args.rows, "rows", args.neighbours.dtype, {edges});
  expect_output(args.edges, "edges", args.neighbours.dtype, {edges});
  const ScratchThreads threads(args.scratch, [&] { return graph_transpose_scratch(neighbours, edges); });
  kernels().graph_transpose(args);
}

int64_t graph_scratch(int64_t rows, int64_t edges, int64_t width) {
  expect_sizes({{"rows", rows}, {"edges", edges}, {"width", width}});
  return graph_slots(rows, edges) * graph_pitch(width) * 4;
}

void graph_sum(const GraphSumArgs& args) {
  expect(args.features, "features", float_of(args.features), {kAnySize, kAnySize});
  const int64_t num_neighbours = args.features.shape[0], width = args.features.shape[1];
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, num_neighbours);
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  if (args.edges) expect_graph_ids(args.edges, "edges", edges, edges, &args.neighbours);
  expect_scale(args.weight, "weight", edges);
  expect_scale(args.row_scale, "row_scale", rows);
  expect_scale(args.neighbour_scale, "neighbour_scale", num_neighbours);
  expect_output(args.output, "output", args.features.dtype, {rows, width});
  expect_scratch(args.scratch, "scratch", graph_scratch(rows, edges, width));
  kernels().graph_sum(args);
}

void graph_dot(const GraphDotArgs& args) {
  expect(args.left, "left", float_of(args.left), {kAnySize, kAnySize});
  expect(args.right, "right", args.left.dtype, {kAnySize, args.left.shape[1]});
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, args.right.shape[0]);
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  expect_that(
      rows == args.left.shape[0], "left", [&] { return std::to_string(rows) + " rows"; }, args.left.shape[0]);
  expect_scale(args.row_scale, "row_scale", rows);
  expect_scale(args.neighbour_scale, "neighbour_scale", args.right.shape[0]);
  expect_output(args.output, "output", DType::f32, {edges});
  kernels().graph_dot(args);
}

void graph_max(const GraphMaxArgs& args) {
  expect(args.features, "features", float_of(args.features), {kAnySize, kAnySize});
  const int64_t width = args.features.shape[1];
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, args.features.shape[0]);
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  const int64_t* offsets = args.offsets.as<int64_t>();
  if (edges > INT32_MAX)
    for (int64_t row = 0; row < rows; ++row)
      expect_that(offsets[row + 1] - offsets[row] <= INT32_MAX, "offsets", "rows of less than 2^31 edges",
                  offsets[row + 1] - offsets[row]);
  expect_scale(args.weight, "weight", edges);
  expect_output(args.output, "output", args.features.dtype, {rows, width});
  expect_output(args.arg, "arg", DType::i32, {rows, width});
  expect_scratch(args.scratch, "scratch", graph_scratch(rows, edges, 2 * graph_pitch(width)));
  kernels().graph_max(args);
}

void graph_max_backward(const GraphMaxBackwardArgs& args) {
  expect(args.features, "features", float_of(args.features), {kAnySize, kAnySize});
  const int64_t num_neighbours = args.features.shape[0], width = args.features.shape[1];
  const int64_t edges = expect_graph_ids(args.neighbours, "neighbours", kAnySize, num_neighbours);
  const int64_t rows = expect_offsets(args.offsets, "offsets", edges);
  expect(args.grad_output, "grad_output", args.features.dtype, {rows, width});
  expect_scale(args.weight, "weight", edges);
  expect_that(
      expect_offsets(args.transposed_offsets, "transposed_offsets", edges) == num_neighbours,
      "transposed_offsets", [&] { return std::to_string(num_neighbours) + " rows"; },
      args.transposed_offsets.shape[0] - 1);
  expect_graph_ids(args.rows, "rows", edges, rows, &args.neighbours);
  expect_graph_ids(args.edges, "edges", edges, edges, &args.neighbours);
  expect_packed(args.arg, "arg", DType::i32, {rows, width});
  expect_output(args.grad_features, "grad_features", args.features.dtype, {num_neighbours, width});
  if (args.grad_weight) expect_output(args.grad_weight, "grad_weight", DType::f32, {edges});
  expect_scratch(args.scratch, "scratch", graph_scratch(num_neighbours, edges, width));
  kernels().graph_max_backward(args);
}

}  // namespace chronorec
