#include "engine/session_store.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

#include "core/check.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "engine/kept_state.h"
#include "engine/session.h"
#include "engine/session_index.h"

namespace chronorec {
namespace {

constexpr int64_t kMostShards = 16, kLeastShardBytes = 1 << 20;
constexpr uint32_t kNone = SessionIndex::kNone, kNumber = Session::kNumber;
constexpr int64_t kMostTime = int64_t{1} << 61;      // differences of times fit 64 bits
constexpr int64_t kEventBytes = 12, kTypeBytes = 4;  // of an event, of its type

uint64_t hash_of_user(const UserId& user, uint64_t seed) {
  if (!user.is_text) return mix(seed ^ static_cast<uint64_t>(user.number), kHashOdd);
  return hash_of(user.text.data(), static_cast<int64_t>(user.text.size()), seed);
}

Workspace& workspace() {
  static thread_local Workspace work;
  return work;
}

void expect_profile(const TensorView& profile, const std::vector<int64_t>& most) {
  expect_packed(profile, "profile", DType::i32, {static_cast<int64_t>(most.size())});
  for (size_t c = 0; c < most.size(); ++c) {
    const int64_t code = profile.as<const int32_t>()[c];
    expect_that(code >= -1 && code < most[c], "profile", "codes of the model", code);
  }
}

}  // namespace

class SessionStore::Shard {
 public:
  mutable std::mutex mutex;

  ~Shard() {
    for (uint32_t n = 0; n < sessions_.size(); ++n) release(at(n));
  }

  void set_up(const Program& program, const KeptState& kept, int64_t memory, int64_t idle_seconds,
              bool keeps_types) {
    program_ = &program, kept_ = &kept, memory_ = memory, idle_seconds_ = idle_seconds;
    keeps_types_ = keeps_types;
  }

  uint32_t find(const UserId& user, uint32_t hash) const {
    return index_.find(hash, [&](uint32_t n) { return at(n).hash == hash && at(n).is(user); });
  }

  uint32_t find_or_make(const UserId& user, uint32_t hash) {
    const uint32_t found = find(user, hash);
    return found == kNone ? make(user, hash) : found;
  }

  Session& at(uint32_t n) { return sessions_[n]; }
  const Session& at(uint32_t n) const { return sessions_[n]; }

  void touch(uint32_t n, int64_t now) {
    at(n).last_used = static_cast<uint32_t>(now);
    unlink(n);
    link(n);
  }

  void add_event(uint32_t n, int32_t item, int64_t time, int32_t type) {
    Session& session = at(n);
    if (session.count == session.capacity) grow(session);
    const int64_t* times = session.times();
    const auto place = static_cast<uint32_t>(std::upper_bound(times, times + session.count, time) - times);
    for (uint32_t i = place; i > 0 && times[i - 1] == time; --i)
      if (session.items()[i - 1] == item && is_same_type(n, i - 1, type)) return;
    if (place < session.taken) drop_state(n);
    insert(session.times(), session.count, place, time);
    insert(session.items(), session.count, place, item);
    if (keeps_types_) insert(session.types(), session.count, place, type);
    ++session.count;
    ++counts_.events;
  }

  // Whether a type may be that of an event at the same time of the same item: one that was not told, or not
  // known by the model that wrote it down, is that of any; then what is known of the two is kept.
  bool is_same_type(uint32_t n, uint32_t place, int32_t type) {
    if (!keeps_types_) return true;
    int32_t& own = at(n).types()[place];
    if (own < 0 && type >= 0) {
      if (place < at(n).taken) drop_state(n);
      own = type;
    }
    return own == type || type < 0;
  }

  // Shows the state the events that it has not seen; there is one afterwards.
  void* updated_state(uint32_t n) {
    Session& session = at(n);
    if (session.state == nullptr) {
      unlink(n);
      session.state = allocate<char>(kept_->bytes());
      session.taken = 0;
      counts_.state_bytes += state_bytes();
      ++counts_.states;
      link(n);
    }
    if (session.taken < session.count) {
      float* floats = kept_->open(session.state);
      replay(session, session.taken, session.count, floats);
      kept_->close(floats, session.state);
    }
    session.taken = session.count;
    return session.state;
  }

  // The same, counted.
  void* state_for_answer(uint32_t n) {
    ++(at(n).state != nullptr ? counts_.state_hits : counts_.state_misses);
    return updated_state(n);
  }

