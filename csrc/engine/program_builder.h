// Makes a program of the steps of a model folder (python/chronorec/artifact.py says what they mean), whatever
// they were read with.
#pragma once
#include <stdint.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/program.h"

namespace chronorec {

// The fields of a step by their names; true and false are the numbers 1 and 0.
struct ProgramStep {
  std::map<std::string, std::string> texts;
  std::map<std::string, double> numbers;
};

// A model's weights by their names.
using WeightViews = std::map<std::string, TensorView>;

// Arrays that are made once and kept.
class OwnedArrays {
 public:
  TensorView make(DType dtype, const std::vector<int64_t>& shape);

 private:
  struct Free {
    void operator()(void* data) const;
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

// Whether a state can be kept from event to event for a program that sees the last max_length events. It
// cannot where the cut moves the events that it saw, or where a step looks back at all of them.
bool keeps_a_state(const std::vector<ProgramStep>& steps, int64_t max_length);

// Adds the steps to an empty program. Weights stay borrowed; packed copies go to `owned`, those of recurrent
// layers as float, bf16 or u8: `recurrent_weights`.
void build_program(const std::vector<ProgramStep>& steps, const WeightViews& weights, DType recurrent_weights,
                   OwnedArrays& owned, Program& program);

}  // namespace chronorec
