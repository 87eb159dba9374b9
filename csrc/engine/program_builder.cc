#include "engine/program_builder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "core/check.h"
#include "cpu/recurrent_tiles.h"
#include "ops.h"

namespace chronorec {
namespace {

constexpr int64_t kWholeHistory = INT32_MAX;
constexpr double kMostWhole = 9007199254740992.0;  // 2^53: whole numbers up to it are exact
constexpr size_t kAlignment = 64;

struct Recurrence {
  const RecurrentKind& kind;
  void (*pack)(const RecurrentPackArgs&);
};
const std::map<std::string, Recurrence> kRecurrences = {
    {"gru", {kGru, gru_pack}}, {"lstm", {kLstm, lstm_pack}}, {"rnn", {kRnn, rnn_pack}}};
const char* const kActivations[] = {"none", "relu", "gelu", "silu", "sigmoid", "tanh"};

// One step and what came before it.
class Step {
 public:
  Step(const ProgramStep& step, const WeightViews& weights, DType recurrent_weights, OwnedArrays& owned,
       Program& program, std::map<std::string, int64_t>& registers)
      : step_(step),
        weights_(weights),
        recurrent_weights_(recurrent_weights),
        owned_(owned),
        program_(program),
        registers_(registers) {}

  void add() {
    const std::string& call = text("call");
    const auto found = kAdders.find(call);
    expect_that(found != kAdders.end(), "call", "one that goes on from event to event", call);
    const int64_t written = (this->*found->second)();
    if (call == "last") registers_.clear();  // what came before it belongs to the last event
    registers_[text("out")] = written;
  }

 private:
  using Adder = int64_t (Step::*)();

  bool has(const char* key) const { return step_.texts.count(key) + step_.numbers.count(key) > 0; }
  const std::string& text(const char* key) const {
    const auto found = step_.texts.find(key);
    expect_that(found != step_.texts.end(), key, "a text", "none");
    return found->second;
  }
  double number(const char* key) const {
    const auto found = step_.numbers.find(key);
    expect_that(found != step_.numbers.end(), key, "a number", "none");
    return found->second;
  }
  int64_t whole(const char* key) const {
    const double value = number(key);
    expect_that(std::fabs(value) <= kMostWhole && value == std::floor(value), key, "a whole number",
                [&] { return std::to_string(value); });
    return static_cast<int64_t>(value);
  }
  int64_t source(const char* key = "in") const {
    const auto found = registers_.find(text(key));
    expect_that(found != registers_.end(), key, "a register that was written", text(key));
    return found->second;
  }
  int64_t residual() const { return has("residual") ? source("residual") : -1; }

  TensorView named(const std::string& name) const {
    const auto found = weights_.find(name);
    expect_that(found != weights_.end(), "weights", name, "none of that name");
    return found->second;
  }
  TensorView matrix(const char* key) const {
    const TensorView view = named(text(key));
    expect_packed(view, key, DType::f32, {kAnySize, kAnySize});
    return view;
  }
  TensorView vector(const char* key) const {
    const TensorView view = named(text(key));
    expect_packed(view, key, DType::f32, {kAnySize});
    return view;
  }
  TensorView matrix_or_none(const char* key) const { return has(key) ? matrix(key) : TensorView{}; }

  int64_t embed() { return program_.embed(matrix("table"), number("scale")); }

  int64_t layer_norm() {
    return program_.layer_norm(source(), vector("weight"), vector("bias"), number("epsilon"));
  }

  int64_t dense() {
    const std::string name = has("activation") ? text("activation") : "none";
    const auto* found = std::find(std::begin(kActivations), std::end(kActivations), name);
    expect_that(found != std::end(kActivations), "activation", "none, relu, gelu, silu, sigmoid or tanh",
                name);
    const TensorView rows = matrix("weight");
    const TensorView packed =
        owned_.make(DType::f32, {ceil_div(rows.shape[0], kUnitPanel), rows.shape[1], kUnitPanel});
    pack_panels({rows, packed});
    return program_.dense(source(), packed, vector("bias"), residual(), found - std::begin(kActivations));
  }

  int64_t recurrent() {
    const Recurrence& cell = kRecurrences.at(text("call"));
    const TensorView ih = matrix("weight_ih"), hh = matrix("weight_hh");
    const int64_t panels = padded_units(hh.shape[1]) / kUnitPanel;
    const auto room = [&](const TensorView& weight) {
      const int64_t depth = panel_depth(recurrent_weights_, weight.shape[1]);
      return owned_.make(recurrent_weights_, {panels, cell.kind.gates, depth, kUnitPanel});
    };
    const TensorView packed_ih = room(ih), packed_hh = room(hh);
    const TensorView bias = owned_.make(DType::f32, {panels, cell.kind.slots, kUnitPanel});
    cell.pack({ih, hh, vector("bias_ih"), vector("bias_hh"), packed_ih, packed_hh, bias});
    return program_.recurrent(text("call"), source(), packed_ih, packed_hh, bias, hh.shape[1]);
  }