  void replay(const Session& session, uint32_t begin, uint32_t end, float* state) const {
    for (uint32_t i = begin; i < end; ++i)
      program_->append({session.items()[i], session.times()[i], i, session.times(),
                        keeps_types_ ? &session.types()[i] : nullptr},
                       state, workspace());
  }

  void drop_state(uint32_t n) {
    Session& session = at(n);
    if (session.state == nullptr) return;
    unlink(n);
    std::free(session.state);
    session.state = nullptr;
    session.taken = 0;
    counts_.state_bytes -= state_bytes();
    --counts_.states;
    link(n);
  }

  void erase(uint32_t n) {
    drop_state(n);
    unlink(n);
    index_.erase(n, [&](uint32_t k) { return at(k).hash; });
    counts_.events -= at(n).count;
    counts_.event_bytes -= event_bytes(at(n));
    counts_.index_bytes -= id_bytes(at(n));
    --counts_.sessions;
    release(at(n));
    free_.push_back(n);
  }

  // Forgets who was idle for too long, then gives up states and at last sessions until the memory is enough;
  // `kept` stays.
  void tidy(uint32_t kept, int64_t now) {
    for (List* list : {&with_state_, &without_state_})
      while (idle_seconds_ > 0 && list->oldest != kNone && list->oldest != kept &&
             at(list->oldest).last_used + idle_seconds_ < now)
        erase(list->oldest), ++counts_.dropped_sessions;
    while (bytes() > memory_ && with_state_.oldest != kNone && with_state_.oldest != kept)
      drop_state(with_state_.oldest), ++counts_.dropped_states;
    while (bytes() > memory_ && without_state_.oldest != kNone && without_state_.oldest != kept)
      erase(without_state_.oldest), ++counts_.dropped_sessions;
  }

  SessionCounts counts() const {
    SessionCounts all = counts_;
    all.index_bytes +=
        index_.bytes() + sessions_.bytes() + static_cast<int64_t>(free_.capacity() * sizeof(uint32_t));
    return all;
  }

  void visit(const Visit& visit) const {
    for (const List* list : {&without_state_, &with_state_})
      for (uint32_t n = list->oldest; n != kNone; n = at(n).newer)
        visit(at(n).user(), at(n).items(), at(n).times(), types_of(at(n)), at(n).count);
  }

  // None where none are kept.
  const int32_t* types_of(const Session& session) const { return keeps_types_ ? session.types() : nullptr; }

 private:
  struct List {
    uint32_t newest = kNone, oldest = kNone;
  };

  int64_t bytes() const {
    const SessionCounts all = counts();
    return all.index_bytes + all.state_bytes + all.event_bytes;
  }
  int64_t state_bytes() const { return block_bytes(kept_->bytes()); }
  int64_t bytes_per_event() const { return keeps_types_ ? kEventBytes + kTypeBytes : kEventBytes; }
  int64_t event_bytes(const Session& session) const {
    return session.capacity == 0 ? 0 : block_bytes(session.capacity * bytes_per_event());
  }
  static int64_t id_bytes(const Session& session) {
    return session.text_size == kNumber ? 0 : block_bytes(session.text_size + 1);
  }

  uint32_t make(const UserId& user, uint32_t hash) {
    Session session;
    session.hash = hash;
    session.text_size = user.is_text ? static_cast<uint32_t>(user.text.size()) : kNumber;
    if (user.is_text) {
      session.text = allocate<char>(session.text_size + 1);
      std::memcpy(session.text, user.text.data(), session.text_size);
    } else {
      session.number = user.number;
    }
    uint32_t n = 0;
    if (free_.empty()) {
      n = sessions_.add(session);
    } else {
      n = free_.back();
      free_.pop_back();
      at(n) = session;
    }
    index_.insert(n, [&](uint32_t k) { return at(k).hash; });
    counts_.index_bytes += id_bytes(session);
    ++counts_.sessions;
    link(n);
    return n;
  }

  void grow(Session& session) {
    const Session before = session;
    session.capacity = before.capacity < 4 ? 4 : before.capacity + before.capacity / 2;
    session.events = reinterpret_cast<int64_t*>(allocate<char>(session.capacity * bytes_per_event()));
    if (before.count > 0) {
      std::copy_n(before.times(), before.count, session.times());
      std::copy_n(before.items(), before.count, session.items());
      if (keeps_types_) std::copy_n(before.types(), before.count, session.types());
    }
    std::free(before.events);
    counts_.event_bytes += event_bytes(session) - event_bytes(before);
  }

