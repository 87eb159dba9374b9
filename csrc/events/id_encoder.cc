#include "events/id_encoder.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace chronorec {
namespace {

constexpr int64_t kWindow = 1 << 16;  // rows looked up in parallel before the unknown ones are inserted
constexpr int64_t kBlock = 1 << 12;   // rows of one task
constexpr int64_t kAhead = 48;        // probes in flight: a table larger than the cache is bound by latency
constexpr int kFirstBits = 10;

void check_room(int64_t size) {
  expect_that(size < std::numeric_limits<int32_t>::max(), "ids", "fewer than 2^31 different ids", size);
}

// look_up(begin, end) fills codes with known codes or -1; insert(i) gives the code of row i, and prefetch(i)
// asks for what it will read.
template <typename LookUp, typename Prefetch, typename Insert>
void encode_windows(int64_t count, int32_t* codes, bool insert_unknown, LookUp look_up, Prefetch prefetch,
                    Insert insert) {
  for (int64_t start = 0; start < count; start += kWindow) {
    const int64_t end = std::min(count, start + kWindow);
    parallel_for((end - start + kBlock - 1) / kBlock, [&](int64_t task, int) {
      const int64_t begin = start + task * kBlock;
      look_up(begin, std::min(end, begin + kBlock));
    });
    if (interrupted()) return;
    if (!insert_unknown) continue;
    for (int64_t i = start; i < end; ++i) {
      if (i + kAhead < end && codes[i + kAhead] < 0) prefetch(i + kAhead);
      if (codes[i] < 0) codes[i] = insert(i);
    }
  }
}

}  // namespace

// ---- integers ------------------------------------------------------------------------------------------

IntEncoder::IntEncoder() : shift_(64 - kFirstBits), slots_(size_t{1} << kFirstBits) {}

// The upper half of the product spreads ids that lie on a stride or differ in few bits.
uint64_t IntEncoder::home(int64_t key) const {
  uint64_t word = static_cast<uint64_t>(key);
  word ^= word >> 32;
  return (word * kHashOdd) >> shift_;
}

int32_t IntEncoder::find(int64_t key) const {
  const uint64_t mask = slots_.size() - 1;
  for (uint64_t at = home(key);; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.inverse == 0 || slot.key == key) return ~slot.inverse;
  }
}

int32_t IntEncoder::find_or_insert(int64_t key) {
  if ((keys_.size() + 1) * 3 > slots_.size() * 2) grow();
  const uint64_t mask = slots_.size() - 1;
  uint64_t at = home(key);
  for (; slots_[at].inverse != 0; at = (at + 1) & mask)
    if (slots_[at].key == key) return ~slots_[at].inverse;
  check_room(size());
  keys_.push_back(key);  // first: memory may run out, and then the slot must not be taken
  const int32_t code = static_cast<int32_t>(keys_.size() - 1);
  slots_[at] = {key, ~code};
  return code;
}

void IntEncoder::grow() {
  decltype(slots_)(slots_.size() * 2).swap(slots_);
  --shift_;
  const uint64_t mask = slots_.size() - 1;
  for (size_t code = 0; code < keys_.size(); ++code) {
    if (code + kAhead < keys_.size()) __builtin_prefetch(&slots_[home(keys_[code + kAhead])], 1);
    uint64_t at = home(keys_[code]);
    while (slots_[at].inverse != 0) at = (at + 1) & mask;
    slots_[at] = {keys_[code], ~static_cast<int32_t>(code)};
  }
}

void IntEncoder::look_up(const int64_t* keys, int64_t count, int32_t* codes) const {
  for (int64_t i = 0; i < count; ++i) {
    __builtin_prefetch(&slots_[home(keys[std::min(i + kAhead, count - 1)])]);
    codes[i] = find(keys[i]);
  }
}

void IntEncoder::encode(const TensorView& keys, const TensorView& codes, bool insert) {
  expect_packed(keys, "keys", DType::i64, {kAnySize});
  expect_output(codes, "codes", DType::i32, {keys.shape[0]});
  const int64_t* in = keys.as<int64_t>();
  int32_t* out = codes.as<int32_t>();
  encode_windows(
      keys.shape[0], out, insert,
      [&](int64_t begin, int64_t end) { look_up(in + begin, end - begin, out + begin); },
      [&](int64_t i) { __builtin_prefetch(&slots_[home(in[i])], 1); },
      [&](int64_t i) { return find_or_insert(in[i]); });
}

void IntEncoder::copy_keys(const TensorView& output) const {
  expect_output(output, "output", DType::i64, {size()});
  std::copy(keys_.begin(), keys_.end(), output.as<int64_t>());
}

