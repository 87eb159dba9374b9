// Checks, then the kernel of the selected level.
#include "core/check.h"
#include "cpu/kernels.h"

namespace chronorec {

void embed(const EmbedArgs& args) {
  expect_packed(args.table, "table", DType::f32, {kAnySize, kAnySize});
  const int64_t width = args.table.shape[1];
  expect_packed(args.items, "items", DType::i32, {kAnySize});
  expect_ids(args.items, "items", args.table.shape[0]);
  const int64_t items = args.items.shape[0];
  const int64_t bags = args.bag_offsets ? expect_offsets(args.bag_offsets, "bag_offsets", items) : items;
  if (args.position) {
    expect_packed(args.position, "position", DType::f32, {kAnySize, width});
    const int64_t sequences = expect_offsets(args.sequence_offsets, "sequence_offsets", bags);
    const int64_t* offsets = args.sequence_offsets.as<int64_t>();
    for (int64_t b = 0; b < sequences; ++b)
      expect_that(
          offsets[b + 1] - offsets[b] <= args.position.shape[0], "sequence_offsets",
          [&] { return "sequences of at most " + std::to_string(args.position.shape[0]); },
          offsets[b + 1] - offsets[b]);
  }
  expect_output(args.output, "output", DType::f32, {bags, width});
  kernels().embed(args);
}

}  // namespace chronorec
