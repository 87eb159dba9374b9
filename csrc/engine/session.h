// A session and the memory that it takes.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine/session_index.h"
#include "engine/session_store.h"

namespace chronorec {

// What an allocation takes: its length stands before it, and the whole is rounded up.
inline int64_t block_bytes(int64_t bytes) { return std::max<int64_t>((bytes + 8 + 15) / 16 * 16, 32); }

template <typename T>
T* allocate(int64_t count) {
  void* memory = std::calloc(static_cast<size_t>(count), sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<T*>(memory);
}

// Puts a value before the one at `place`, in memory with room for one more.
template <typename T>
void insert(T* values, uint32_t count, uint32_t place, T value) {
  std::copy_backward(values + place, values + count, values + count + 1);
  values[place] = value;
}

// What is kept of a user: events always, a state until memory is short.
struct Session {
  static constexpr uint32_t kNumber = UINT32_MAX;

  union {
    int64_t number;
    char* text;
  };
  uint32_t text_size;  // or kNumber
  uint32_t hash;
  int64_t* events = nullptr;  // times [capacity], then items int32 [capacity] and types, if kept, too
  uint32_t count = 0, capacity = 0;
  void* state = nullptr;
  uint32_t taken = 0;  // events that the state has seen
  uint32_t last_used = 0;
  uint32_t newer = SessionIndex::kNone,
           older = SessionIndex::kNone;  // in the list of sessions with a state, or of those without

  int64_t* times() const { return events; }
  int32_t* items() const { return reinterpret_cast<int32_t*>(events + capacity); }
  int32_t* types() const { return items() + capacity; }
  UserId user() const {
    return text_size == kNumber ? UserId{number, {}, false} : UserId{0, {text, text_size}, true};
  }
  bool is(const UserId& user) const {
    if (!user.is_text) return text_size == kNumber && number == user.number;
    return text_size == user.text.size() && std::memcmp(text, user.text.data(), text_size) == 0;
  }
};

// All sessions by number, in blocks that stay where they are.
class Sessions {
 public:
  Session& operator[](uint32_t n) { return blocks_[n / kBlock][n % kBlock]; }
  const Session& operator[](uint32_t n) const { return blocks_[n / kBlock][n % kBlock]; }
  uint32_t size() const { return size_; }
  int64_t bytes() const {
    return static_cast<int64_t>(blocks_.size()) * block_bytes(kBlock * sizeof(Session)) +
           static_cast<int64_t>(blocks_.capacity() * sizeof(blocks_[0]));
  }
  uint32_t add(const Session& session) {
    if (size_ % kBlock == 0) blocks_.emplace_back(new Session[kBlock]);
    (*this)[size_] = session;
    return size_++;
  }

 private:
  static constexpr uint32_t kBlock = 64;
  std::vector<std::unique_ptr<Session[]>> blocks_;
  uint32_t size_ = 0;
};

}  // namespace chronorec
