#include "core/parallel.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

// Built on futexes and atomics alone: std::condition_variable would bind the wheel to a newer libstdc++. The
// pool lies in memory that is never destroyed: workers that sleep on it need no shutdown at exit.

namespace chronorec {
namespace {

constexpr int kMaxThreads = 256;
// The gap between two calls of one training step, or of an event and its answer; in time, because one pause
// of one processor takes as long as five of another.
constexpr int64_t kSpinNanoseconds = 100000;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

void futex_wait(std::atomic<uint32_t>* word, uint32_t value, const timespec* timeout) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

int64_t now_ns(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return int64_t{1000000000} * t.tv_sec + t.tv_nsec;
}

// Spins until the word differs from `value`, or for a while; returns the word.
uint32_t spin(const std::atomic<uint32_t>* word, uint32_t value) {
  constexpr int kPauses = 64;  // between two looks at the clock
  uint32_t now = value;
  int64_t begin = 0;
  for (int i = 0; (now = word->load(std::memory_order_acquire)) == value; ++i) {
    pause_cpu();
    if (i % kPauses != kPauses - 1) continue;
    const int64_t time = now_ns(CLOCK_MONOTONIC);
    if (begin == 0) begin = time;
    if (time - begin > kSpinNanoseconds) break;
  }
  return now;
}

std::atomic<bool (*)()> interrupt_hook{nullptr};
thread_local bool thread_interrupted = false;
thread_local int64_t last_asked = 0;
thread_local int worker = 0;  // this thread's index in the pool; 0 for every thread that calls in

// One worker's bell: an even number, raised by two for every job the worker is called to, plus one while the
// worker sleeps on it. The others hear nothing of the job. And its seat: a worker takes the one it is offered
// before it looks at the job; a caller who is done withdraws the offer from those who still wake up, which
// can take longer than the whole job. Alone on its cache line.
enum Seat : uint32_t { kNone, kOffered, kTaken };
struct Bell {
  std::atomic<uint32_t> word{0}, seat{kNone};
  char padding[56];

  bool change_seat(uint32_t from, uint32_t to) {
    return seat.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }
};

struct Pool {
  Bell bells[kMaxThreads];           // by thread number; the caller's, 0, is unused
  std::atomic<uint32_t> pending{0};  // workers that have not left the current job
  std::atomic<bool> busy{false};
  std::atomic<bool> stop{false};  // the job was interrupted or has failed
  std::atomic<bool> failed{false};
  std::atomic<int64_t> next{0};
  int64_t count = 0;
  Task task = nullptr;
  void* context = nullptr;
  int workers = 0;           // started so far, not counting callers
  std::exception_ptr error;  // what the first failed task threw

