// Hashes of ids by multiplication (after wyhash).
#pragma once
#include <stdint.h>

#include <cstring>

namespace chronorec {

constexpr uint64_t kHashOdd = 0x9e3779b97f4a7c15u;

inline uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Of bytes; with a seed that nobody outside knows, nobody outside can choose texts that collide.
inline uint64_t hash_of(const char* data, int64_t size, uint64_t seed = 0) {
  constexpr uint64_t kOther = 0xe7037ed1a0b428dbu;
  const auto load = [](const char* from, int64_t count) {
    uint64_t word = 0;
    std::memcpy(&word, from, static_cast<size_t>(count));
    return word;
  };
  uint64_t hash = kHashOdd ^ seed ^ static_cast<uint64_t>(size);
  for (; size > 8; data += 8, size -= 8) hash = mix(hash ^ load(data, 8), kOther);
  return mix(hash ^ load(data, size), kOther);
}

}  // namespace chronorec
