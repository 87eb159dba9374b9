// Memory for tables that are visited at random: on huge pages where the system has them, since small ones
// cost a miss of the address cache per visit.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace chronorec {

template <typename T>
struct HugePages {
  using value_type = T;
  static constexpr size_t kPage = size_t{1} << 21;

  HugePages() = default;
  template <typename Other>
  HugePages(const HugePages<Other>&) {}

  T* allocate(size_t count) {
    const size_t wanted = count * sizeof(T), unit = wanted < kPage ? 64 : kPage;
    const size_t bytes = (wanted + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, bytes == 0 ? unit : bytes);
    if (memory == nullptr) throw std::bad_alloc();
    if (unit == kPage) madvise(memory, bytes, MADV_HUGEPAGE);  // only advice: a refusal costs speed alone
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { std::free(memory); }

  friend bool operator==(const HugePages&, const HugePages&) { return true; }
  friend bool operator!=(const HugePages&, const HugePages&) { return false; }
};

}  // namespace chronorec
