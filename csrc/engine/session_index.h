// From a user's id to the number of a session: a table of numbers alone, since the ids stand with the
// sessions.
#pragma once
#include <stdint.h>

#include <vector>

namespace chronorec {

class SessionIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  int64_t bytes() const { return static_cast<int64_t>(slots_.size() * sizeof(uint32_t)); }

  // The number under a hash for which same(number) holds, or kNone.
  template <typename Same>
  uint32_t find(uint32_t hash, Same&& same) const {
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      if (slots_[at] == kNone || same(slots_[at])) return slots_[at];
    }
  }

  // hash_of(number) gives the hash of what is already there.
  template <typename HashOf>
  void insert(uint32_t number, HashOf&& hash_of) {
    if (++used_ * 3 > slots_.size() * 2) grow(hash_of);
    put(number, hash_of(number));
  }

  // Fills the gap with what had to stand behind it.
  template <typename HashOf>
  void erase(uint32_t number, HashOf&& hash_of) {
    size_t gap = hash_of(number) & mask_;
    while (slots_[gap] != number) gap = (gap + 1) & mask_;
    for (size_t at = (gap + 1) & mask_; slots_[at] != kNone; at = (at + 1) & mask_) {
      const size_t home = hash_of(slots_[at]) & mask_;
      if (((at - home) & mask_) < ((at - gap) & mask_)) continue;  // it stands between its home and the gap
      slots_[gap] = slots_[at];
      gap = at;
    }
    slots_[gap] = kNone;
    --used_;
  }

 private:
  void put(uint32_t number, uint32_t hash) {
    size_t at = hash & mask_;
    while (slots_[at] != kNone) at = (at + 1) & mask_;
    slots_[at] = number;
  }
  template <typename HashOf>
  void grow(HashOf&& hash_of) {
    std::vector<uint32_t> old(2 * slots_.size(), kNone);
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const uint32_t number : old)
      if (number != kNone) put(number, hash_of(number));
  }

  std::vector<uint32_t> slots_ = std::vector<uint32_t>(16, kNone);
  size_t mask_ = 15, used_ = 0;
};

}  // namespace chronorec
