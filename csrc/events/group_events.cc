// Two levels of counting sort, so that every write stays in the cache: events go to partitions of
// neighbouring users first, then each partition is placed and ordered by one task. Both levels keep the
// order of the log, and tasks are cut by the data alone.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "events/events.h"

namespace chronorec {
namespace {

constexpr int64_t kMaxPartitions = 512;
constexpr int64_t kMinBlock = 1 << 17;
constexpr int64_t kHugeUser = 1 << 18;  // from here a radix sort, which polls for interruption

template <typename Index>
struct Event {
  int32_t user;
  Index row;
};

struct Keyed {
  int64_t key;
  int64_t row;
};

template <typename T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

// Stable, least significant byte first; bytes that all keys share cost one pass over the counts only.
void radix_sort(std::vector<Keyed>& events) {
  std::vector<Keyed> other(events.size());
  for (int byte = 0; byte < 8 && !interrupted(); ++byte) {
    const auto digit = [byte](const Keyed& e) {
      return ((static_cast<uint64_t>(e.key) ^ (uint64_t{1} << 63)) >> (8 * byte)) & 255;
    };
    size_t starts[257] = {};
    for (const Keyed& e : events) ++starts[digit(e) + 1];
    if (std::find(starts + 1, starts + 257, events.size()) != starts + 257) continue;
    for (int d = 0; d < 256; ++d) starts[d + 1] += starts[d];
    for (const Keyed& e : events) other[starts[digit(e)]++] = e;
    events.swap(other);
  }
}

// Orders one user's rows by key; returns how many came before an event with a smaller key.
template <typename Index>
int64_t order_user(const int64_t* key, Index* rows, int64_t count, std::vector<Keyed>& work) {
  work.resize(static_cast<size_t>(count));
  int64_t falls = 0;
  for (int64_t i = 0; i < count; ++i) {
    work[static_cast<size_t>(i)] = {key[rows[i]], static_cast<int64_t>(rows[i])};
    falls += i > 0 && work[static_cast<size_t>(i)].key < work[static_cast<size_t>(i) - 1].key;
  }
  if (falls == 0) return 0;
  if (count >= kHugeUser)
    radix_sort(work);
  else
    std::stable_sort(work.begin(), work.end(), [](const Keyed& a, const Keyed& b) { return a.key < b.key; });
  for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<Index>(work[static_cast<size_t>(i)].row);
  return falls;
}

template <typename Index>
class Grouping {
 public:
  explicit Grouping(const GroupEventsArgs& args)
      : user_(args.user.as<int32_t>()),
        key_(args.key.as<int64_t>()),
        offsets_(args.offsets.as<int64_t>()),
        order_(args.order.as<Index>()),
        events_(args.user.shape[0]),
        users_(args.offsets.shape[0] - 1) {
    while ((users_ - 1) >> shift_ >= kMaxPartitions) ++shift_;
    partitions_ = users_ == 0 ? 0 : ((users_ - 1) >> shift_) + 1;
    block_ = std::max(kMinBlock, (events_ + 511) / 512);
    blocks_ = (events_ + block_ - 1) / block_;
  }

  int64_t run() {
    offsets_[0] = 0;
    starts_.assign(static_cast<size_t>(blocks_ * partitions_), 0);
    parallel_for(blocks_, [&](int64_t b, int) { count_block(b); });
    if (interrupted()) return 0;
    check_users();
    sum_counts();
    partitioned_ = uninitialised<Event<Index>>(events_);
    parallel_for(blocks_, [&](int64_t b, int) { partition_block(b); });
    if (interrupted()) return 0;
    std::vector<int64_t> falls(static_cast<size_t>(partitions_), 0);
    parallel_for(partitions_, [&](int64_t p, int) { falls[static_cast<size_t>(p)] = place_partition(p); });
    int64_t total = 0;
    for (const int64_t n : falls) total += n;
    // A huge user is ordered by the calling thread, the only one that hears of an interruption.
    for (int64_t u = 0; u < users_ && key_ != nullptr; ++u) {
      const int64_t count = offsets_[u + 1] - offsets_[u];
      if (count >= kHugeUser && !interrupted()) total += order_user(key_, order_ + offsets_[u], count, work_);
    }
    return total;
  }

 private:
  int64_t& start(int64_t block, int64_t partition) {
    return starts_[static_cast<size_t>(block * partitions_ + partition)];
  }

