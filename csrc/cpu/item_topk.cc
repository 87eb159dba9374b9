#include "cpu/item_candidates.h"
#include "cpu/item_lists.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// The work on one wave of queries. A split of a query ends with a list of keys: of exact scores, or, where
// the table has codes, of what scores can be at most until `settle` has scored the few that can matter.
class Wave {
 public:
  Wave(const ItemTopkArgs& args, const ItemScores& s, const TopkPlan& plan)
      : args_(args), s_(s), plan_(plan), scratch_(args.scratch.as<uint64_t>()) {}

  void run(int64_t first, int64_t rows) {
    first_ = first, rows_ = rows;
    for (int64_t row = 0; row < rows; ++row) *floor(row) = 0;
    if (!plan_.coded()) {
      search([&](int64_t row, int64_t count, int64_t split) { search_exact(row, count, split, nullptr); });
    } else if (args_.codes.dtype == DType::bf16) {
      run_coded(args_.codes.as<bf16>());
    } else {
      run_coded(args_.codes.as<uint8_t>());
    }
    parallel_for(rows, [&](int64_t row, int) { merge(row); });
  }

 private:
  // Lists lie split by split within a query.
  uint64_t* keys(int64_t row, int64_t split) const {
    return scratch_ + (row * plan_.cut.splits + split) * plan_.capacity;
  }
  uint64_t* lowers(int64_t row, int64_t split) const {
    return scratch_ + plan_.lowers() + (row * plan_.cut.splits + split) * plan_.lower_capacity;
  }
  int64_t* filled(int64_t row) const {
    return reinterpret_cast<int64_t*>(scratch_ + plan_.filled()) + row * plan_.cut.splits;
  }
  int64_t* lowers_filled(int64_t row) const {
    return reinterpret_cast<int64_t*>(scratch_ + plan_.lowers_filled()) + row * plan_.cut.splits;
  }
  uint32_t* floor(int64_t row) const { return reinterpret_cast<uint32_t*>(scratch_ + plan_.floors()) + row; }
  int32_t* words(int64_t row) const {
    return reinterpret_cast<int32_t*>(scratch_ + plan_.queries()) + row * plan_.query_words;
  }
  int64_t split_begin(int64_t split) const { return split * plan_.cut.split_items; }
  int64_t split_end(int64_t split) const { return min64(s_.items, split_begin(split + 1)); }

  // body(row, count, split) for every block of the wave's queries and every split, in parallel
  template <typename Body>
  void search(Body&& body) const {
    parallel_for(plan_.cut.blocks * plan_.cut.splits, [&](int64_t task, int) {
      const int64_t row = task % plan_.cut.blocks * kBlockQueries;
      if (row < rows_) body(row, min64(kBlockQueries, rows_ - row), task / plan_.cut.blocks);
    });
  }

  // Of the queries that are `wanted`, or all.
  void search_exact(int64_t row, int64_t count, int64_t split, const bool* wanted) const {
    Candidates found[kBlockQueries];
    for (int64_t i = 0; i < count; ++i) found[i] = {keys(row + i, split), 0, kTakenOut, floor(row + i)};
    for_each_exact_tile(s_, first_ + row, count, split_begin(split), split_end(split),
                        [&](int64_t i, int64_t item, int64_t items, const float* scores) {
                          if (wanted == nullptr || wanted[i])
                            collect(found[i], scores, item, items, args_.k, plan_.capacity);
                        });
    for (int64_t i = 0; i < count; ++i) {
      if (wanted != nullptr && !wanted[i]) continue;
      prune(found[i], args_.k);
      filled(row + i)[split] = found[i].filled;
    }
  }

  template <typename Code>
  void run_coded(const Code* codes) const {
    const CodedItems<Code> coded = {s_,    codes, args_.code_facts.as<bf16>(), words(0), plan_.query_words,
                                    first_};
    parallel_for(ceil_div(rows_, kBlockQueries), [&](int64_t block, int) {
      for (int64_t row = block * kBlockQueries; row < min64(rows_, (block + 1) * kBlockQueries); ++row)
        prepare_query(s_.query(first_ + row), s_.depth, codes, reinterpret_cast<CodedQuery*>(words(row)));
    });
    search([&](int64_t row, int64_t count, int64_t split) { search_coded(coded, row, count, split); });
    parallel_for(rows_, [&](int64_t row, int) { raise_to_best_of_splits(row); });
    parallel_for(rows_ * plan_.cut.splits,
                 [&](int64_t task, int) { settle(task / plan_.cut.splits, task % plan_.cut.splits); });
  }

