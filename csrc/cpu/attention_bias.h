// The learned bias of attention scores: tables by gap of position, gap of time, and distance in space.
//
// The buckets of a tile's pairs are found once and kept for all heads of the sequence, one byte each. Queries
// are lanes here as in the scores, so a bias by gap of position is a slice of a table laid out by gap, and
// one by bucket is a shuffle of the table.
#pragma once
#include "cpu/jagged_attention.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int64_t kLookup = 2 * kLanes;        // table entries that one shuffle reaches
constexpr int64_t kSearched = 2 * kLanes - 1;  // boundaries that one search in a pair of vectors tells apart
constexpr int64_t kGaps = kMaxKeys + 2 * kGroup;  // gaps of position in a tile, with a vector's overhang
constexpr int64_t kTileBytes = kMaxKeys * kGroup;

typedef int64_t vl __attribute__((vector_size(kLanes * 4)));  // half as many lanes
typedef float vhalf __attribute__((vector_size(kLanes * 2)));
typedef uint8_t vb __attribute__((vector_size(kLanes)));
constexpr int kHalf = kLanes / 2;

inline vi load_bytes(const uint8_t* p) {
  vb bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, vi);
}
inline void store_bytes(uint8_t* p, vi v) {
  const vb bytes = __builtin_convertvector(v, vb);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}

// A table by bucket, and what the buckets of pairs are made of.
struct BucketKind {
  TensorView boundaries, table;
  float *searched, *values, *sums;  // boundaries in searched blocks; the head's table; its gradient by lanes

  int64_t buckets() const { return table.shape[1]; }
};

// buckets[i] += how many boundaries each lane of x[i] has reached.
inline void count_reached(const BucketKind& kind, const float* x, int64_t count, vi* buckets) {
  for (int64_t i = 0; i < count; ++i) buckets[i] = vi{};
  const float* block = kind.searched;
  for (int64_t b = 0; b < kind.boundaries.shape[0]; b += kSearched, block += kLookup) {
    const vf low = load(block), high = load(block + kLanes);
    for (int64_t i = 0; i < count; ++i) {
      const vf value = load(x + i * kLanes);
      vi reached = {};
#pragma GCC unroll 5
      for (int step = kLanes; step > 0; step /= 2) {
        const vi next = reached + step;
        reached = value >= shuffle(low, high, next - 1) ? next : reached;
      }
      buckets[i] += reached;
    }
  }
}

// The table's entries at these buckets, zero for buckets outside of the block.
inline vf look_up(const BucketKind& kind, vi buckets, int64_t block) {
  const vi place = buckets - static_cast<int32_t>(block);
  constexpr int32_t kPast = kLookup;
  const vf entry =
      shuffle(load(kind.values + block), load(kind.values + block + kLanes), place & (kPast - 1));
  return (place >= 0) & (place < kPast) ? entry : splat(0);
}

// column[k] += the table's entry at the bucket of each pair.
inline void add_looked_up(const BucketKind& kind, const uint8_t* buckets, int64_t begin, int64_t end,
                          float* column) {
  if (kind.buckets() <= kLookup) {
    const vf low = load(kind.values), high = load(kind.values + kLanes);
    for (int64_t k = begin; k < end; ++k) {
      float* at = column + k * kLanes;
      store(at, load(at) + shuffle(low, high, load_bytes(buckets + k * kGroup)));
    }
    return;
  }
  for (int64_t b = 0; b < kind.buckets(); b += kLookup)
    for (int64_t k = begin; k < end; ++k) {
      float* at = column + k * kLanes;
      store(at, load(at) + look_up(kind, load_bytes(buckets + k * kGroup), b));
    }
}

// The first of `count` lanes after `lane` whose bucket is another.
inline int64_t next_bucket(const uint8_t* buckets, int64_t lane, int64_t count) {
  const uint8_t bucket = buckets[lane];
  while (++lane < count && buckets[lane] == bucket) {
  }
  return lane;
}

inline bool one_bucket(const uint8_t* buckets) {
  if constexpr (kLanes >= 8) {
    uint64_t words[kLanes / 8];
    __builtin_memcpy(words, buckets, kLanes);
    return words[0] == (words[0] & 0xff) * 0x0101010101010101u && words[kLanes / 8 - 1] == words[0];
  }
  return next_bucket(buckets, 0, kLanes) == kLanes;
}