  int64_t attention() {
    const int64_t heads = whole("heads"), width = program_.width_of(source()) / 3;
    expect_that(heads > 0, "heads", "at least 1", heads);
    const TensorView time_table = matrix_or_none("time_table");
    const std::string activation = has("activation") ? text("activation") : "softmax";
    return program_.attention(
        source(), {heads, whole("window"), 1 / std::sqrt(static_cast<double>(width / heads)),
                   activation == "silu", has("divisor") ? number("divisor") : 1.0, matrix_or_none("position"),
                   time_table ? vector("time_boundaries") : TensorView{}, time_table});
  }

  int64_t multiply() { return program_.multiply(source(), source("by"), residual()); }

  int64_t add_time() {
    const TensorView table = matrix("table");
    if (text("of") == "gap" || text("of") == "wait")
      return program_.add_time(source(), {true, table, vector("boundaries"), 0, {}, {}});
    const TensorView starts = named(text("zone") + "_starts"), shifts = named(text("zone") + "_shifts");
    return program_.add_time(source(), {false, table, {}, whole("period"), starts, shifts});
  }

  int64_t add_category() {
    const char* wanted = program_.has_last() ? "profile" : "event_type";
    expect_that(text("of") == wanted, "of", wanted, text("of"));
    return program_.add_category(source(), matrix("table"), program_.has_last() ? whole("column") : 0);
  }

  int64_t last() { return program_.last(source()); }

  static const std::map<std::string, Adder> kAdders;

  const ProgramStep& step_;
  const WeightViews& weights_;
  DType recurrent_weights_;
  OwnedArrays& owned_;
  Program& program_;
  std::map<std::string, int64_t>& registers_;
};

const std::map<std::string, Step::Adder> Step::kAdders = {{"embed", &Step::embed},
                                                          {"layer_norm", &Step::layer_norm},
                                                          {"dense", &Step::dense},
                                                          {"gru", &Step::recurrent},
                                                          {"lstm", &Step::recurrent},
                                                          {"rnn", &Step::recurrent},
                                                          {"attention", &Step::attention},
                                                          {"multiply", &Step::multiply},
                                                          {"add_time", &Step::add_time},
                                                          {"add_category", &Step::add_category},
                                                          {"last", &Step::last}};

std::string text_or_nothing(const ProgramStep& step, const char* key) {
  const auto found = step.texts.find(key);
  return found == step.texts.end() ? "" : found->second;
}

double number_or(const ProgramStep& step, const char* key, double otherwise) {
  const auto found = step.numbers.find(key);
  return found == step.numbers.end() ? otherwise : found->second;
}

}  // namespace

void OwnedArrays::Free::operator()(void* data) const { std::free(data); }

TensorView OwnedArrays::make(DType dtype, const std::vector<int64_t>& shape) {
  TensorView view;
  view.dtype = dtype;
  view.ndim = static_cast<int32_t>(shape.size());
  int64_t bytes = size_of(dtype);
  for (int64_t d = view.ndim - 1; d >= 0; --d) {
    view.shape[d] = shape[static_cast<size_t>(d)];
    view.stride[d] = bytes / size_of(dtype);
    if (__builtin_mul_overflow(bytes, view.shape[d], &bytes)) throw std::bad_alloc();
  }
  const size_t room = (static_cast<size_t>(bytes) / kAlignment + 1) * kAlignment;
  view.data = std::aligned_alloc(kAlignment, room);
  if (view.data == nullptr) throw std::bad_alloc();
  blocks_.emplace_back(view.data);
  return view;
}

bool keeps_a_state(const std::vector<ProgramStep>& steps, int64_t max_length) {
  int64_t memory = 1, before = 0;  // of the last events, and one more where a gap asks for it
  for (const ProgramStep& step : steps) {
    const std::string call = text_or_nothing(step, "call");
    if (call == "embed" && step.texts.count("position") + step.texts.count("query") > 0) return false;
    if (number_or(step, "causal", 1) == 0) return false;
    if (kRecurrences.count(call) > 0) memory = kWholeHistory;
    if (call == "attention")
      memory += static_cast<int64_t>(std::clamp(number_or(step, "window", kWholeHistory), 1.0, 1e9)) - 1;
    if (text_or_nothing(step, "of") == "gap") before = 1;
  }
  return !steps.empty() && max_length >= std::min(memory + before, kWholeHistory);
}

void build_program(const std::vector<ProgramStep>& steps, const WeightViews& weights, DType recurrent_weights,
                   OwnedArrays& owned, Program& program) {
  std::map<std::string, int64_t> registers;
  for (const ProgramStep& step : steps)
    Step(step, weights, recurrent_weights, owned, program, registers).add();
}

}  // namespace chronorec
