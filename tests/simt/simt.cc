#include "simt.h"

#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

extern "C" {
__attribute__((weak, visibility("hidden"))) extern char __start_simt_shared[];
__attribute__((weak, visibility("hidden"))) extern char __stop_simt_shared[];
}

namespace simt {
namespace {

constexpr size_t kSharedLimit = 163 << 10;  // what one block can have on sm_80
constexpr size_t kSharedAlignment = 64;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kCanary = 0;  // the sanitizer sees it at the access
#else
constexpr size_t kCanary = 4096;
#endif
constexpr unsigned char kCanaryByte = 0xA5;

enum class State { ready, in_warp_call, in_block_barrier, in_grid_barrier, ended };

struct Thread {
  Context context;
  State state = State::ready;
  uint3 index;
  int block = 0, lane = 0, warp = 0;
  // the collective call it waits in
  Site site{};
  const char* call = nullptr;
  unsigned mask = 0;
  void* value = nullptr;
  int argument = 0;
};

// Lanes that wait in one warp call for the rest of its mask.
struct Meeting {
  const char* call;
  unsigned mask, there;
  Site site;
};

struct Warp {
  unsigned live = 0;
  std::vector<Meeting> meetings;
};

struct Block {
  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Thread*> ready;
  Thread* first_in_barrier = nullptr;
  size_t in_barrier = 0, ended = 0;
  std::unique_ptr<char, decltype(&free)> dynamic{nullptr, free};
  std::vector<char> statics;  // its copy of the static shared memory while another block runs
};

struct Random {
  uint64_t state;
  size_t below(size_t bound) {  // splitmix64
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return static_cast<size_t>((x ^ (x >> 31)) % bound);
  }
};

uint64_t chosen_seed = 0;

size_t statics_size() { return static_cast<size_t>(__stop_simt_shared - __start_simt_shared); }

// The section holds the sanitizer's red zones too, which no checked function may touch.
__attribute__((no_sanitize("address"))) void fill_statics() {
  volatile char* statics = __start_simt_shared;
  for (size_t i = 0, n = statics_size(); i < n; ++i) statics[i] = static_cast<char>(0xFF);
}
__attribute__((no_sanitize("address"))) void swap_statics(std::vector<char>& other) {
  volatile char* statics = __start_simt_shared;
  char* mine = other.data();
  for (size_t i = 0, n = statics_size(); i < n; ++i) {
    const char held = statics[i];
    statics[i] = mine[i];
    mine[i] = held;
  }
}

std::string text_of(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
std::string text_of(Site site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// One launch from its start to its end.
class Machine {
 public:
  Machine(const Launch& launch, void (*call)(void*), void* context)
      : launch_(launch), call_(call), context_(context), random_{chosen_seed} {}

  void run() {
    check_launch();
    std::vector<uint3> order;
    for (unsigned z = 0; z < launch_.grid.z; ++z)
      for (unsigned y = 0; y < launch_.grid.y; ++y)
        for (unsigned x = 0; x < launch_.grid.x; ++x) order.push_back({x, y, z});
    if (chosen_seed != 0)
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_.below(i)]);
    blockDim = launch_.block;
    gridDim = launch_.grid;
    if (launch_.cooperative) {
      run_together(order);
    } else {
      for (const uint3& index : order) run_together({index});
    }
  }

  Thread& current() { return *current_; }
  void* dynamic_shared() { return current_block().dynamic.get() + kCanary; }

  [[noreturn]] void fail(const std::string& what, Site site) {
    error_ = std::string(launch_.kernel) + ": " + what + " (" + text_of(site) + ", block " +
             text_of(current_block().index) + ", thread " + text_of(current_->index) + ")";
    current_->context.switch_to(home_, true);
    __builtin_unreachable();
  }

  void wait_block(Site site) {
    Block& block = current_block();
    if (block.ended > 0) fail(ended_text(block) + " before this __syncthreads()", site);
    if (block.in_barrier == 0) block.first_in_barrier = current_;
    const Thread& first = *block.first_in_barrier;
    if (&first != current_ && !same(first.site, site))
      fail("threads of a block meet at different __syncthreads(): thread " + text_of(first.index) +
               " is at " + text_of(first.site),
           site);
    if (++block.in_barrier < block.threads.size()) return wait(State::in_block_barrier, site);
    block.in_barrier = 0;
    release(block, State::in_block_barrier);
  }

  void wait_grid(Site site) {
    if (!launch_.cooperative) fail("a grid barrier in a launch that is not cooperative", site);
    if (ended_ > 0) fail("another thread of the grid has ended before this grid barrier", site);
    if (in_grid_barrier_ == 0) grid_site_ = site;
    if (!same(grid_site_, site))
      fail("threads of the grid meet at different barriers: the first is at " + text_of(grid_site_), site);
    if (++in_grid_barrier_ < blocks_.size() * blocks_[0].threads.size())
      return wait(State::in_grid_barrier, site);
    in_grid_barrier_ = 0;
    for (Block& block : blocks_) release(block, State::in_grid_barrier);
  }

  void wait_warp(const char* call, unsigned mask, void* value, int argument, Exchange exchange, Site site) {
    Thread& self = *current_;
    Warp& warp = current_block().warps[static_cast<size_t>(self.warp)];
    const unsigned me = 1u << self.lane;
    if ((mask & me) == 0) fail(std::string(call) + ": the caller is not in its own mask", site);
    if ((mask & ~warp.live) != 0) fail_missing(call, mask & ~warp.live, site);
    self.call = call, self.mask = mask, self.value = value, self.argument = argument;
    size_t m = 0;
    while (m < warp.meetings.size() && !is_for(warp.meetings[m], call, mask, site)) ++m;
    if (m == warp.meetings.size()) warp.meetings.push_back({call, mask, 0, site});
    warp.meetings[m].there |= me;
    if (warp.meetings[m].there != mask) return wait(State::in_warp_call, site);
    warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(m));
    Thread* const first = &self - self.lane;
    void* values[32] = {};
    int arguments[32] = {};
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) values[lane] = first[lane].value, arguments[lane] = first[lane].argument;
    exchange(values, arguments, mask, site);
    for (int lane = 31; lane >= 0; --lane)
      if (mask >> lane & 1 && lane != self.lane) make_ready(first[lane]);
  }