// sums[bucket] += grads, lane by lane. Queries that follow each other mostly share the bucket of a key, and a
// query that of the next key: such a run is added up in a register.
inline void add_to_buckets(const BucketKind& kind, const uint8_t* buckets, const float* grads, int64_t lanes,
                           int64_t begin, int64_t end) {
  const auto add = [&](int64_t bucket, vf x) {
    float* at = kind.sums + bucket * kLanes;
    store(at, load(at) + x);
  };
  int64_t current = 0;
  vf run = splat(0);
  for (int64_t k = begin; k < end; ++k) {
    const uint8_t* pair = buckets + k * kGroup;
    vf grad = first_lanes(load(grads + k * kGroup), lanes);
    if (one_bucket(pair)) {
      if (pair[0] != current) add(current, run), run = splat(0), current = pair[0];
      run += grad;
      continue;
    }
    const vi places = load_bytes(pair);
    for (int64_t lane = 0; lane < kLanes; lane = next_bucket(pair, lane, kLanes)) {
      const auto same = places == splat_int(pair[lane]);
      add(pair[lane], same ? grad : splat(0));
      grad = same ? splat(0) : grad;
    }
  }
  add(current, run);
}

// A thread's share of scratch for bias; `memo` only for whole sequences.
struct BiasWorkspace {
  float *gaps = nullptr, *gap_sums = nullptr, *kinds[2][3] = {};
  uint8_t* memo = nullptr;

  BiasWorkspace() = default;
  explicit BiasWorkspace(Carver& carver) {
    gaps = carver.take<float>(kGaps), gap_sums = carver.take<float>(kGaps);
    for (auto& kind : kinds)
      for (int64_t i = 0; i < 3; ++i) kind[i] = carver.take<float>(kAttentionBuckets * (i == 2 ? kLanes : 2));
    static_assert(8 * kGaps + 8 * kAttentionBuckets * (4 + kLanes) + 8 * 64 <= kAttentionBiasBytes);
  }
  void keep_buckets(Carver& carver) {
    memo = reinterpret_cast<uint8_t*>(carver.take<float>((kAttentionMemo + 2 * kTileBytes) / 4));
    static_assert(2 * kTileBytes <= kAttentionMemoBytes - kAttentionMemo);
  }
};

// The bias of one sequence, head after head.
class Bias {
 public:
  template <typename Args>
  Bias(const Args& args, const Form& form, int64_t begin, BiasWorkspace work)
      : position_(args.position),
        kinds_{{args.time_boundaries, args.time_table, work.kinds[0][0], work.kinds[0][1], work.kinds[0][2]},
               {args.distance_boundaries, args.distance_table, work.kinds[1][0], work.kinds[1][1],
                work.kinds[1][2]}},
        form_(form),
        work_(work) {
    if (kinds_[kTime].table) times_ = args.times.template as<int64_t>() + begin;
    if (kinds_[kDistance].table) places_ = args.places.template as<float>() + begin * 3;
    for_each_kind([&](int i) { fill_searched(kinds_[i]); });
  }

  bool any() const { return position_ || kinds_[kTime].table || kinds_[kDistance].table; }

  void start_head(int64_t head) {
    head_ = head;
    used_ = 0;
    for_each_kind([&](int i) { load_table(kinds_[i]); });
  }
  // The next head takes the same tiles in the same order.
  void end_head() { filled_ = true; }

  // Must come before `add` and `collect` of a tile.
  void prepare(const Tile& tile) {
    if (position_) expand_gaps(tile);
    int64_t wanted = 0;
    for_each_kind([&](int) { wanted += tile.keys() * kGroup; });
    const bool kept = used_ + wanted <= kAttentionMemo;
    uint8_t* at = work_.memo + (kept ? used_ : kAttentionMemo);
    used_ += kept ? wanted : 0;
    for_each_kind([&](int i) {
      buckets_[i] = at;
      at += tile.keys() * kGroup;
      if (kept && filled_) return;
      i == kTime ? find_time_buckets(tile) : find_distance_buckets(tile);
    });
  }

  // Adds the bias to the scores of a panel's vector v.
  void add(const Tile& tile, int64_t panel, int v, float* scores) const {
    const int64_t at = panel * kPanel + v * kLanes, begin = tile.begin[panel], end = tile.end[panel];
    float* column = scores + at;
    float total[kMaxKeys * kLanes];  // first, so that a sum of biases is rounded apart from the score
    const float* gaps = work_.gaps + tile.keys() - 1 + at;
    for (int64_t k = begin; k < end; ++k) store(total + k * kLanes, position_ ? load(gaps - k) : splat(0));
    for_each_kind([&](int i) { add_looked_up(kinds_[i], buckets_[i] + at, begin, end, total); });
    for (int64_t k = begin; k < end; ++k)
      store(column + k * kGroup, load(column + k * kGroup) + load(total + k * kLanes));
  }

