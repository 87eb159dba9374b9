#include "engine/replay.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/parallel.h"

namespace chronorec {

namespace {

// Codes are below `most`, or -1.
void expect_codes(const TensorView& codes, const char* name, int64_t first, int64_t step, int64_t most) {
  const int64_t size = codes.shape[0] * (codes.ndim == 2 ? codes.shape[1] : 1);
  for (int64_t i = first; i < size; i += step) {
    const int64_t code = codes.as<const int32_t>()[i];
    expect_that(code >= -1 && code < most, name, "codes of the model", code);
  }
}

}  // namespace

void replay(const Program& program, const ReplayArgs& args) {
  expect_that(program.answers(), "program", "one that answers", "an empty one");
  expect_packed(args.items, "items", DType::i32, {kAnySize});
  expect_ids(args.items, "items", program.most_items());
  const int64_t events = args.items.shape[0], histories = expect_offsets(args.offsets, "offsets", events);
  if (args.times) expect_packed(args.times, "times", DType::i64, {events});
  if (args.at) expect_packed(args.at, "at", DType::i64, {histories});
  const auto columns = static_cast<int64_t>(program.profile().size());
  if (args.types) {
    expect_packed(args.types, "types", DType::i32, {events});
    expect_codes(args.types, "types", 0, 1, program.most_types());
  }
  if (args.profile) {
    expect_packed(args.profile, "profile", DType::i32, {histories, columns});
    for (int64_t c = 0; c < columns; ++c)
      expect_codes(args.profile, "profile", c, columns, program.profile()[static_cast<size_t>(c)]);
  }
  const int64_t width = program.answer_width();
  expect_output(args.answers, "answers", DType::f32, {histories, width});
  const std::vector<int64_t> nowhen(static_cast<size_t>(args.times ? 0 : events));
  const int64_t* all_times = args.times ? args.times.as<const int64_t>() : nowhen.data();
  const auto* offsets = args.offsets.as<const int64_t>();
  const auto* items = args.items.as<const int32_t>();
  const auto* types = args.types.as<const int32_t>();
  const auto* profile = args.profile.as<const int32_t>();
  parallel_for(histories, [&](int64_t row, int) {
    static thread_local Workspace work;
    static thread_local std::vector<float> state;
    state.assign(static_cast<size_t>(std::max<int64_t>(program.state_floats(), 1)), 0.0f);
    const int64_t begin = offsets[row], count = offsets[row + 1] - begin;
    const int64_t* times = all_times + begin;
    for (int64_t i = 0; i < count; ++i)
      program.append({items[begin + i], times[i], i, times, types ? &types[begin + i] : nullptr},
                     state.data(), work);
    const int64_t at = args.at ? args.at.as<const int64_t>()[row] : 0;
    const int32_t* own = profile ? profile + row * columns : nullptr;
    const float* answer = program.answer({-1, at, count, times, own}, state.data(), work);
    std::memcpy(args.answers.as<float>() + row * width, answer, static_cast<size_t>(width) * sizeof(float));
  });
}

}  // namespace chronorec
