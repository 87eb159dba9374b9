// Ids to codes in order of first appearance. An encoder lives as long as the log is read and takes it piece
// by piece. Most ids of a piece are known already, so they are looked up in parallel, and only the rest is
// inserted by one thread, in order: codes do not depend on the thread count.
#pragma once
#include <string>
#include <vector>

#include "core/tensor_view.h"
#include "events/huge_pages.h"

namespace chronorec {

class IntEncoder {
 public:
  IntEncoder();
  // keys int64 [N] -> codes int32 [N]. Unknown keys get the next codes, or -1 if `insert` is false.
  void encode(const TensorView& keys, const TensorView& codes, bool insert);
  int64_t size() const { return static_cast<int64_t>(keys_.size()); }
  void copy_keys(const TensorView& output) const;  // int64 [size()], in order of code

 private:
  struct Slot {
    int64_t key;
    int32_t inverse;  // ~code; a free slot holds 0, whose inverse is -1
  };
  uint64_t home(int64_t key) const;
  int32_t find(int64_t key) const;
  int32_t find_or_insert(int64_t key);
  void grow();
  void look_up(const int64_t* keys, int64_t count, int32_t* codes) const;

  int shift_;  // 64 - log2(slots)
  std::vector<Slot, HugePages<Slot>> slots_;
  std::vector<int64_t> keys_;
};

class TextEncoder {
 public:
  TextEncoder();
  // UTF-8 texts as Arrow large strings: offsets int64 [N + 1] into data uint8 -> codes int32 [N].
  void encode(const TensorView& offsets, const TensorView& data, const TensorView& codes, bool insert);
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  int64_t num_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  void copy_keys(const TensorView& offsets, const TensorView& data) const;  // int64 [size() + 1], uint8

 private:
  struct Slot {
    uint32_t tag;     // upper half of the hash
    int32_t inverse;  // as above
  };
  struct Text {
    const char* data;
    int64_t size;
  };
  Text text_of(int32_t code) const;
  int32_t find(Text text, uint64_t hash) const;
  int32_t find_or_insert(Text text);
  void grow();

  uint64_t mask_;
  std::vector<Slot, HugePages<Slot>> slots_;
  std::vector<char> bytes_;
  std::vector<int64_t> ends_;
};

}  // namespace chronorec