  // Adds the bias of one query to its scores with keys [key, key + count), in full vectors.
  void add_row(int64_t query, int64_t key, int64_t count, float* scores) const {
    for (int64_t k = 0; k < count; k += kLanes) {
      const auto key_of = [&](int64_t lane) { return key + min64(k + lane, count - 1); };
      float total[kLanes] = {};
      if (position_) {
        const float* table = position_.as<float>() + head_ * position_.stride[0];
        for (int64_t i = 0; i < kLanes; ++i) total[i] = table[column_of(query - key_of(i))];
      }
      float x[kPanel];
      if (kinds_[kTime].table) {
        int64_t keys[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) keys[i] = times_[key_of(i)];
        gaps_of(keys, times_[query], kLanes, x);
        add_entries(kinds_[kTime], load(x), total);
      }
      if (kinds_[kDistance].table) {
        float keys[3][kLanes];
        for (int64_t i = 0; i < kLanes; ++i)
          for (int64_t c = 0; c < 3; ++c) keys[c][i] = places_[key_of(i) * 3 + c];
        add_entries(kinds_[kDistance], squares_of(keys[0], keys[1], keys[2], places_ + query * 3), total);
      }
      store(scores + k, load(scores + k) + load(total));
    }
  }

  // ---- backward: gradients of the tables, gathered over the tiles between clear_sums and write_sums

  void clear_sums(float* table_grads) const {
    for (int64_t i = 0; position_ && i < position_.shape[1]; ++i) table_grads[i] = 0;
    for_each_kind([&](int i) { clear(kinds_[i].sums, kinds_[i].buckets() * kLanes); });
  }

  // Adds the gradients of a tile's scores; those of hidden pairs are zero.
  void collect(const Tile& tile, const float* grads, float* table_grads) const {
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      for (int v = 0; v < kPanelVecs; ++v) {
        const int64_t at = panel * kPanel + v * kLanes, lanes = tile.count - at;
        const int64_t begin = tile.begin[panel], end = tile.end[panel];
        for_each_kind(
            [&](int i) { add_to_buckets(kinds_[i], buckets_[i] + at, grads + at, lanes, begin, end); });
      }
    if (position_) collect_gaps(tile, grads, table_grads);
  }

  // Writes all columns of the tables' gradients: position, time, distance.
  void write_sums(float* table_grads) const {
    if (position_) table_grads += position_.shape[1];
    for_each_kind([&](int i) {
      for (int64_t b = 0; b < kinds_[i].buckets(); ++b)
        *table_grads++ = sum(load(kinds_[i].sums + b * kLanes));
    });
  }

 private:
  enum { kTime = 0, kDistance = 1 };

  // body(kind) for the tables that there are.
  template <typename Body>
  void for_each_kind(Body&& body) const {
    for (int i = 0; i < 2; ++i)
      if (kinds_[i].table) body(i);
  }

  static void fill_searched(const BucketKind& kind) {
    const float* boundaries = kind.boundaries.as<float>();
    const int64_t count = kind.boundaries.shape[0];
    float* out = kind.searched;
    for (int64_t b = 0; b < count; b += kSearched)
      for (int64_t i = 0; i < kLookup; ++i)
        *out++ = i < kSearched && b + i < count ? boundaries[b + i] : __builtin_inff();
  }

  void load_table(const BucketKind& kind) const {
    if (!kind.table) return;
    const float* table = kind.table.as<float>() + head_ * kind.table.stride[0];
    for (int64_t b = 0; b < round_up(kind.buckets(), kLookup); ++b)
      kind.values[b] = b < kind.buckets() ? table[b] : 0;
  }

  // The table's column for gap i - j.
  int64_t column_of(int64_t gap) const {
    const int64_t columns = position_.shape[1];
    return min64(max64(form_.causal ? gap : gap + columns / 2, 0), columns - 1);
  }

  // The gap of query q and key k of a tile stands at place q - k + keys - 1.
  void expand_gaps(const Tile& tile) const {
    const float* table = position_.as<float>() + head_ * position_.stride[0];
    const int64_t least = tile.first - tile.key_end + 1;
    for (int64_t i = 0; i < tile.keys() + kGroup; ++i) work_.gaps[i] = table[column_of(least + i)];
  }

