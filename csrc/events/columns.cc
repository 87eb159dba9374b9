// Column work around the grouping: gather, counts, duplicates.
#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "events/events.h"

namespace chronorec {
namespace {

constexpr int64_t kBlock = 1 << 16;

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

template <typename Value, typename Index>
void gather(const GatherEventsArgs& args) {
  const Value* values = args.values.as<Value>();
  const Index* order = args.order.as<Index>();
  Value* output = args.output.as<Value>();
  const int64_t count = args.order.shape[0], size = args.values.shape[0];
  std::atomic<bool> outside{false};
  parallel_for(blocks_of(count), [&](int64_t block, int) {
    const int64_t end = std::min(count, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; ++i) {
      const int64_t at = order[i];
      if (at < 0 || at >= size) {
        outside.store(true, std::memory_order_relaxed);
        return;
      }
      output[i] = values[at];
    }
  });
  expect_that(
      !outside.load(), "order", [&] { return "positions in [0, " + std::to_string(size) + ")"; }, "others");
}

template <typename Value>
void gather_by(const GatherEventsArgs& args) {
  args.order.dtype == DType::i32 ? gather<Value, int32_t>(args) : gather<Value, int64_t>(args);
}

using Content = std::tuple<int32_t, int64_t>;

// Repetitions inside one run of equal keys; runs are baskets, so mostly short.
int64_t repetitions(std::vector<Content>& run) {
  if (run.size() > 1) std::sort(run.begin(), run.end());
  int64_t count = 0;
  for (size_t i = 1; i < run.size(); ++i) count += run[i] == run[i - 1];
  return count;
}

int64_t duplicates_between(const CountDuplicatesArgs& args, int64_t begin, int64_t end) {
  const int64_t* key = args.key.as<int64_t>();
  const int32_t* item = args.item.as<int32_t>();
  const int64_t* extra = args.extra.as<int64_t>();
  std::vector<Content> run;
  int64_t count = 0;
  for (int64_t i = begin; i < end;) {
    int64_t j = i + 1;
    while (j < end && key[j] == key[i]) ++j;
    if (j - i > 1) {
      run.clear();
      for (int64_t k = i; k < j; ++k) run.emplace_back(item[k], extra == nullptr ? 0 : extra[k]);
      count += repetitions(run);
    }
    i = j;
  }
  return count;
}

}  // namespace

void gather_events(const GatherEventsArgs& args) {
  const DType index = args.order.dtype == DType::i32 ? DType::i32 : DType::i64;
  expect_packed(args.order, "order", index, {kAnySize});
  expect_packed(args.values, "values", args.values.dtype, {kAnySize});
  expect_output(args.output, "output", args.values.dtype, {args.order.shape[0]});
  switch (size_of(args.values.dtype)) {
    case 8:
      return gather_by<int64_t>(args);
    case 4:
      return gather_by<int32_t>(args);
    case 2:
      return gather_by<int16_t>(args);
    default:
      return gather_by<int8_t>(args);
  }
}

void count_codes(const CountCodesArgs& args) {
  expect_packed(args.codes, "codes", DType::i32, {kAnySize});
  expect_output(args.counts, "counts", DType::i64, {kAnySize});
  const int32_t* codes = args.codes.as<int32_t>();
  int64_t* counts = args.counts.as<int64_t>();
  const int64_t size = args.counts.shape[0];
  for (int64_t i = 0; i < args.codes.shape[0]; ++i) {
    if (i % kBlock == 0 && interrupted()) return;
    expect_that(codes[i] >= 0 && codes[i] < size, "codes", "codes inside counts", "others");
    ++counts[codes[i]];
  }
}

void count_duplicates(const CountDuplicatesArgs& args) {
  expect_packed(args.item, "item", DType::i32, {kAnySize});
  const int64_t events = args.item.shape[0];
  expect_packed(args.key, "key", DType::i64, {events});
  if (args.extra) expect_packed(args.extra, "extra", DType::i64, {events});
  const int64_t users = expect_offsets(args.offsets, "offsets", events);
  expect_output(args.duplicates, "duplicates", DType::i64, {1});
  const int64_t* offsets = args.offsets.as<int64_t>();
  const int64_t per_task = std::max<int64_t>(256, users / 1024);
  const int64_t tasks = (users + per_task - 1) / per_task;
  std::vector<int64_t> counts(static_cast<size_t>(tasks), 0);
  parallel_for(tasks, [&](int64_t task, int) {
    int64_t count = 0;
    for (int64_t u = task * per_task; u < std::min(users, (task + 1) * per_task); ++u)
      count += duplicates_between(args, offsets[u], offsets[u + 1]);
    counts[static_cast<size_t>(task)] = count;
  });
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  *args.duplicates.as<int64_t>() = total;
}

}  // namespace chronorec
