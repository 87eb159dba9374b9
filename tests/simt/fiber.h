// A stack and a place to go on from. Address-sanitizer builds are told about every switch.
#pragma once
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.pushsection .text
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
.popsection
)");
#else
#include <ucontext.h>
#endif

namespace simt {

// Pages of its own with an unreadable one below, so that an overflow ends the process at once.
class Stack {
 public:
  static constexpr size_t kSize = size_t{256} << 10;

  Stack() {
    memory_ = mmap(nullptr, kGuard + kSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, kGuard, PROT_NONE);
  }
  Stack(Stack&& other) noexcept : memory_(other.memory_) { other.memory_ = nullptr; }
  ~Stack() {
    if (memory_ != nullptr) munmap(memory_, kGuard + kSize);
  }
  char* bottom() const { return static_cast<char*>(memory_) + kGuard; }

 private:
  static constexpr size_t kGuard = 4096;
  void* memory_;
};

// One side of a switch: the runner's own stack, or a fiber.
class Context {
 public:
  // Makes the next switch to this context call entry() on the stack, from which it must never return.
  void start(const Stack& stack, void (*entry)()) {
    bottom_ = stack.bottom();
    size_ = Stack::kSize;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom_, size_);  // what a fiber left that was given up
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack.bottom() + Stack::kSize) - 2;
    *top = reinterpret_cast<void*>(entry);
    top[1] = nullptr;  // entry's return address
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    place_ = top;
#else
    getcontext(&place_);
    place_.uc_stack.ss_sp = stack.bottom();
    place_.uc_stack.ss_size = Stack::kSize;
    makecontext(&place_, entry, 0);
#endif
  }

  // Goes on at `to` until something switches back. `last`: nothing will.
  void switch_to(Context& to, bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake, to.bottom_, to.size_);
    came_from_ = this;
    leave(to);
    arrive(fake);
#else
    static_cast<void>(last);
    leave(to);
#endif
  }

  // To be called first on a fresh stack.
  static void arrive([[maybe_unused]] void* fake = nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    Context* from = came_from_;
    __sanitizer_finish_switch_fiber(fake, &from->bottom_, &from->size_);
#endif
  }

 private:
  void leave(Context& to) {
#if defined(__x86_64__)
    simt_switch(&place_, to.place_);
#else
    swapcontext(&place_, &to.place_);
#endif
  }

  const void* bottom_ = nullptr;
  size_t size_ = 0;
#if defined(__SANITIZE_ADDRESS__)
  static inline Context* came_from_ = nullptr;
#endif
#if defined(__x86_64__)
  void* place_ = nullptr;
#else
  ucontext_t place_;
#endif
};

}  // namespace simt
