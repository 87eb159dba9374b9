// The sessions of an engine: events are always kept, 12 bytes each, 16 with their types; the state that a
// program makes of them is kept while memory lasts, given up for the least recently used sessions first, and
// made again when asked for.
//
// Users fall into shards by the hash of their id; a shard's lock is held while its session is read or
// changed, so that calls for different users go on side by side. "Least recently used" holds within a shard.
#pragma once
#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/program.h"

namespace chronorec {

class KeptState;

// A user's id: a whole number or a text, never the same session.
struct UserId {
  int64_t number;
  std::string_view text;
  bool is_text;
};

struct SessionCounts {
  int64_t sessions, states, events;
  int64_t index_bytes, state_bytes, event_bytes;
  int64_t dropped_states, dropped_sessions;  // since the start: for want of memory, or idle for too long
  int64_t state_hits, state_misses;  // since the start: answers from a state that was kept, or was not
};

class SessionStore {
 public:
  // States are kept as the program says (Program::states).
  // memory: bytes for everything that is kept; idle_seconds: after which a session is forgotten, or 0: never;
  // keeps_types: whether events have types that are kept, as a program wants that reads them.
  SessionStore(const Program& program, int64_t memory, int64_t idle_seconds, bool keeps_types);
  ~SessionStore();
  SessionStore(const SessionStore&) = delete;
  SessionStore& operator=(const SessionStore&) = delete;

  // Adds events, oldest first; one that is older than those kept is put in its place, and one of an item, a
  // time and a type that are there already is the same event told twice. Without `types` all are missing
  // (-1). `now` is in seconds. Returns how many events the session has.
  int64_t append(const UserId& user, const int32_t* items, const int64_t* times, const int32_t* types,
                 int64_t count, int64_t now);

  // Copies the answer register of a request at time `at` (microseconds) to `query`, and the items of the
  // events used to `seen`: those before `end`. `profile`: int32 [C], codes of the columns that the program
  // reads, -1 where missing; or none. Returns how many events were used; none of an unknown user.
  int64_t query(const UserId& user, int64_t at, int64_t end, int64_t now, const TensorView& profile,
                float* query, std::vector<int32_t>& seen);

  // Copies of a session's events, oldest first; false where there is no such session. No types where none
  // are kept.
  bool events(const UserId& user, std::vector<int32_t>& items, std::vector<int64_t>& times,
              std::vector<int32_t>& types) const;
  bool contains(const UserId& user) const;
  bool forget(const UserId& user);

  SessionCounts counts() const;
  // Calls visit(user, items, times, types or none, count) for every session of one shard, which is locked
  // meanwhile.
  using Visit = std::function<void(const UserId&, const int32_t*, const int64_t*, const int32_t*, int64_t)>;
  int64_t num_shards() const { return num_shards_; }
  void visit(int64_t shard, const Visit& visit) const;

 private:
  class Shard;

  Shard& shard_of(uint64_t hash) const;
  void sweep(int64_t now);

  const Program& program_;
  std::unique_ptr<KeptState> kept_;
  int64_t num_shards_;
  uint64_t seed_;  // of the hash: nobody outside can choose ids that collide
  int64_t idle_seconds_;
  std::atomic<uint64_t> swept_{0};
  std::unique_ptr<Shard[]> shards_;
};

}  // namespace chronorec