  // Keys are taken kPanel apart, so that a vector does not meet the one just stored.
  void collect_gaps(const Tile& tile, const float* grads, float* table_grads) const {
    const int64_t count = round_up(tile.keys() + kGroup, kLanes);
    clear(work_.gap_sums, count);
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      for (int v = 0; v < kPanelVecs; ++v) {
        const int64_t at = panel * kPanel + v * kLanes;
        float* sums = work_.gap_sums + tile.keys() - 1 + at;
        for (int64_t r = 0; r < kPanel; ++r)
          for (int64_t k = tile.begin[panel] + r; k < tile.end[panel]; k += kPanel) {
            const vf grad = first_lanes(load(grads + k * kGroup + at), tile.count - at);
            store(sums - k, load(sums - k) + grad);
          }
      }
    const int64_t least = tile.first - tile.key_end + 1;
    for (int64_t i = 0; i < tile.keys() + tile.count - 1; ++i)
      table_grads[column_of(least + i)] += work_.gap_sums[i];
  }

  // Finds the buckets of all pairs; values(k, panel, out) gives what is sorted into buckets for one key and
  // the queries of a panel.
  template <typename Values>
  void find_buckets(int kind, const Tile& tile, Values&& values) const {
    constexpr int64_t kChunk = 8;
    float x[kChunk * kPanel];
    vi found[kChunk * kPanelVecs];
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      for (int64_t k = tile.begin[panel]; k < tile.end[panel]; k += kChunk) {
        const int64_t count = min64(kChunk, tile.end[panel] - k);
        for (int64_t i = 0; i < count; ++i) values(k + i, panel, x + i * kPanel);
        count_reached(kinds_[kind], x, count * kPanelVecs, found);
        for (int64_t i = 0; i < count * kPanelVecs; ++i)
          store_bytes(
              buckets_[kind] + (k + i / kPanelVecs) * kGroup + panel * kPanel + i % kPanelVecs * kLanes,
              found[i]);
      }
  }

  // Queries that are not there repeat the last one.
  int64_t query_of(const Tile& tile, int64_t q) const { return tile.first + min64(q, tile.count - 1); }

  // |times[i] - time| as fp32, `count` a multiple of kLanes.
  static void gaps_of(const int64_t* times, int64_t time, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += kHalf) {
      vl at;
      __builtin_memcpy(&at, times + i, sizeof at);
      const vhalf gap = __builtin_convertvector(at - time, vhalf);
      const vhalf size = gap < 0 ? -gap : gap;
      __builtin_memcpy(out + i, &size, sizeof size);
    }
  }

  // Squares of the distances between a vector of points and one.
  static vf squares_of(const float* x, const float* y, const float* z, const float* point) {
    const vf dx = load(x) - splat(point[0]), dy = load(y) - splat(point[1]), dz = load(z) - splat(point[2]);
    return fma(dx, dx, fma(dy, dy, dz * dz));
  }

  static void add_entries(const BucketKind& kind, vf x, float* scores) {
    float value[kLanes];
    vi bucket[1];
    store(value, x);
    count_reached(kind, value, 1, bucket);
    vf total = load(scores);
    for (int64_t b = 0; b < kind.buckets(); b += kLookup) total += look_up(kind, bucket[0], b);
    store(scores, total);
  }

  void find_time_buckets(const Tile& tile) const {
    int64_t queries[kGroup];
    for (int64_t q = 0; q < kGroup; ++q) queries[q] = times_[query_of(tile, q)];
    find_buckets(kTime, tile, [&](int64_t k, int64_t panel, float* out) {
      gaps_of(queries + panel * kPanel, times_[tile.key + k], kPanel, out);
    });
  }

  void find_distance_buckets(const Tile& tile) const {
    float queries[3][kGroup];
    for (int64_t q = 0; q < kGroup; ++q)
      for (int64_t c = 0; c < 3; ++c) queries[c][q] = places_[query_of(tile, q) * 3 + c];
    find_buckets(kDistance, tile, [&](int64_t k, int64_t panel, float* out) {
      for (int64_t q = 0; q < kPanel; q += kLanes) {
        const int64_t at = panel * kPanel + q;
        store(out + q,
              squares_of(queries[0] + at, queries[1] + at, queries[2] + at, places_ + (tile.key + k) * 3));
      }
    });
  }

  TensorView position_;
  BucketKind kinds_[2];
  const int64_t* times_ = nullptr;
  const float* places_ = nullptr;
  Form form_;
  int64_t head_ = 0, used_ = 0;
  bool filled_ = false;
  uint8_t* buckets_[2] = {};
  BiasWorkspace work_;
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