// ---- texts ---------------------------------------------------------------------------------------------

TextEncoder::TextEncoder() : mask_((size_t{1} << kFirstBits) - 1), slots_(mask_ + 1) {}

TextEncoder::Text TextEncoder::text_of(int32_t code) const {
  const int64_t begin = code == 0 ? 0 : ends_[static_cast<size_t>(code) - 1];
  return {bytes_.data() + begin, ends_[static_cast<size_t>(code)] - begin};
}

int32_t TextEncoder::find(Text text, uint64_t hash) const {
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  for (uint64_t at = hash & mask_;; at = (at + 1) & mask_) {
    const Slot& slot = slots_[at];
    if (slot.inverse == 0) return -1;
    if (slot.tag != tag) continue;
    const Text known = text_of(~slot.inverse);
    if (known.size == text.size &&
        (text.size == 0 || std::memcmp(known.data, text.data, static_cast<size_t>(text.size)) == 0))
      return ~slot.inverse;
  }
}

int32_t TextEncoder::find_or_insert(Text text) {
  const uint64_t hash = hash_of(text.data, text.size);
  const int32_t known = find(text, hash);
  if (known >= 0) return known;
  check_room(size());
  if ((ends_.size() + 1) * 3 > slots_.size() * 2) grow();
  uint64_t at = hash & mask_;
  while (slots_[at].inverse != 0) at = (at + 1) & mask_;
  ends_.push_back(num_bytes() + text.size);
  try {
    bytes_.insert(bytes_.end(), text.data, text.data + text.size);
  } catch (...) {  // memory ran out
    ends_.pop_back();
    throw;
  }
  const int32_t code = static_cast<int32_t>(ends_.size() - 1);
  slots_[at] = {static_cast<uint32_t>(hash >> 32), ~code};
  return code;
}

void TextEncoder::grow() {
  decltype(slots_)(slots_.size() * 2).swap(slots_);
  mask_ = slots_.size() - 1;
  for (int32_t code = 0; code < static_cast<int32_t>(ends_.size()); ++code) {
    const Text text = text_of(code);
    const uint64_t hash = hash_of(text.data, text.size);
    uint64_t at = hash & mask_;
    while (slots_[at].inverse != 0) at = (at + 1) & mask_;
    slots_[at] = {static_cast<uint32_t>(hash >> 32), ~code};
  }
}

void TextEncoder::encode(const TensorView& offsets, const TensorView& data, const TensorView& codes,
                         bool insert) {
  expect_packed(codes, "codes", DType::i32, {kAnySize});
  expect_output(codes, "codes", DType::i32, {kAnySize});
  const int64_t count = codes.shape[0];
  expect_packed(offsets, "offsets", DType::i64, {count + 1});
  expect_packed(data, "data", DType::u8, {kAnySize});
  const int64_t* ends = offsets.as<int64_t>();
  for (int64_t i = 0; i <= count; ++i)
    expect_that(ends[i] >= (i == 0 ? 0 : ends[i - 1]) && ends[i] <= data.shape[0], "offsets",
                "ascending offsets inside data", ends[i]);
  const char* bytes = data.as<char>();
  int32_t* out = codes.as<int32_t>();
  const auto text = [&](int64_t i) { return Text{bytes + ends[i], ends[i + 1] - ends[i]}; };
  encode_windows(
      count, out, insert,
      [&](int64_t begin, int64_t end) {
        uint64_t hashes[kAhead];
        for (int64_t start = begin; start < end; start += kAhead) {
          const int64_t batch = std::min(end - start, kAhead);
          for (int64_t i = 0; i < batch; ++i) {
            hashes[i] = hash_of(text(start + i).data, text(start + i).size);
            __builtin_prefetch(&slots_[hashes[i] & mask_]);
          }
          for (int64_t i = 0; i < batch; ++i) out[start + i] = find(text(start + i), hashes[i]);
        }
      },
      [&](int64_t i) { __builtin_prefetch(text(i).data); },
      [&](int64_t i) { return find_or_insert(text(i)); });
}

void TextEncoder::copy_keys(const TensorView& offsets, const TensorView& data) const {
  expect_output(offsets, "offsets", DType::i64, {size() + 1});
  expect_output(data, "data", DType::u8, {num_bytes()});
  offsets.as<int64_t>()[0] = 0;
  std::copy(ends_.begin(), ends_.end(), offsets.as<int64_t>() + 1);
  std::copy(bytes_.begin(), bytes_.end(), data.as<char>());
}

}  // namespace chronorec