  template <typename Code>
  void search_coded(const CodedItems<Code>& coded, int64_t row, int64_t count, int64_t split) const {
    Bounded found[kBlockQueries];
    for (int64_t i = 0; i < count; ++i)
      found[i] = {{lowers(row + i, split), 0, kLowest, floor(row + i)},
                  keys(row + i, split),
                  0,
                  plan_.lower_capacity,
                  plan_.capacity,
                  false};
    TileFacts facts;
    int64_t loaded = -1;
    for_each_tile(
        s_, first_ + row, count, split_begin(split), split_end(split),
        [&](int64_t query, int64_t group, int64_t item, int64_t items, float* tile) {
          if (item != loaded) load_facts(coded.facts, item, items, &facts);
          loaded = item;
          fill_products(coded, facts, query, group, item, items, tile);
        },
        [&](int64_t i, int64_t item, int64_t items, float* products, int64_t* cursor) {
          const int64_t query = first_ + row + i;
          if (!found[i].overflow)
            collect_bounded(found[i], s_, coded.query(query), facts, query, item, items, products, cursor,
                            args_.k);
        });
    bool overflow[kBlockQueries], any = false;
    for (int64_t i = 0; i < count; ++i) {
      sift(found[i], args_.k);
      any |= overflow[i] = found[i].overflow;
      filled(row + i)[split] = found[i].filled;
      lowers_filled(row + i)[split] = found[i].lowest.filled;
    }
    if (!any) return;
    search_exact(row, count, split, overflow);
    for (int64_t i = 0; i < count; ++i) {
      if (!overflow[i]) continue;
      int64_t* n = filled(row + i) + split;
      lowers_filled(row + i)[split] = min64(*n, args_.k);
      for (int64_t j = 0; j < min64(*n, args_.k); ++j) lowers(row + i, split)[j] = keys(row + i, split)[j];
      *n = ~*n;  // known exactly
    }
  }

  // Every split has its own k best lowest scores; the k-th best of all is a better floor.
  void raise_to_best_of_splits(int64_t row) const {
    uint64_t* all = lowers(row, 0);
    int64_t n = lowers_filled(row)[0];
    for (int64_t split = 1; split < plan_.cut.splits; ++split)
      for (int64_t i = 0; i < lowers_filled(row)[split]; ++i) all[n++] = lowers(row, split)[i];
    if (n < args_.k) return;
    select_best(all, n, args_.k);
    raise_floor(floor(row), order_of(score_of(all[args_.k - 1])));
  }

  // Scores exactly what may still be among the best.
  void settle(int64_t row, int64_t split) const {
    constexpr int64_t kSome = 64;
    int64_t& n = filled(row)[split];
    if (n < 0) {
      n = ~n;
      return;
    }
    uint64_t* list = keys(row, split);
    int64_t kept = 0;
    int32_t items[kSome];
    float scores[kSome];
    for (int64_t i = 0; i < n;) {
      int64_t some = 0;
      for (; i < n && some < kSome; ++i)
        if (list[i] >> 32 >= *floor(row)) items[some++] = item_of(list[i]);
      score_panels(s_, first_ + row, items, some, scores);
      for (int64_t j = 0; j < some; ++j)
        if (scores[j] > kTakenOut) list[kept++] = key_of(scores[j], items[j]);
    }
    n = kept;
  }

  // All splits of one query.
  void merge(int64_t row) const {
    const int64_t k = args_.k;
    float* scores = args_.top_scores.as<float>() + (first_ + row) * k;
    int32_t* items = args_.top_items.as<int32_t>() + (first_ + row) * k;
    uint64_t* all = keys(row, 0);
    int64_t n = filled(row)[0];
    for (int64_t split = 1; split < plan_.cut.splits; ++split)
      for (int64_t i = 0; i < filled(row)[split]; ++i) all[n++] = keys(row, split)[i];
    const int64_t kept = min64(n, k);
    if (kept > 0) select_best(all, n, kept);
    sort_descending(all, kept, pivots_allowed(kept));
    for (int64_t i = 0; i < kept; ++i) {
      scores[i] = score_of(all[i]);
      items[i] = item_of(all[i]);
    }
    for (int64_t i = kept; i < k; ++i) {
      scores[i] = kTakenOut;
      items[i] = -1;
    }
  }

  static constexpr float kLowest = -3.40282347e38f;  // of all that is not -inf

  const ItemTopkArgs& args_;
  const ItemScores& s_;
  const TopkPlan& plan_;
  uint64_t* scratch_;
  int64_t first_ = 0, rows_ = 0;
};

}  // namespace

void item_topk(const ItemTopkArgs& args) {
  const ItemScores s = scores_of(args);
  const int64_t queries = args.queries.shape[0];
  const TopkPlan plan = plan_topk(queries, s.items, s.depth, args.k, code_bits(args.codes));
  Wave wave(args, s, plan);
  for (int64_t first = 0; first < queries && !interrupted(); first += plan.wave)
    wave.run(first, min64(plan.wave, queries - first));
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
