// The calls of a program, each for one event.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/recurrent_tiles.h"
#include "engine/program.h"
#include "ops.h"

namespace chronorec {
namespace {

TensorView row_at(const float* rows, const Register& reg) {
  return view_of(rows + reg.place, DType::f32, {1, reg.width});
}

// Copies `count` floats to what a session keeps; to == from is fine.
inline void keep(const float* from, int64_t count, DType states, float* to) {
  if (states == DType::f32) {
    std::memmove(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    bits = nan ? bits | 0x00400000 : bits + 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
    bits &= 0xffff0000;
    std::memcpy(to + i, &bits, sizeof bits);
  }
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
  Dense(const Register& in, const TensorView& packed, const TensorView& bias, const Register& residual,
        int64_t activation, const Register& out)
      : in_(in), out_(out), residual_(residual), packed_(packed), bias_(bias), activation_(activation) {}
  void run(const Moment&, float* rows, float*, Workspace&) const override {
    const TensorView residual = residual_.width == 0 ? TensorView{} : row_at(rows, residual_);
    chronorec::dense({row_at(rows, in_), packed_, bias_, residual, activation_, row_at(rows, out_)});
  }

 private:
  Register in_, out_, residual_;
  TensorView packed_, bias_;
  int64_t activation_;
};

// A recurrent kernel for one step; the state is followed by the cell where there is one.
struct RecurrentKernel {
  const char* name;
  const RecurrentKind& kind;
  void (*step)(const RecurrentStepArgs&);
  int64_t (*scratch)(int64_t hidden_size);
};
constexpr RecurrentKernel kRecurrent[] = {{"gru", kGru, gru_step, gru_step_scratch},
                                          {"lstm", kLstm, lstm_step, lstm_step_scratch},
                                          {"rnn", kRnn, rnn_tanh_step, rnn_step_scratch}};

class Recurrent final : public Call {
 public:
  Recurrent(const RecurrentKernel& kernel, const Register& in, const TensorView& weight_ih,
            const TensorView& weight_hh, const TensorView& bias, DType states, const Register& out)
      : kernel_(kernel),
        in_(in),
        out_(out),
        weight_ih_(weight_ih),
        weight_hh_(weight_hh),
        bias_(bias),
        states_(states) {}
  void run(const Moment&, float* rows, float* state, Workspace& work) const override {
    const TensorView before = view_of(state, DType::f32, {1, out_.width}), after = row_at(rows, out_);
    const TensorView cell =
        kernel_.kind.cell ? view_of(state + out_.width, DType::f32, {1, out_.width}) : TensorView{};
    kernel_.step({row_at(rows, in_), before, cell, weight_ih_, weight_hh_, bias_, after, cell,
                  work.scratch(kernel_.scratch(out_.width))});
    keep(after.as<const float>(), out_.width, states_, state);
    if (kernel_.kind.cell) keep(state + out_.width, out_.width, states_, state + out_.width);
  }
  bool keeps_its_row() const override { return true; }

 private:
  const RecurrentKernel& kernel_;
  Register in_, out_;
  TensorView weight_ih_, weight_hh_, bias_;
  DType states_;
};

// Keys and values of the last events stand side by side in the state. There is room for some more than the
// window: only when it is used up do those of the window move to the front.
class Attention final : public Call {
 public:
  Attention(const AttentionForm& form, const Register& in, DType states, const Register& out)
      : form_(form), in_(in), out_(out), states_(states) {}

  static int64_t room(int64_t window) { return window + window / 8 + 8; }

  void run(const Moment& moment, float* rows, float* state, Workspace& work) const override {
    const int64_t width = out_.width, room = Attention::room(form_.window), size = width * room;
    const int64_t place = place_of(moment.taken);
    float *keys = state, *values = state + size;
    if (moment.taken >= room && place == form_.window - 1) {
      const int64_t kept = (form_.window - 1) * width;
      std::memmove(keys, keys + size - kept, static_cast<size_t>(kept) * sizeof(float));
      std::memmove(values, values + size - kept, static_cast<size_t>(kept) * sizeof(float));
    }
    const float* packed = rows + in_.place;
    keep(packed + width, width, states_, keys + place * width);
    keep(packed + 2 * width, width, states_, values + place * width);
    attend(moment, packed, keys, values, place, rows, work);
  }

 private:
  int64_t place_of(int64_t taken) const {
    const int64_t room = Attention::room(form_.window);
    return taken < room ? taken : form_.window - 1 + (taken - room) % (room - form_.window + 1);
  }

  void attend(const Moment& moment, const float* query, const float* keys, const float* values, int64_t place,
              float* rows, Workspace& work) const {
    const int64_t first = place < form_.window ? 0 : place - form_.window + 1, count = place + 1 - first;
    const int64_t heads = form_.heads, depth = out_.width / heads, offsets[] = {0, count};
    const bool timed = static_cast<bool>(form_.time_table);
    const TensorView times =
        timed ? view_of(moment.times + moment.taken + 1 - count, DType::i64, {count}) : TensorView{};
    jagged_attention_step({view_of(query, DType::f32, {1, heads, depth}),
                           view_of(keys + first * out_.width, DType::f32, {count, heads, depth}),
                           view_of(values + first * out_.width, DType::f32, {count, heads, depth}),
                           view_of(offsets, DType::i64, {2}),
                           form_.scale,
                           true,
                           form_.window,
                           form_.silu,
                           form_.divisor,
                           form_.position,
                           times,
                           form_.time_boundaries,
                           form_.time_table,
                           {},
                           {},
                           {},
                           view_of(rows + out_.place, DType::f32, {1, heads, depth}),
                           work.scratch(jagged_attention_step_scratch(depth, timed || form_.position))});
  }

  AttentionForm form_;
  Register in_, out_;
  DType states_;
};

class Multiply final : public Call {
 public:
  Multiply(const Register& in, const Register& by, const Register& residual, const Register& out)
      : in_(in), by_(by), out_(out), residual_(residual) {}
  void run(const Moment&, float* rows, float*, Workspace&) const override {
    for (int64_t j = 0; j < out_.width; ++j) {
      const float product = rows[in_.place + j] * rows[by_.place + j];
      rows[out_.place + j] = residual_.width == 0 ? product : product + rows[residual_.place + j];
    }
  }

 private:
  Register in_, by_, out_, residual_;
};

// Adds the row of a table that a time falls into.
class AddTime final : public Call {
 public:
  AddTime(const TimeBuckets& buckets, const Register& in, const Register& out)
      : buckets_(buckets), in_(in), out_(out) {}
  void run(const Moment& moment, float* rows, float*, Workspace&) const override {
    const float* row = buckets_.table.as<const float>() + bucket(value_of(moment)) * buckets_.table.stride[0];
    for (int64_t j = 0; j < out_.width; ++j) rows[out_.place + j] = rows[in_.place + j] + row[j];
  }

 private:
  int64_t value_of(const Moment& moment) const {
    if (!buckets_.gap) return moment.time;
    return moment.taken == 0 ? INT64_MAX : moment.time - moment.times[moment.taken - 1];
  }
  int64_t bucket(int64_t time) const {
    if (buckets_.gap) {
      const float* first = buckets_.boundaries.as<const float>();
      return std::upper_bound(first, first + buckets_.boundaries.shape[0], static_cast<float>(time)) - first;
    }
    const int64_t *first = buckets_.starts.as<const int64_t>(), count = buckets_.starts.shape[0];
    const int64_t zone = std::upper_bound(first, first + count, time) - first - 1;
    const int64_t local = time + buckets_.shifts.as<const int64_t>()[zone < 0 ? count - 1 : zone];
    const int64_t place = local % buckets_.period;
    return (place < 0 ? place + buckets_.period : place) * buckets_.table.shape[0] / buckets_.period;
  }

  TimeBuckets buckets_;
  Register in_, out_;
};

class AddCategory final : public Call {
 public:
  AddCategory(const TensorView& table, int64_t column, const Register& in, const Register& out)
      : table_(table), column_(column), in_(in), out_(out) {}
  void run(const Moment& moment, float* rows, float*, Workspace&) const override {
    const int64_t code = moment.codes == nullptr ? -1 : moment.codes[column_];
    const float* row = table_.as<const float>() + (code + 1) * table_.stride[0];
    for (int64_t j = 0; j < out_.width; ++j) rows[out_.place + j] = rows[in_.place + j] + row[j];
  }

 private:
  TensorView table_;
  int64_t column_;
  Register in_, out_;
};

}  // namespace
}  // namespace chronorec