  void count_block(int64_t b) {
    const int64_t end = std::min(events_, (b + 1) * block_);
    int64_t* counts = &start(b, 0);
    bool in_range = true;
    for (int64_t i = b * block_; i < end; ++i) {
      const bool inside = static_cast<uint32_t>(user_[i]) < static_cast<uint64_t>(users_);
      in_range &= inside;
      if (inside) ++counts[user_[i] >> shift_];
    }
    if (!in_range) bad_user_.store(true, std::memory_order_relaxed);
  }

  void check_users() const {
    expect_that(!bad_user_.load(), "user", "codes in [0, " + std::to_string(users_) + ")", "others");
  }

  void sum_counts() {
    partition_starts_.assign(static_cast<size_t>(partitions_) + 1, 0);
    int64_t total = 0;
    for (int64_t p = 0; p < partitions_; ++p) {
      partition_starts_[static_cast<size_t>(p)] = total;
      for (int64_t b = 0; b < blocks_; ++b) {
        const int64_t count = start(b, p);
        start(b, p) = total;
        total += count;
      }
    }
    partition_starts_[static_cast<size_t>(partitions_)] = total;
  }

  void partition_block(int64_t b) {
    const int64_t end = std::min(events_, (b + 1) * block_);
    int64_t* next = &start(b, 0);
    for (int64_t i = b * block_; i < end; ++i)
      partitioned_[static_cast<size_t>(next[user_[i] >> shift_]++)] = {user_[i], static_cast<Index>(i)};
  }

  int64_t place_partition(int64_t p) {
    const int64_t begin = partition_starts_[static_cast<size_t>(p)],
                  end = partition_starts_[static_cast<size_t>(p) + 1];
    const int64_t first = p << shift_, last = std::min(users_, (p + 1) << shift_);
    std::vector<int64_t> next(static_cast<size_t>(last - first) + 1, 0);
    const Event<Index>* events = partitioned_.get();
    for (int64_t i = begin; i < end; ++i) ++next[static_cast<size_t>(events[i].user - first) + 1];
    next[0] = begin;
    for (int64_t u = first; u < last; ++u) {
      const size_t at = static_cast<size_t>(u - first) + 1;
      next[at] += next[at - 1];
      offsets_[u + 1] = next[at];
    }
    for (int64_t i = begin; i < end; ++i)
      order_[next[static_cast<size_t>(events[i].user - first)]++] = events[i].row;
    return key_ == nullptr ? 0 : order_partition(first, last, begin);
  }

  int64_t order_partition(int64_t first, int64_t last, int64_t begin) {
    std::vector<Keyed> work;
    int64_t falls = 0;
    for (int64_t u = first; u < last; ++u) {
      // offsets_[first] may not be written yet by the partition before this one
      const int64_t from = u == first ? begin : offsets_[u], count = offsets_[u + 1] - from;
      if (count > 1 && count < kHugeUser) falls += order_user(key_, order_ + from, count, work);
    }
    return falls;
  }

  const int32_t* user_;
  const int64_t* key_;
  int64_t* offsets_;
  Index* order_;
  int64_t events_, users_, partitions_ = 0, block_ = 0, blocks_ = 0;
  int shift_ = 0;
  std::atomic<bool> bad_user_{false};
  std::vector<int64_t> starts_;  // [blocks, partitions]: counts, then where the block writes next
  std::vector<int64_t> partition_starts_;
  std::unique_ptr<Event<Index>[]> partitioned_;
  std::vector<Keyed> work_;
};

}  // namespace

void group_events(const GroupEventsArgs& args) {
  expect_packed(args.user, "user", DType::i32, {kAnySize});
  const int64_t events = args.user.shape[0];
  if (args.key) expect_packed(args.key, "key", DType::i64, {events});
  expect_output(args.offsets, "offsets", DType::i64, {kAnySize});
  expect_that(args.offsets.shape[0] >= 1, "offsets", "at least one entry", "none");
  const bool narrow = args.order.dtype == DType::i32;
  expect_output(args.order, "order", narrow ? DType::i32 : DType::i64, {events});
  expect_that(!narrow || events <= INT32_MAX, "order", "int64 for more than 2^31 - 1 events", "int32");
  expect_output(args.out_of_order, "out_of_order", DType::i64, {1});
  *args.out_of_order.as<int64_t>() = narrow ? Grouping<int32_t>(args).run() : Grouping<int64_t>(args).run();
}

}  // namespace chronorec
