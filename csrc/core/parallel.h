// The one thread pool of the process. Freestanding: per-level kernel files include it.
#pragma once
#include <stdint.h>

namespace chronorec {

using Task = void (*)(void* context, int64_t index, int thread);

// Runs task(context, i, thread) for every i in [0, count), in any order, thread in [0, num_threads()).
// The caller takes part; if the pool is busy with somebody else's work, the caller does it all alone. A call
// from inside a task runs on that task's thread, under that thread's number.
// Results may not depend on which thread ran what: reductions go over indices, in order.
// The first exception of a task reaches the caller once all threads have left; the remaining tasks are
// skipped. (Kernel files are built without exceptions: nothing in them may throw, and on their behalf this
// function does not either; it allocates nothing.)
// Fewer tasks than `least` the caller does alone: waking a thread takes as long as they do.
void run_parallel(int64_t count, Task task, void* context, int64_t least);

int num_threads();            // CHRONOREC_THREADS, else the CPUs of the affinity mask and the cgroup quota
void set_num_threads(int n);  // n >= 1; takes effect with the next call

// While it lives, num_threads() and run_parallel() of this thread keep to `n` whatever set_num_threads says:
// room that was made for n threads stays enough for the whole call. Held once per call, by csrc/bindings, and
// lowered by csrc/ops where the caller's scratch has room for fewer.
class PinnedThreads {
 public:
  explicit PinnedThreads(int n);
  ~PinnedThreads();
  PinnedThreads(const PinnedThreads&) = delete;
  PinnedThreads& operator=(const PinnedThreads&) = delete;

 private:
  int before_;
};

// Long work stops early when the process was asked to (Ctrl-C): between two tasks the calling thread asks
// the hook a few times a second, and once it answers true the rest of this thread's tasks are skipped until
// clear_interrupt(). Serial loops of unbounded length poll interrupted() themselves. What skipped tasks
// should have written is garbage: code that would use it as an index or a size asks interrupted() first.
void set_interrupt_hook(bool (*hook)());
bool interrupted();
bool clear_interrupt();  // returns whether the thread was interrupted

template <typename Body>
static inline void parallel_for(int64_t count, Body&& body, int64_t least = 2) {
  struct Call {
    static void run(void* context, int64_t index, int thread) {
      (*static_cast<Body*>(context))(index, thread);
    }
  };
  run_parallel(count, &Call::run, const_cast<void*>(static_cast<const void*>(&body)), least);
}

}  // namespace chronorec
