// Memory for tables that are visited at random: on huge pages where the system has them, since small ones
// cost a miss of the address cache per visit. It is zero when it comes, and a container of plain structs
// leaves it so: an empty table is never written.
#pragma once
#include <sys/mman.h>

#include <cstdint>
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
    const size_t bytes = bytes_of(count);
    void* memory;
    if (bytes < kPage) {
      memory = std::calloc(bytes, 1);
    } else {  // one page more, of which both ends are given back, puts the table on a page's border
      memory = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
      char* begin = static_cast<char*>(memory);
      const size_t before = (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
      if (before != 0) munmap(begin, before);
      munmap(begin + before + bytes, kPage - before);
      memory = begin + before;
      madvise(memory, bytes, MADV_HUGEPAGE);  // only advice: a refusal costs speed alone
    }
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t count) {
    if (bytes_of(count) < kPage)
      std::free(memory);
    else
      munmap(memory, bytes_of(count));
  }
  template <typename Other>
  void construct(Other*) {}  // zero already

  friend bool operator==(const HugePages&, const HugePages&) { return true; }
  friend bool operator!=(const HugePages&, const HugePages&) { return false; }

 private:
  static size_t bytes_of(size_t count) {
    const size_t wanted = count == 0 ? 64 : count * sizeof(T), unit = wanted < kPage ? 64 : kPage;
    return (wanted + unit - 1) / unit * unit;
  }
};

}  // namespace chronorec
