#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kBagsPerTask = 256;

void embed_bag(const float* table, const int32_t* items, int64_t count, int64_t width, float scale,
               float* out) {
  const float share = count > 0 ? scale / static_cast<float>(count) : 0;
  for (int64_t d = 0; d < width; d += kLanes) {
    vf total = splat(0);
    for (int64_t i = 0; i < count; ++i) total += load_some(table + items[i] * width + d, width - d);
    store_some(out + d, total * splat(share), width - d);
  }
}

}  // namespace

void embed(const EmbedArgs& args) {
  const int64_t bags = args.output.shape[0], width = args.output.shape[1];
  const int64_t* bag_offsets = args.bag_offsets.as<int64_t>();
  const int32_t* items = args.items.as<int32_t>();
  float* output = args.output.as<float>();
  parallel_for((bags + kBagsPerTask - 1) / kBagsPerTask, [&](int64_t task, int) {
    for (int64_t n = task * kBagsPerTask; n < min64(bags, (task + 1) * kBagsPerTask); ++n) {
      const int64_t begin = bag_offsets ? bag_offsets[n] : n, end = bag_offsets ? bag_offsets[n + 1] : n + 1;
      embed_bag(args.table.as<float>(), items + begin, end - begin, width, static_cast<float>(args.scale),
                output + n * width);
    }
  });
  if (!args.position) return;
  const int64_t* offsets = args.sequence_offsets.as<int64_t>();
  parallel_for(args.sequence_offsets.shape[0] - 1, [&](int64_t b, int) {
    float* row = output + offsets[b] * width;
    const float* position = args.position.as<float>();
    const int64_t size = (offsets[b + 1] - offsets[b]) * width;
    for (int64_t i = 0; i < size; i += kLanes)
      store_some(row + i, load_some(row + i, size - i) + load_some(position + i, size - i), size - i);
  });
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