  static void release(Session& session) {
    if (session.text_size != kNumber) std::free(session.text);
    std::free(session.events);
    std::free(session.state);
    session = Session();
    session.text_size = kNumber;
  }

  List& list_of(uint32_t n) { return at(n).state != nullptr ? with_state_ : without_state_; }

  void link(uint32_t n) {
    List& list = list_of(n);
    at(n).older = list.newest;
    at(n).newer = kNone;
    (list.newest == kNone ? list.oldest : at(list.newest).newer) = n;
    list.newest = n;
  }

  void unlink(uint32_t n) {
    List& list = list_of(n);
    const Session& session = at(n);
    (session.newer == kNone ? list.newest : at(session.newer).older) = session.older;
    (session.older == kNone ? list.oldest : at(session.older).newer) = session.newer;
  }

  const Program* program_ = nullptr;
  const KeptState* kept_ = nullptr;
  int64_t memory_ = 0, idle_seconds_ = 0;
  bool keeps_types_ = false;
  Sessions sessions_;
  std::vector<uint32_t> free_;
  SessionIndex index_;
  List with_state_, without_state_;
  SessionCounts counts_ = {};
};

SessionStore::SessionStore(const Program& program, int64_t memory, int64_t idle_seconds, bool keeps_types)
    : program_(program), kept_(std::make_unique<KeptState>(program)), idle_seconds_(idle_seconds) {
  expect_that(keeps_types || !program.reads_types(), "keeps_types", "true for this program", "false");
  expect_that(memory > 0, "memory", "at least 1 byte", memory);
  expect_that(idle_seconds >= 0, "idle_seconds", "at least 0", idle_seconds);
  num_shards_ = std::clamp<int64_t>(memory / kLeastShardBytes, 1, kMostShards);
  shards_ = std::make_unique<Shard[]>(static_cast<size_t>(num_shards_));
  for (int64_t s = 0; s < num_shards_; ++s)
    shards_[static_cast<size_t>(s)].set_up(program, *kept_, memory / num_shards_, idle_seconds, keeps_types);
  if (getrandom(&seed_, sizeof seed_, 0) != sizeof seed_) throw std::runtime_error("no random seed");
}

SessionStore::~SessionStore() = default;

// The upper half of a hash finds the shard, the lower half the place in its table.
SessionStore::Shard& SessionStore::shard_of(uint64_t hash) const {
  return shards_[static_cast<size_t>((hash >> 32) % static_cast<uint64_t>(num_shards_))];
}

// Each event makes one shard, all in turn, forget who is idle: the shard of a user who never comes back may
// be nobody else's.
void SessionStore::sweep(int64_t now) {
  if (idle_seconds_ == 0) return;
  Shard& shard = shards_[static_cast<size_t>(swept_.fetch_add(1, std::memory_order_relaxed) %
                                             static_cast<uint64_t>(num_shards_))];
  const std::lock_guard<std::mutex> lock(shard.mutex);
  shard.tidy(kNone, now);
}

int64_t SessionStore::append(const UserId& user, const int32_t* items, const int64_t* times,
                             const int32_t* types, int64_t count, int64_t now) {
  for (int64_t i = 0; i < count; ++i) {
    expect_that(times[i] >= -kMostTime && times[i] <= kMostTime, "times", "microseconds from -2^61 to 2^61",
                times[i]);
    if (types != nullptr)
      expect_that(types[i] >= -1 && types[i] < program_.most_types(), "types", "codes of the model",
                  types[i]);
  }
  sweep(now);
  const uint64_t hash = hash_of_user(user, seed_);
  Shard& shard = shard_of(hash);
  const std::lock_guard<std::mutex> lock(shard.mutex);
  const uint32_t known = shard.find(user, static_cast<uint32_t>(hash));
  if (count == 0) return known == kNone ? 0 : shard.at(known).count;
  const uint32_t n = shard.find_or_make(user, static_cast<uint32_t>(hash));
  expect_that(shard.at(n).count + count < INT32_MAX, "items", "fewer than 2^31 events in all", count);
  for (int64_t i = 0; i < count; ++i)
    shard.add_event(n, items[i], times[i], types == nullptr ? -1 : types[i]);
  if (shard.at(n).state != nullptr) shard.updated_state(n);
  if (interrupted()) shard.drop_state(n);  // what a Ctrl-C skipped is missing in it
  shard.touch(n, now);
  shard.tidy(n, now);
  return shard.at(n).count;
}

int64_t SessionStore::query(const UserId& user, int64_t at, int64_t end, int64_t now,
                            const TensorView& profile, float* query, std::vector<int32_t>& seen) {
  static thread_local std::vector<float> other;
  if (profile) expect_profile(profile, program_.profile());
  expect_that(at >= -kMostTime && at <= kMostTime, "at", "microseconds from -2^61 to 2^61", at);
  const uint64_t hash = hash_of_user(user, seed_);
  Shard& shard = shard_of(hash);
  const std::lock_guard<std::mutex> lock(shard.mutex);
  const uint32_t n = shard.find(user, static_cast<uint32_t>(hash));
  uint32_t used = 0;
  const float* state = nullptr;
  const int64_t* times = nullptr;
  if (n != kNone) {
    const Session& session = shard.at(n);
    times = session.times();
    used = static_cast<uint32_t>(std::lower_bound(session.times(), session.times() + session.count, end) -
                                 session.times());
    if (used == session.count) state = kept_->open_for_answer(shard.state_for_answer(n));
    seen.assign(session.items(), session.items() + used);
  }
  if (state == nullptr) {  // as of a time in the past, or of nobody
    other.assign(static_cast<size_t>(kept_->floats()), 0.0f);
    if (used > 0) shard.replay(shard.at(n), 0, used, other.data());
    state = other.data();
  }
  const float* answer =
      program_.answer({-1, at, used, times, profile.as<const int32_t>()}, state, workspace());
  std::memcpy(query, answer, static_cast<size_t>(program_.answer_width()) * sizeof(float));
  if (n != kNone) {
    if (interrupted()) shard.drop_state(n);
    shard.touch(n, now);
    shard.tidy(n, now);
  }
  return used;
}

bool SessionStore::contains(const UserId& user) const {
  const uint64_t hash = hash_of_user(user, seed_);
  const Shard& shard = shard_of(hash);
  const std::lock_guard<std::mutex> lock(shard.mutex);
  return shard.find(user, static_cast<uint32_t>(hash)) != kNone;
}

bool SessionStore::events(const UserId& user, std::vector<int32_t>& items, std::vector<int64_t>& times,
                          std::vector<int32_t>& types) const {
  const uint64_t hash = hash_of_user(user, seed_);
  const Shard& shard = shard_of(hash);
  const std::lock_guard<std::mutex> lock(shard.mutex);
  const uint32_t n = shard.find(user, static_cast<uint32_t>(hash));
  if (n == kNone) return false;
  const Session& session = shard.at(n);
  items.assign(session.items(), session.items() + session.count);
  times.assign(session.times(), session.times() + session.count);
  if (const int32_t* kept = shard.types_of(session)) types.assign(kept, kept + session.count);
  return true;
}

bool SessionStore::forget(const UserId& user) {
  const uint64_t hash = hash_of_user(user, seed_);
  Shard& shard = shard_of(hash);
  const std::lock_guard<std::mutex> lock(shard.mutex);
  const uint32_t n = shard.find(user, static_cast<uint32_t>(hash));
  if (n == kNone) return false;
  shard.erase(n);
  return true;
}

SessionCounts SessionStore::counts() const {
  SessionCounts all = {};
  for (int64_t s = 0; s < num_shards_; ++s) {
    const Shard& shard = shards_[static_cast<size_t>(s)];
    const std::lock_guard<std::mutex> lock(shard.mutex);
    const SessionCounts own = shard.counts();
    all.sessions += own.sessions, all.states += own.states, all.events += own.events;
    all.index_bytes += own.index_bytes, all.state_bytes += own.state_bytes;
    all.event_bytes += own.event_bytes;
    all.dropped_states += own.dropped_states, all.dropped_sessions += own.dropped_sessions;
    all.state_hits += own.state_hits, all.state_misses += own.state_misses;
  }
  return all;
}

void SessionStore::visit(int64_t shard, const Visit& visit) const {
  const Shard& one = shards_[static_cast<size_t>(shard)];
  const std::lock_guard<std::mutex> lock(one.mutex);
  one.visit(visit);
}

}  // namespace chronorec