 private:
  void check_launch() {
    const dim3 &grid = launch_.grid, &block = launch_.block;
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads < 1 || threads > 1024 || block.z > 64) refuse("wanted 1 to 1024 threads a block");
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
      refuse("wanted a grid of 1 block or more, below 2^31 in x and 2^16 in y and z");
    if (launch_.shared > kSharedLimit) refuse("wanted at most 163 KB of dynamic shared memory");
  }
  void refuse(const char* what) { throw Error(std::string(launch_.kernel) + ": " + what); }

  void run_together(const std::vector<uint3>& indices) {
    blocks_.clear();
    blocks_.resize(indices.size());
    ended_ = in_grid_barrier_ = 0;
    size_t stack = 0;
    for (size_t b = 0; b < blocks_.size(); ++b)
      start_block(blocks_[b], static_cast<int>(b), indices[b], stack);
    fill_statics();
    resident_ = 0;
    for (;;) {
      if (blocks_[resident_].ready.empty() && !next_block()) break;
      run_one(blocks_[resident_]);
      if (!error_.empty()) throw Error(error_);
    }
    for (Block& block : blocks_) finish_block(block);
  }

  void start_block(Block& block, int number, const uint3& index, size_t& stack) {
    const dim3& shape = launch_.block;
    block.index = index;
    block.threads.resize(size_t{shape.x} * shape.y * shape.z);
    void* memory = nullptr;
    if (posix_memalign(&memory, kSharedAlignment, launch_.shared + 2 * kCanary) != 0) throw std::bad_alloc();
    block.dynamic.reset(static_cast<char*>(memory));
    memset(block.dynamic.get(), kCanaryByte, launch_.shared + 2 * kCanary);
    memset(block.dynamic.get() + kCanary, 0xFF, launch_.shared);
    block.statics.assign(number == 0 ? 0 : statics_size(), static_cast<char>(0xFF));
    block.warps.resize((block.threads.size() + 31) / 32);
    for (size_t t = 0; t < block.threads.size(); ++t) {
      block.warps[t / 32].live |= 1u << t % 32;
      Thread& thread = block.threads[t];
      const auto linear = static_cast<unsigned>(t);
      thread.index = {linear % shape.x, linear / shape.x % shape.y, linear / shape.x / shape.y};
      thread.block = number;
      thread.warp = static_cast<int>(t / 32);
      thread.lane = static_cast<int>(t % 32);
      if (stack == stacks().size()) stacks().emplace_back();
      thread.context.start(stacks()[stack++], entry);
    }
    for (size_t t = block.threads.size(); t-- > 0;) block.ready.push_back(&block.threads[t]);
  }

  void finish_block(const Block& block) {
    if (block.ended < block.threads.size()) throw Error(stuck_text());
    const char* memory = block.dynamic.get();
    for (size_t i = 0; i < kCanary; ++i)
      if (memory[i] != static_cast<char>(kCanaryByte) ||
          memory[kCanary + launch_.shared + i] != static_cast<char>(kCanaryByte))
        throw Error(std::string(launch_.kernel) + ": a write outside the dynamic shared memory");
  }

  // Makes another block that can go on the resident one.
  bool next_block() {
    std::vector<size_t> candidates;
    for (size_t b = 0; b < blocks_.size(); ++b)
      if (!blocks_[b].ready.empty()) candidates.push_back(b);
    if (candidates.empty()) return false;
    const size_t next = candidates[chosen_seed == 0 ? 0 : random_.below(candidates.size())];
    blocks_[resident_].statics.swap(blocks_[next].statics);
    swap_statics(blocks_[resident_].statics);
    resident_ = next;
    return true;
  }

  void run_one(Block& block) {
    const size_t last = block.ready.size() - 1;
    if (chosen_seed != 0) std::swap(block.ready[random_.below(last + 1)], block.ready[last]);
    current_ = block.ready[last];
    block.ready.pop_back();
    threadIdx = current_->index;
    blockIdx = block.index;
    home_.switch_to(current_->context);
  }

  static void entry();

  void end_thread() {
    Block& block = current_block();
    current_->state = State::ended;
    block.warps[static_cast<size_t>(current_->warp)].live &= ~(1u << current_->lane);
    ++block.ended;
    ++ended_;
    if (block.in_barrier > 0) {
      const Thread& first = *block.first_in_barrier;
      fail("this thread ended while thread " + text_of(first.index) + " waits in __syncthreads()",
           first.site);
    }
    if (in_grid_barrier_ > 0) fail("this thread ended while others wait in a grid barrier", grid_site_);
    current_->context.switch_to(home_, true);
  }

  void wait(State state, Site site) {
    current_->state = state;
    current_->site = site;
    current_->context.switch_to(home_);
  }
  void make_ready(Thread& thread) {
    thread.state = State::ready;
    blocks_[static_cast<size_t>(thread.block)].ready.push_back(&thread);
  }
  void release(Block& block, State from) {
    for (size_t t = block.threads.size(); t-- > 0;)
      if (block.threads[t].state == from) make_ready(block.threads[t]);
  }

  Block& current_block() { return blocks_[static_cast<size_t>(current_->block)]; }
  [[noreturn]] void fail_missing(const char* call, unsigned missing, Site site) {
    const int lane = __builtin_ctz(missing);
    const size_t number = static_cast<size_t>(current_->warp) * 32 + static_cast<size_t>(lane);
    const bool exists = number < current_block().threads.size();
    fail(std::string(call) + ": lane " + std::to_string(lane) + " of the mask " +
             (exists ? "has ended" : "does not exist"),
         site);
  }

  static bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
  }
  static bool is_for(const Meeting& meeting, const char* call, unsigned mask, Site site) {
    return meeting.mask == mask && same(meeting.site, site) && strcmp(meeting.call, call) == 0;
  }

  static std::string ended_text(const Block& block) {
    for (const Thread& thread : block.threads)
      if (thread.state == State::ended) return "thread " + text_of(thread.index) + " has ended";
    return "";
  }

  // Nothing can go on: who waits where, one line per place.
  std::string stuck_text() const {
    std::vector<std::pair<std::string, std::string>> places;
    for (const Block& block : blocks_)
      for (const Thread& thread : block.threads) {
        if (thread.state == State::ended) continue;
        const char* call = thread.state == State::in_warp_call       ? thread.call
                           : thread.state == State::in_block_barrier ? "__syncthreads"
                                                                     : "grid.sync";
        char mask[16] = "";
        if (thread.state == State::in_warp_call) snprintf(mask, sizeof(mask), " 0x%08x", thread.mask);
        const std::string place = std::string(call) + mask + " at " + text_of(thread.site);
        bool known = false;
        for (auto& [name, first] : places) known |= name == place;
        if (!known)
          places.emplace_back(place, "thread " + text_of(thread.index) + " of block " + text_of(block.index));
      }
    std::string text = std::string(launch_.kernel) + ": threads wait for each other:";
    for (auto& [name, first] : places) text += "\n  " + name + ", first by " + first;
    return text;
  }

  static std::vector<Stack>& stacks() {
    static std::vector<Stack> all;
    return all;
  }

  const Launch launch_;
  void (*const call_)(void*);
  void* const context_;
  Random random_;
  Context home_;
  std::vector<Block> blocks_;
  size_t resident_ = 0;  // the block whose static shared memory is in place
  Thread* current_ = nullptr;
  size_t ended_ = 0, in_grid_barrier_ = 0;
  Site grid_site_{};
  std::string error_;
};

Machine* machine = nullptr;

void Machine::entry() {
  Context::arrive();
  machine->call_(machine->context_);
  machine->end_thread();
}

}  // namespace

void run(const Launch& launch, void (*call)(void*), void* context) {
  if (machine != nullptr) throw Error(std::string(launch.kernel) + ": a launch inside a kernel");
  Machine mine(launch, call, context);
  machine = &mine;
  struct Reset {
    ~Reset() { machine = nullptr; }
  } reset;
  mine.run();
}

void set_seed(uint64_t seed) { chosen_seed = seed; }
uint64_t seed() { return chosen_seed; }
Limits& limits() {
  static Limits told{6, kSharedLimit};
  return told;
}

void fail(const char* what, Site site) { machine->fail(what, site); }
void barrier_block(Site site) { machine->wait_block(site); }
void barrier_grid(Site site) { machine->wait_grid(site); }
void* dynamic_shared() { return machine->dynamic_shared(); }
int lane() { return machine->current().lane; }
void meet_warp(const char* call, unsigned mask, void* value, int argument, Exchange exchange, Site site) {
  machine->wait_warp(call, mask, value, argument, exchange, site);
}

}  // namespace simt
