// Two levels of counting sort, so that every access is either sequential or inside the cache: events go to
// partitions of neighbouring users first, straight into the stretch of the output that these users own; then
// one task per partition places and orders that stretch. Both levels keep the order of the log, and tasks
// are cut by the data alone.
#include <algorithm>
#include <atomic>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "events/events.h"
#include "events/huge_pages.h"

namespace chronorec {
namespace {

constexpr int64_t kMaxPartitions = 1024;
constexpr int64_t kMinBlock = 1 << 17;
// From here a partition is left to the calling thread, the only one that hears of an interruption.
constexpr int64_t kHugePartition = 1 << 22;
constexpr int64_t kRadixSort = 1 << 16;

template <typename Index>
struct Event {
  int64_t key;
  Index row;
  int32_t item;
};

// Stable, least significant byte first; bytes that all keys share cost one pass over the counts only.
template <typename Index>
void radix_sort(Event<Index>* events, int64_t count) {
  std::vector<Event<Index>> other(static_cast<size_t>(count));
  Event<Index>*from = events, *to = other.data();
  for (int byte = 0; byte < 8 && !interrupted(); ++byte) {
    const auto digit = [byte](const Event<Index>& e) {
      return ((static_cast<uint64_t>(e.key) ^ (uint64_t{1} << 63)) >> (8 * byte)) & 255;
    };
    int64_t starts[257] = {};
    for (int64_t i = 0; i < count; ++i) ++starts[digit(from[i]) + 1];
    if (std::find(starts + 1, starts + 257, count) != starts + 257) continue;
    for (int d = 0; d < 256; ++d) starts[d + 1] += starts[d];
    for (int64_t i = 0; i < count; ++i) to[starts[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from != events) std::copy(from, from + count, events);
}

// Orders one user's events by key; returns how many came before an event with a smaller key.
template <typename Index>
int64_t order_user(Event<Index>* events, int64_t count) {
  int64_t falls = 0;
  for (int64_t i = 1; i < count; ++i) falls += events[i].key < events[i - 1].key;
  if (falls == 0) return 0;
  if (count >= kRadixSort)
    radix_sort(events, count);
  else
    std::stable_sort(events, events + count,
                     [](const Event<Index>& a, const Event<Index>& b) { return a.key < b.key; });
  return falls;
}

// Local: holds a user's number inside its partition.
template <typename Index, typename Local>
class Grouping {
 public:
  explicit Grouping(const GroupEventsArgs& args)
      : user_(args.user.as<int32_t>()),
        key_(args.key.as<int64_t>()),
        item_(args.item.as<int32_t>()),
        offsets_(args.offsets.as<int64_t>()),
        grouped_key_(args.grouped_key.as<int64_t>()),
        grouped_item_(args.grouped_item.as<int32_t>()),
        order_(args.order.as<Index>()),
        events_(args.user.shape[0]),
        users_(args.offsets.shape[0] - 1) {
    while ((users_ - 1) >> shift_ >= kMaxPartitions) ++shift_;
    partitions_ = users_ == 0 ? 0 : ((users_ - 1) >> shift_) + 1;
    block_ = std::max(kMinBlock, (events_ + 511) / 512);
    blocks_ = (events_ + block_ - 1) / block_;
  }

  Grouping(const Grouping&) = delete;
  Grouping& operator=(const Grouping&) = delete;
  ~Grouping() {
    if (local_user_ != nullptr) HugePages<Local>().deallocate(local_user_, static_cast<size_t>(events_));
  }

  int64_t run() {
    offsets_[0] = 0;
    starts_.assign(static_cast<size_t>(blocks_ * partitions_), 0);
    parallel_for(blocks_, [&](int64_t b, int) { count_block(b); });
    if (interrupted()) return 0;
    expect_that(
        !bad_user_.load(), "user", [&] { return "codes in [0, " + std::to_string(users_) + ")"; }, "others");
    sum_counts();
    local_user_ = HugePages<Local>().allocate(static_cast<size_t>(events_));
    parallel_for(blocks_, [&](int64_t b, int) { partition_block(b); });
    if (interrupted()) return 0;
    return place();
  }

 private:
  int64_t& start(int64_t block, int64_t partition) {
    return starts_[static_cast<size_t>(block * partitions_ + partition)];
  }
  int64_t begin_of(int64_t partition) const { return partition_starts_[static_cast<size_t>(partition)]; }

  void count_block(int64_t b) {
    const int64_t end = std::min(events_, (b + 1) * block_);
    int64_t* counts = partitions_ == 0 ? nullptr : &start(b, 0);
    bool in_range = true;
    for (int64_t i = b * block_; i < end; ++i) {
      const bool inside = static_cast<uint32_t>(user_[i]) < static_cast<uint64_t>(users_);
      in_range &= inside;
      if (inside) ++counts[user_[i] >> shift_];
    }
    if (!in_range) bad_user_.store(true, std::memory_order_relaxed);
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
    const int32_t below = (1 << shift_) - 1;
    Local* local_user = local_user_;
    for (int64_t i = b * block_; i < end; ++i) {
      const int64_t to = next[user_[i] >> shift_]++;
      local_user[to] = static_cast<Local>(user_[i] & below);
      if (key_ != nullptr) grouped_key_[to] = key_[i];
      if (item_ != nullptr) grouped_item_[to] = item_[i];
      if (order_ != nullptr) order_[to] = static_cast<Index>(i);
    }
  }

  int64_t place() {
    std::vector<int64_t> falls(static_cast<size_t>(partitions_), 0);
    std::vector<std::vector<Event<Index>>> work(static_cast<size_t>(num_threads()));
    parallel_for(partitions_, [&](int64_t p, int thread) {
      if (begin_of(p + 1) - begin_of(p) < kHugePartition)
        falls[static_cast<size_t>(p)] = place_partition(p, work[static_cast<size_t>(thread)]);
    });
    for (int64_t p = 0; p < partitions_ && !interrupted(); ++p)
      if (begin_of(p + 1) - begin_of(p) >= kHugePartition)
        falls[static_cast<size_t>(p)] = place_partition(p, work[0]);
    int64_t total = 0;
    for (const int64_t n : falls) total += n;
    return total;
  }

  // `next` becomes where each user of the partition starts, relative to the partition.
  void count_users(int64_t first, int64_t last, int64_t begin, int64_t end, std::vector<int64_t>& next) {
    const Local* user = local_user_;
    next.assign(static_cast<size_t>(last - first) + 1, 0);
    for (int64_t i = begin; i < end; ++i) ++next[static_cast<size_t>(user[i]) + 1];
    for (int64_t u = first; u < last; ++u) {
      const size_t at = static_cast<size_t>(u - first) + 1;
      next[at] += next[at - 1];
      offsets_[u + 1] = begin + next[at];
    }
  }

  int64_t place_partition(int64_t p, std::vector<Event<Index>>& work) {
    const int64_t begin = begin_of(p), end = begin_of(p + 1);
    const int64_t first = p << shift_, last = std::min(users_, (p + 1) << shift_);
    std::vector<int64_t> next;
    count_users(first, last, begin, end, next);
    if (static_cast<int64_t>(work.size()) < end - begin) work.resize(static_cast<size_t>(end - begin));
    Event<Index>* placed = work.data();
    const Local* user = local_user_;
    for (int64_t i = begin; i < end; ++i) {
      Event<Index>& event = placed[next[static_cast<size_t>(user[i])]++];
      event.key = key_ == nullptr ? 0 : grouped_key_[i];
      event.item = item_ == nullptr ? 0 : grouped_item_[i];
      event.row = order_ == nullptr ? 0 : order_[i];
    }
    int64_t falls = 0;
    for (int64_t u = first, from = 0; u < last && key_ != nullptr; ++u) {
      const int64_t to = offsets_[u + 1] - begin;
      falls += order_user(placed + from, to - from);
      from = to;
    }
    write_back(placed, begin, end);
    return falls;
  }

  void write_back(const Event<Index>* placed, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Event<Index>& event = placed[i - begin];
      if (key_ != nullptr) grouped_key_[i] = event.key;
      if (item_ != nullptr) grouped_item_[i] = event.item;
      if (order_ != nullptr) order_[i] = event.row;
    }
  }

  const int32_t* user_;
  const int64_t* key_;
  const int32_t* item_;
  int64_t* offsets_;
  int64_t* grouped_key_;
  int32_t* grouped_item_;
  Index* order_;
  int64_t events_, users_, partitions_ = 0, block_ = 0, blocks_ = 0;
  int shift_ = 0;
  std::atomic<bool> bad_user_{false};
  std::vector<int64_t> starts_;  // [blocks, partitions]: counts, then where the block writes next
  std::vector<int64_t> partition_starts_;
  Local* local_user_ = nullptr;  // [N] in the order of partitions
};

}  // namespace

void group_events(const GroupEventsArgs& args) {
  expect_packed(args.user, "user", DType::i32, {kAnySize});
  const int64_t events = args.user.shape[0];
  if (args.key) {
    expect_packed(args.key, "key", DType::i64, {events});
    expect_output(args.grouped_key, "grouped_key", DType::i64, {events});
  }
  if (args.item) {
    expect_packed(args.item, "item", DType::i32, {events});
    expect_output(args.grouped_item, "grouped_item", DType::i32, {events});
  }
  expect_output(args.offsets, "offsets", DType::i64, {kAnySize});
  expect_that(args.offsets.shape[0] >= 1, "offsets", "at least one entry", "none");
  const bool narrow = args.order ? args.order.dtype == DType::i32 : events <= INT32_MAX;
  if (args.order) expect_output(args.order, "order", narrow ? DType::i32 : DType::i64, {events});
  expect_that(!narrow || events <= INT32_MAX, "order", "int64 for more than 2^31 - 1 events", "int32");
  expect_output(args.out_of_order, "out_of_order", DType::i64, {1});
  // up to 2^26 users a partition has at most 2^16 of them
  const bool few = args.offsets.shape[0] <= kMaxPartitions << 16;
  *args.out_of_order.as<int64_t>() =
      narrow ? few ? Grouping<int32_t, uint16_t>(args).run() : Grouping<int32_t, int32_t>(args).run()
             : Grouping<int64_t, int32_t>(args).run();
}

}  // namespace chronorec