  void work(int thread) {
    for (int64_t i; !stop.load(std::memory_order_relaxed) &&
                    (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        task(context, i, thread);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
        stop.store(true, std::memory_order_relaxed);
      }
      if (thread == 0 && interrupted()) stop.store(true, std::memory_order_relaxed);
    }
  }
};

alignas(64) char pool_memory[sizeof(Pool)];
Pool* pool = nullptr;
std::atomic<int> wanted_threads{0};
thread_local int pinned_threads = 0;  // 0: not pinned

void ring(std::atomic<uint32_t>* bell) {
  const uint32_t next = (bell->load(std::memory_order_relaxed) & ~1u) + 2;
  if (bell->exchange(next, std::memory_order_acq_rel) & 1) futex_wake_all(bell);
}

// Spins, then sleeps, until the bell, last heard at `seen`, rings; returns what it shows then.
uint32_t hear(std::atomic<uint32_t>* bell, uint32_t seen) {
  uint32_t now = spin(bell, seen);
  if (now == seen && bell->compare_exchange_strong(now, seen | 1, std::memory_order_acq_rel))
    while ((now = bell->load(std::memory_order_acquire)) == (seen | 1)) futex_wait(bell, seen | 1, nullptr);
  return now;
}

void* worker_main(void* thread) {
  worker = static_cast<int>(reinterpret_cast<intptr_t>(thread));
  Pool& p = *pool;
  for (uint32_t seen = 0;;) {
    seen = hear(&p.bells[worker].word, seen);
    if (!p.bells[worker].change_seat(kOffered, kTaken)) continue;
    p.work(worker);
    p.bells[worker].seat.store(kNone, std::memory_order_relaxed);
    if (p.pending.fetch_sub(1, std::memory_order_acq_rel) == 1) futex_wake_all(&p.pending);
  }
  return nullptr;
}

// The caller waits for the workers that have come; the signal that interrupts the job may come only now.
void wait_for_workers(Pool& p, int called) {
  for (int thread = 1; thread <= called; ++thread)
    if (p.bells[thread].change_seat(kOffered, kNone)) p.pending.fetch_sub(1, std::memory_order_acq_rel);
  constexpr timespec kPatience = {0, 50 * 1000000};
  for (uint32_t left; (left = p.pending.load(std::memory_order_acquire)) != 0;) {
    if (spin(&p.pending, left) != left) continue;
    futex_wait(&p.pending, left, &kPatience);
    if (interrupted()) p.stop.store(true, std::memory_order_relaxed);
  }
}

void make_pool() { pool = new (pool_memory) Pool; }

void make_first_pool() {
  make_pool();
  pthread_atfork(nullptr, nullptr, make_pool);  // a child has the pool's memory but none of its threads
}

void start_workers(int count) {
  sigset_t all, old;
  sigfillset(&all);
  for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, crash);
  pthread_sigmask(SIG_SETMASK, &all, &old);  // signals belong to the interpreter's threads, crashes to each
  while (pool->workers < count) {
    pthread_t id;
    if (pthread_create(&id, nullptr, worker_main, reinterpret_cast<void*>(intptr_t{pool->workers} + 1)) != 0)
      break;
    pthread_detach(id);
    ++pool->workers;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

int cgroup_quota() {
  long quota = 0, period = 0;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%ld %ld", &quota, &period) != 2) quota = 0;
    std::fclose(file);
  } else if (FILE* v1 = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(v1, "%ld", &quota) != 1) quota = 0;
    std::fclose(v1);
    if (FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%ld", &period) != 1) period = 0;
      std::fclose(p);
    }
  }
  return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : kMaxThreads;
}

int default_threads() {
  if (const char* text = std::getenv("CHRONOREC_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (*end != '\0' || n < 1 || n > kMaxThreads)
      throw std::invalid_argument("CHRONOREC_THREADS: wanted a whole number from 1 to 256, got '" +
                                  std::string(text) + "'");
    return static_cast<int>(n);
  }
  cpu_set_t set;  // too small for a machine of more than 1024 CPUs
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
  const int cpus = known ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int quota = cgroup_quota();
  const int threads = cpus < quota ? cpus : quota;
  return threads < 1 ? 1 : threads > kMaxThreads ? kMaxThreads : threads;
}

void run_alone(int64_t count, Task task, void* context) {
  for (int64_t i = 0; i < count && !interrupted(); ++i) task(context, i, worker);
}

}  // namespace

int num_threads() {
  if (pinned_threads != 0) return pinned_threads;
  int threads = wanted_threads.load(std::memory_order_relaxed);
  if (threads == 0) {
    threads = default_threads();
    wanted_threads.store(threads, std::memory_order_relaxed);
  }
  return threads;
}

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads)
    throw std::invalid_argument("num_threads: wanted 1 to 256, got " + std::to_string(n));
  wanted_threads.store(n, std::memory_order_relaxed);
}

PinnedThreads::PinnedThreads(int n) : before_(pinned_threads) { pinned_threads = n; }
PinnedThreads::~PinnedThreads() { pinned_threads = before_; }

void set_interrupt_hook(bool (*hook)()) { interrupt_hook.store(hook); }

bool interrupted() {
  if (worker != 0) return pool->stop.load(std::memory_order_relaxed);
  if (thread_interrupted) return true;
  const auto hook = interrupt_hook.load(std::memory_order_relaxed);
  if (hook == nullptr) return false;
  const int64_t now = now_ns(CLOCK_MONOTONIC_COARSE);
  if (last_asked == 0) last_asked = now;
  if (now - last_asked < 50 * 1000000) return false;
  last_asked = now;
  return thread_interrupted = hook();
}

bool clear_interrupt() {
  const bool was = thread_interrupted;
  thread_interrupted = false;
  last_asked = 0;
  return was;
}

void run_parallel(int64_t count, Task task, void* context, int64_t least) {
  if (count <= 0 || interrupted()) return;
  const int threads = num_threads();
  if (count < least || threads == 1 || worker != 0) return run_alone(count, task, context);
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_first_pool);
  Pool& p = *pool;
  if (p.busy.exchange(true, std::memory_order_acquire)) return run_alone(count, task, context);
  const int wanted = static_cast<int>(count < threads ? count : threads) - 1;  // workers beside the caller
  if (p.workers < wanted) start_workers(wanted);
  p.task = task;
  p.context = context;
  p.count = count;
  p.stop.store(false, std::memory_order_relaxed);
  p.next.store(0, std::memory_order_relaxed);
  const int active = p.workers < wanted ? p.workers : wanted;
  p.pending.store(static_cast<uint32_t>(active), std::memory_order_relaxed);
  for (int thread = 1; thread <= active; ++thread) {
    p.bells[thread].seat.store(kOffered, std::memory_order_release);
    ring(&p.bells[thread].word);
  }
  p.work(0);
  wait_for_workers(p, active);
  const std::exception_ptr error = std::exchange(p.error, nullptr);
  p.failed.store(false, std::memory_order_relaxed);
  p.busy.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
}

}  // namespace chronorec
