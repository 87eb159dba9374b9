// The thread pool under the thread sanitizer: built and run by .ci/run, by hand:
//   g++ -std=c++17 -O1 -g -fsanitize=thread -Icsrc csrc/core/parallel.cc tests/core/pool_stress.cc -o
//   pool_stress -pthread
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/parallel.h"

namespace {

using chronorec::parallel_for;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "pool_stress: %s\n", what);
  std::_Exit(1);
}

// Every index once, plain writes visible to the caller, thread numbers in range and not shared.
void run_once(int64_t count, int max_threads) {
  std::vector<int> seen(static_cast<size_t>(count));
  std::vector<int64_t> done(static_cast<size_t>(max_threads));
  parallel_for(count, [&](int64_t i, int thread) {
    check(thread >= 0 && thread < max_threads, "thread number out of range");
    ++seen[static_cast<size_t>(i)];
    ++done[static_cast<size_t>(thread)];
  });
  int64_t total = 0;
  for (const int times : seen) check(times == 1, "a task ran not exactly once");
  for (const int64_t n : done) total += n;
  check(total == count, "tasks were lost");
}

void many_sizes() {
  for (const int threads : {1, 2, 4, 3, 8, 2}) {
    chronorec::set_num_threads(threads);
    for (int64_t count = 0; count < 200; ++count) run_once(count, threads);
  }
}

void many_callers() {
  chronorec::set_num_threads(4);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([] {
      for (int i = 0; i < 500; ++i) run_once(i % 40, 4);
    });
  for (std::thread& caller : callers) caller.join();
}

void nested() {
  chronorec::set_num_threads(4);
  for (int round = 0; round < 100; ++round) {
    std::vector<int64_t> sums(4);  // one per thread: a nested call must stay on its task's thread
    parallel_for(16, [&](int64_t, int) {
      parallel_for(16, [&](int64_t i, int thread) { sums[static_cast<size_t>(thread)] += i; });
    });
    check(sums[0] + sums[1] + sums[2] + sums[3] == 16 * 120, "nested tasks were lost");
  }
}

void exceptions() {
  chronorec::set_num_threads(4);
  for (int round = 0; round < 200; ++round) {
    bool caught = false;
    try {
      parallel_for(50, [&](int64_t i, int) {
        if (i % 7 == 3) throw std::runtime_error("expected");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    check(caught, "an exception was lost");
    run_once(50, 4);
  }
}

void interrupts() {
  chronorec::set_num_threads(4);
  chronorec::set_interrupt_hook([] { return true; });
  std::atomic<int64_t> ran{0};
  parallel_for(100000, [&](int64_t, int) {
    ++ran;
    usleep(100);
  });
  check(ran < 100000, "the interrupt was not heard");
  check(chronorec::interrupted() && chronorec::clear_interrupt(), "the interrupt was not reported");
  chronorec::set_interrupt_hook(nullptr);
  run_once(100, 4);
}

void fork_and_run() {
  chronorec::set_num_threads(3);
  run_once(100, 3);
  const pid_t child = fork();
  if (child == 0) {
    chronorec::set_num_threads(1);  // the sanitizer starts no threads after a fork of several
    run_once(100, 1);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the forked child failed");
  run_once(100, 3);
}

}  // namespace

int main() {
  many_sizes();
  many_callers();
  nested();
  exceptions();
  interrupts();
  fork_and_run();
  std::puts("pool_stress: fine");
}
