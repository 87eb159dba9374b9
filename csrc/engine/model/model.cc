#include "engine/model/model.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/check.h"
#include "engine/program_builder.h"
#include "ops.h"

namespace chronorec {
namespace {

using Json = nlohmann::json;

constexpr int64_t kFormat = 1, kMostElements = int64_t{1} << 40;
constexpr size_t kLengthBytes = 8;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

DType dtype_of(const std::string& name) {
  if (name == "F32") return DType::f32;
  if (name == "I32") return DType::i32;
  require(name == "I64", "wanted a weight of F32, I32 or I64, got " + name);
  return DType::i64;
}

// One array of a safetensors file, copied to where it is aligned.
TensorView read_weight(const Json& entry, const char* data, size_t size, OwnedArrays& owned) {
  const DType dtype = dtype_of(entry.at("dtype").get<std::string>());
  const auto shape = entry.at("shape").get<std::vector<int64_t>>();
  const auto place = entry.at("data_offsets").get<std::vector<uint64_t>>();
  require(shape.size() <= kMaxDims, "wanted a shape of at most 4");
  int64_t elements = 1;
  for (const int64_t length : shape) {
    require(length >= 0 && length <= kMostElements / std::max<int64_t>(elements, 1), "bad shape");
    elements *= length;
  }
  require(place.size() == 2 && place[0] <= place[1] && place[1] <= size, "data_offsets leave the file");
  const uint64_t bytes = place[1] - place[0];
  require(bytes == static_cast<uint64_t>(elements * size_of(dtype)), "data_offsets do not fit the shape");
  const TensorView weight = owned.make(dtype, shape);
  if (bytes > 0) std::memcpy(weight.data, data + place[0], bytes);
  return weight;
}

// The safetensors format: the length of a JSON header (8 bytes, little-endian), the header, the arrays.
WeightViews read_weights(const std::string& file, OwnedArrays& owned) {
  require(file.size() >= kLengthBytes, "too short");
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(file[i]);
  require(length <= file.size() - kLengthBytes, "the header leaves the file");
  const char* begin = file.data() + kLengthBytes;
  const char* data = begin + length;
  const Json header = Json::parse(begin, data);
  WeightViews weights;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__")
      weights[name] = read_weight(entry, data, file.size() - kLengthBytes - length, owned);
  return weights;
}

std::vector<ProgramStep> read_steps(const Json& program) {
  std::vector<ProgramStep> steps;
  for (const Json& fields : program) {
    ProgramStep& step = steps.emplace_back();
    for (const auto& [name, value] : fields.items()) {
      if (value.is_string()) step.texts[name] = value.get<std::string>();
      if (value.is_number()) step.numbers[name] = value.get<double>();
      if (value.is_boolean()) step.numbers[name] = value.get<bool>() ? 1 : 0;
    }
  }
  return steps;
}

// Does one part of the work; an error names the file.
template <typename Work>
auto naming(const std::string& path, const Work& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace

struct Model::Parts {
  Parts(DType weights, DType states) : recurrent_weights(weights), program(states) {}

  OwnedArrays owned;
  DType recurrent_weights;
  Program program;
  Scorer scorer;
  bool leave_seen = false;

  void read(const Json& header, const WeightViews& weights) {
    require(header.is_object() && header.value("kind", "") == "chronorec.model", "not a chronorec model");
    require(header.at("format").get<int64_t>() <= kFormat, "of a newer format");
    const auto steps = read_steps(header.at("program"));
    require(!header.at("basket").get<bool>() && header.at("adjustments").empty() &&
                keeps_a_state(steps, header.at("max_length").get<int64_t>()),
            "this model keeps no state from event to event; the Python engine answers for it");
    build_program(steps, weights, recurrent_weights, owned, program);
    leave_seen = header.at("exclude_seen").get<bool>();
    scorer.num_items = header.at("num_items").get<int64_t>();
    require(scorer.num_items >= 0, "num_items: wanted at least 0");
    require(program.has_last(), "program: wanted a step `last`");
    const TensorView table = weights.at(header.at("table").get<std::string>());
    expect_packed(table, "table", DType::f32, {scorer.num_items, program.answer_width()});
    expect_that(program.most_items() >= scorer.num_items, "program", scorer.num_items, program.most_items());
    scorer.panels = owned.make(DType::f32, {(scorer.num_items + 15) / 16, table.shape[1], 16});
    pack_panels({table, scorer.panels});
    if (header.at("bias").is_null()) return;
    scorer.bias = weights.at(header.at("bias").get<std::string>());
    expect_packed(scorer.bias, "bias", DType::f32, {scorer.num_items});
  }
};

Model::Model(const std::string& folder, DType recurrent_weights, DType states)
    : parts_(std::make_unique<Parts>(recurrent_weights, states)) {
  const std::string weights_file = folder + "/weights.safetensors", header_file = folder + "/model.json";
  const Json header = naming(header_file, [&] { return Json::parse(read_file(header_file)); });
  const WeightViews weights =
      naming(weights_file, [&] { return read_weights(read_file(weights_file), parts_->owned); });
  naming(header_file, [&] { parts_->read(header, weights); });
}

Model::~Model() = default;
const Program& Model::program() const { return parts_->program; }
const Scorer& Model::scorer() const { return parts_->scorer; }
bool Model::leave_seen() const { return parts_->leave_seen; }

}  // namespace chronorec
