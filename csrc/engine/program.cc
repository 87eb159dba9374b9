#include "engine/program.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "core/check.h"
#include "engine/calls.h"

namespace chronorec {
namespace {

constexpr int64_t kAlignment = 64, kLineFloats = 16, kMostWindow = 1 << 24;
constexpr int64_t kMostProfile = 1024;

}  // namespace

TensorView view_of(const void* data, DType dtype, std::initializer_list<int64_t> shape) {
  TensorView view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  for (const int64_t size : shape) view.shape[view.ndim++] = size;
  for (int64_t d = view.ndim - 1, step = 1; d >= 0; step *= view.shape[d--]) view.stride[d] = step;
  return view;
}

Workspace::~Workspace() {
  std::free(rows_.data);
  std::free(scratch_.data);
}

void* Workspace::Block::at_least(int64_t wanted) {
  if (wanted > bytes) {
    std::free(data);
    bytes = round_up(wanted, kAlignment);
    data = std::aligned_alloc(kAlignment, static_cast<size_t>(bytes));
    if (data == nullptr) {
      bytes = 0;
      throw std::bad_alloc();
    }
  }
  return data;
}

TensorView Workspace::scratch(int64_t bytes) {
  return view_of(scratch_.at_least(bytes > 0 ? bytes : 1), DType::u8, {bytes});
}

const Register& Program::at(int64_t reg) const {
  expect_that(
      reg >= 0 && reg < static_cast<int64_t>(registers_.size()), "register",
      [&] { return "one of the " + std::to_string(registers_.size()) + " written so far"; }, reg);
  return registers_[static_cast<size_t>(reg)];
}

Register Program::residual_of(int64_t reg, int64_t width) const {
  if (reg < 0) return {0, 0};
  expect_that(at(reg).width == width, "residual", width, at(reg).width);
  return at(reg);
}

Register Program::next(int64_t width) {
  const Register out = {row_floats_, width};
  row_floats_ += round_up(width, kLineFloats);
  return out;
}

int64_t Program::add(std::unique_ptr<Call> call, const Register& out, int64_t state_floats) {
  expect_that(last_ < 0 || state_floats == 0, "call", "no memory of events after `last`", "one that has");
  (last_ < 0 ? on_event_ : on_answer_).push_back({std::move(call), state_floats_});
  state_floats_ += state_floats;
  registers_.push_back(out);
  return answer_ = static_cast<int64_t>(registers_.size()) - 1;
}

int64_t Program::embed(const TensorView& table, double scale) {
  expect_that(last_ < 0, "call", "`embed` before `last`", "after it");
  expect(table, "table", DType::f32, {kAnySize, kAnySize});
  if (table.shape[0] < most_items_) most_items_ = table.shape[0];
  const Register out = next(table.shape[1]);
  return add(std::make_unique<Embed>(table, scale, out), out);
}

int64_t Program::layer_norm(int64_t in, const TensorView& weight, const TensorView& bias, double epsilon) {
  const Register from = at(in), out = next(from.width);
  expect_packed(weight, "weight", DType::f32, {from.width});
  if (bias) expect_packed(bias, "bias", DType::f32, {from.width});
  return add(std::make_unique<LayerNorm>(from, weight, bias, epsilon, out), out);
}

int64_t Program::dense(int64_t in, const TensorView& packed, const TensorView& bias, int64_t residual,
                       int64_t activation) {
  const Register from = at(in);
  expect_packed(bias, "bias", DType::f32, {kAnySize});
  expect_packed(packed, "packed", DType::f32, {ceil_div(bias.shape[0], kUnitPanel), from.width, kUnitPanel});
  const Register added = residual_of(residual, bias.shape[0]), out = next(bias.shape[0]);
  return add(std::make_unique<Dense>(from, packed, bias, added, activation, out), out);
}

int64_t Program::recurrent(const std::string& name, int64_t in, const TensorView& weight_ih,
                           const TensorView& weight_hh, const TensorView& bias, int64_t hidden_size) {
  const RecurrentKernel* kernel = nullptr;
  for (const RecurrentKernel& one : kRecurrent)
    if (name == one.name) kernel = &one;
  expect_that(kernel != nullptr, "kind", "gru, lstm or rnn", name);
  expect_that(hidden_size > 0, "hidden_size", "at least 1", hidden_size);
  const Register from = at(in), out = next(hidden_size);
  const RecurrentKind& kind = kernel->kind;
  const int64_t panels = padded_units(hidden_size) / kUnitPanel;
  const DType packed = weight_hh.dtype;
  expect_that(packed == DType::f32 || packed == DType::bf16 || packed == DType::u8, "weight_hh",
              "float32, bfloat16 or uint8", "another type");
  expect_packed(weight_ih, "weight_ih", packed,
                {panels, kind.gates, panel_depth(packed, from.width), kUnitPanel});
  expect_packed(weight_hh, "weight_hh", packed,
                {panels, kind.gates, panel_depth(packed, hidden_size), kUnitPanel});
  expect_packed(bias, "bias", DType::f32, {panels, kind.slots, kUnitPanel});
  return add(std::make_unique<Recurrent>(*kernel, from, weight_ih, weight_hh, bias, states_, out), out,
             hidden_size * (kind.cell ? 2 : 1));
}

int64_t Program::attention(int64_t in, const AttentionForm& form) {
  const Register from = at(in);
  expect_that(form.heads > 0 && from.width % (3 * form.heads) == 0, "heads", "a third of the width's divisor",
              form.heads);
  expect_that(form.window > 0 && form.window < kMostWindow, "window", "a whole number from 1 to 2^24",
              form.window);
  const Register out = next(from.width / 3);
  return add(std::make_unique<Attention>(form, from, states_, out), out,
             2 * out.width * Attention::room(form.window));
}

int64_t Program::multiply(int64_t in, int64_t by, int64_t residual) {
  const Register from = at(in), added = residual_of(residual, from.width);
  expect_that(at(by).width == from.width, "by", from.width, at(by).width);
  const Register out = next(from.width);
  return add(std::make_unique<Multiply>(from, at(by), added, out), out);
}

int64_t Program::add_time(int64_t in, const TimeBuckets& buckets) {
  const Register from = at(in), out = next(from.width);
  expect(buckets.table, "table", DType::f32, {kAnySize, from.width});
  const int64_t rows = buckets.table.shape[0];
  expect_that(rows > 0, "table", "at least one row", "none");
  if (buckets.gap) {
    expect_packed(buckets.boundaries, "boundaries", DType::f32, {rows - 1});
  } else {
    expect_packed(buckets.starts, "starts", DType::i64, {kAnySize});
    expect_packed(buckets.shifts, "shifts", DType::i64, {buckets.starts.shape[0]});
    expect_that(buckets.starts.shape[0] > 0, "starts", "at least one", "none");
    expect_that(buckets.period > 0 && buckets.period <= INT64_MAX / rows, "period",
                "at least 1, and times the rows of the table within 63 bits", buckets.period);
  }
  return add(std::make_unique<AddTime>(buckets, from, out), out);
}

int64_t Program::add_category(int64_t in, const TensorView& table, int64_t column) {
  const Register from = at(in), out = next(from.width);
  expect(table, "table", DType::f32, {kAnySize, from.width});
  expect_that(table.shape[0] > 0, "table", "at least one row", "none");
  expect_that(column >= 0 && column < (last_ < 0 ? 1 : kMostProfile), "column",
              "0 before `last`, up to 1023 after it", column);
  const int64_t most = table.shape[0] - 1;
  if (last_ < 0) {
    most_types_ = std::min(most_types_, most);
  } else {
    const auto place = static_cast<size_t>(column);
    if (profile_.size() <= place) profile_.resize(place + 1, INT32_MAX);
    profile_[place] = std::min(profile_[place], most);
  }
  return add(std::make_unique<AddCategory>(table, column, from, out), out);
}

int64_t Program::last(int64_t in) {
  expect_that(last_ < 0, "call", "one `last`", "a second");
  at(in);
  last_ = answer_ = in;
  const Entry& writer = on_event_[static_cast<size_t>(in)];  // every call before `last` writes one register
  last_state_ = writer.call->keeps_its_row() ? writer.state : state_floats_;
  if (last_state_ == state_floats_) state_floats_ += at(in).width;
  return in;
}

void Program::append(const Moment& moment, float* state, Workspace& work) const {
  float* rows = work.rows(row_floats_);
  for (const Entry& entry : on_event_) entry.call->run(moment, rows, state + entry.state, work);
  if (last_ >= 0) {
    const Register& kept = at(last_);
    keep(rows + kept.place, kept.width, states_, state + last_state_);
  }
}

const float* Program::answer(const Moment& moment, const float* state, Workspace& work) const {
  float* rows = work.rows(row_floats_);
  if (last_ >= 0) {
    const Register& kept = at(last_);
    std::memcpy(rows + kept.place, state + last_state_, static_cast<size_t>(kept.width) * sizeof(float));
  }
  for (const Entry& entry : on_answer_) entry.call->run(moment, rows, nullptr, work);
  return rows + at(answer_).place;
}

}  // namespace chronorec
