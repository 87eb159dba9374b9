#include "engine/program.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "core/check.h"
#include "core/parallel.h"
#include "ops.h"

namespace chronorec {
namespace {

constexpr int64_t kAlignment = 64, kLineFloats = 16;

TensorView row_at(const float* rows, const Register& reg) {
  return view_of(rows + reg.place, DType::f32, {1, reg.width});
}

class Embed final : public Call {
 public:
  Embed(const TensorView& table, double scale, const Register& out)
      : table_(table), scale_(static_cast<float>(scale)), out_(out) {}
  void run(const Moment& moment, float* rows, float*, Workspace&) const override {
    const float* row = table_.as<const float>() + moment.item * table_.stride[0];
    for (int64_t j = 0; j < out_.width; ++j) rows[out_.place + j] = scale_ * row[j];
  }

 private:
  TensorView table_;
  float scale_;
  Register out_;
};

class LayerNorm final : public Call {
 public:
  LayerNorm(const Register& in, const TensorView& weight, const TensorView& bias, double epsilon,
            const Register& out)
      : in_(in), out_(out), weight_(weight), bias_(bias), epsilon_(epsilon) {}
  void run(const Moment&, float* rows, float*, Workspace&) const override {
    chronorec::layer_norm({row_at(rows, in_), weight_, bias_, epsilon_, row_at(rows, out_)});
  }

 private:
  Register in_, out_;
  TensorView weight_, bias_;
  double epsilon_;
};

class Dense final : public Call {
 public:
  Dense(const Register& in, const TensorView& packed, const TensorView& bias, const Register* residual,
        int64_t activation, const Register& out)
      : in_(in), out_(out), packed_(packed), bias_(bias), activation_(activation) {
    if (residual != nullptr) residual_ = *residual;
  }
  void run(const Moment&, float* rows, float*, Workspace&) const override {
    const TensorView residual = residual_.width == 0 ? TensorView{} : row_at(rows, residual_);
    chronorec::dense({row_at(rows, in_), packed_, bias_, residual, activation_, row_at(rows, out_)});
  }

 private:
  Register in_, out_, residual_ = {0, 0};
  TensorView packed_, bias_;
  int64_t activation_;
};

class Gru final : public Call {
 public:
  Gru(const Register& in, const TensorView& weight_ih, const TensorView& weight_hh, const TensorView& bias,
      const Register& out)
      : in_(in), out_(out), weight_ih_(weight_ih), weight_hh_(weight_hh), bias_(bias) {}
  void run(const Moment&, float* rows, float* state, Workspace& work) const override {
    const TensorView before = view_of(state, DType::f32, {1, out_.width}), after = row_at(rows, out_);
    gru_step({row_at(rows, in_),
              before,
              {},
              weight_ih_,
              weight_hh_,
              bias_,
              after,
              {},
              work.scratch(gru_step_scratch(out_.width))});
    std::memcpy(state, after.data, static_cast<size_t>(out_.width) * sizeof(float));
  }

 private:
  Register in_, out_;
  TensorView weight_ih_, weight_hh_, bias_;
};

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
    bytes = (wanted + kAlignment - 1) / kAlignment * kAlignment;
    data = std::aligned_alloc(kAlignment, static_cast<size_t>(bytes));
    if (data == nullptr) bytes = 0;
    if (data == nullptr) throw std::bad_alloc();
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

Register Program::next(int64_t width) {
  const Register out = {row_floats_, width};
  row_floats_ += (width + kLineFloats - 1) / kLineFloats * kLineFloats;
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
  expect(table, "table", DType::f32, {kAnySize, kAnySize});
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
  expect_packed(packed, "packed", DType::f32, {(bias.shape[0] + 15) / 16, from.width, 16});
  const Register out = next(bias.shape[0]);
  if (residual >= 0) expect_that(at(residual).width == out.width, "residual", out.width, at(residual).width);
  return add(
      std::make_unique<Dense>(from, packed, bias, residual < 0 ? nullptr : &at(residual), activation, out),
      out);
}

int64_t Program::gru(int64_t in, const TensorView& weight_ih, const TensorView& weight_hh,
                     const TensorView& bias, int64_t hidden_size) {
  const Register from = at(in), out = next(hidden_size);
  const int64_t panels = (hidden_size + 15) / 16;
  expect_packed(weight_ih, "weight_ih", DType::f32, {panels, 3, from.width, 16});
  expect_packed(weight_hh, "weight_hh", DType::f32, {panels, 3, hidden_size, 16});
  expect_packed(bias, "bias", DType::f32, {panels, 4, 16});
  return add(std::make_unique<Gru>(from, weight_ih, weight_hh, bias, out), out, hidden_size);
}

int64_t Program::last(int64_t in) {
  expect_that(last_ < 0, "call", "one `last`", "a second");
  at(in);
  last_ = answer_ = in;
  last_state_ = state_floats_;
  state_floats_ += at(in).width;
  return in;
}

void Program::append(const Moment& moment, float* state, Workspace& work) const {
  float* rows = work.rows(row_floats_);
  for (const Entry& entry : on_event_) entry.call->run(moment, rows, state + entry.state, work);
  if (last_ >= 0) {
    const Register& kept = at(last_);
    std::memcpy(state + last_state_, rows + kept.place, static_cast<size_t>(kept.width) * sizeof(float));
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
