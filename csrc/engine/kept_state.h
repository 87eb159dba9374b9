// What a session keeps of a program between events: its floats as they are, or, where the program rounds them
// to bf16, their upper halves. Then nothing is lost on the way, and a state is the same whether its events
// came one by one or were replayed.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/program.h"

namespace chronorec {

class KeptState {
 public:
  explicit KeptState(const Program& program)
      : floats_(std::max<int64_t>(program.state_floats(), 1)),
        answer_(program.answer_state()),
        halves_(program.states() == DType::bf16) {}

  int64_t floats() const { return floats_; }
  int64_t bytes() const { return floats_ * (halves_ ? 2 : 4); }

  // The floats of a kept block for an event; `close` takes them back.
  float* open(void* kept) const { return halves_ ? widened(kept, 0, floats_) : static_cast<float*>(kept); }
  void close(const float* floats, void* kept) const {
    if (!halves_) return;
    auto* to = static_cast<uint16_t*>(kept);
    for (int64_t i = 0; i < floats_; ++i) {
      uint32_t bits;
      std::memcpy(&bits, floats + i, sizeof bits);
      to[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
  // The same where only an answer is asked for, which reads a part.
  const float* open_for_answer(void* kept) const {
    return halves_ ? widened(kept, answer_.place, answer_.width) : static_cast<float*>(kept);
  }

 private:
  float* widened(const void* kept, int64_t place, int64_t count) const {
    static thread_local std::vector<float> room;
    if (static_cast<int64_t>(room.size()) < floats_) room.resize(static_cast<size_t>(floats_));
    const auto* from = static_cast<const uint16_t*>(kept);
    for (int64_t i = place; i < place + count; ++i) {
      const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      std::memcpy(room.data() + i, &bits, sizeof bits);
    }
    return room.data();
  }

  int64_t floats_;
  Register answer_;
  bool halves_;
};

}  // namespace chronorec
