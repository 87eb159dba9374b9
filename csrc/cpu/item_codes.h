// Approximate products with an item table in short codes, and how far they can be from the exact kernel's.
//
// A row x is stored as codes c and a scale s (1 where the codes are bf16), with r >= |x - s c| and
// n >= max(|x|, |s c|), Euclidean norms rounded up. A query q is taken as t p, codes and scale again, with
// A >= max(|q|, |t p|) and e >= |q - t p|. Then, by q.x = t s p.c + q.(x - s c) + (q - t p).(s c) and
// Cauchy-Schwarz, |q.x - t s p.c| <= A r + e n. The exact kernel, whatever it adds in which order, is within
// (D + 1) u A n of q.x, u = 2^-24, and what is computed here, even if it rounds towards zero, within
// 2 (D + 4) u A n of t s p.c; 4 (D + 16) u A n covers both. Numbers below the smallest normal one, which the
// processor may flush to zero, cost 4 (D + 16) times that, and sqrt(D) times it in r and e. If A n is so
// large that a sum might overflow, the bound is infinite: a score without a bound is computed exactly.
#pragma once
#include "cpu/code_products.h"
#include "cpu/item_scores.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr float kTiny = 1.17549435e-38f;  // the smallest normal number
constexpr double kRoundUp = 1 + 1e-6;     // covers every rounding of a norm to float

// A query as a coded table takes it, words behind it; where a group is one dimension the query itself serves.
struct CodedQuery {
  float norm;          // A
  float norm4;         // 4 A: infinite where sums might overflow
  float spread;        // (e / A + 4 (D + 16) u) / 4
  float slack;         // for numbers below the smallest normal one
  float scale;         // t
  int32_t correction;  // 128 times the sum of p: what the 128 of the codes add
  int32_t unused[2];
};
static_assert(sizeof(CodedQuery) == kQueryConstants * sizeof(int32_t), "see item_plan.h");

inline const int32_t* words_of(const CodedQuery& query) {
  return reinterpret_cast<const int32_t*>(&query + 1);
}

inline void set_bound(double squares, double error_squares, int64_t depth, CodedQuery* query) {
  const double error = __builtin_sqrt(error_squares) + __builtin_sqrt(static_cast<double>(depth)) * kTiny;
  const double norm = __builtin_sqrt(squares) + error;
  query->norm = static_cast<float>(norm * kRoundUp);
  query->norm4 = 4 * query->norm;
  query->spread =
      static_cast<float>((error / norm + static_cast<double>(depth + 16) * 0x1p-22) / 4 * kRoundUp);
  query->slack = static_cast<float>(depth + 16) * 4 * kTiny;
}

inline int32_t round_to_code(double x) { return static_cast<int32_t>(x < 0 ? x - 0.5 : x + 0.5); }

// A query that is not finite has an infinite norm or none at all, and any codes.
inline void prepare_query(const float* q, int64_t depth, const uint8_t*, CodedQuery* query) {
  constexpr int64_t kGroup = CodeTraits<uint8_t>::kGroup;
  float largest = 0;
  double squares = 0, error_squares = 0;
  for (int64_t d = 0; d < depth; ++d) {
    const float size = __builtin_fabsf(q[d]);
    largest = size > largest ? size : largest;
    squares += static_cast<double>(q[d]) * q[d];
  }
  const bool finite = squares - squares == 0;
  const float scale = static_cast<float>(largest / 127.0 * kRoundUp);
  query->scale = scale > kTiny ? scale : kTiny;
  query->correction = 0;
  int32_t* words = reinterpret_cast<int32_t*>(query + 1);
  for (int64_t first = 0; first < round_up(depth, 4); first += kGroup) {
    uint32_t word = 0;
    for (int64_t d = first; d < min64(first + kGroup, depth); ++d) {
      const int32_t code = finite ? round_to_code(q[d] / static_cast<double>(query->scale)) : 0;
      const double error = q[d] - static_cast<double>(query->scale) * code;
      error_squares += error * error;
      query->correction += 128 * code;
      word |= (static_cast<uint32_t>(code) & (kGroup == 4 ? 0xffu : 0xffffu)) << (32 / kGroup * (d - first));
    }
    words[first / kGroup] = static_cast<int32_t>(word);
  }
  set_bound(squares, error_squares, depth, query);
}

inline void prepare_query(const float* q, int64_t depth, const bf16*, CodedQuery* query) {
  constexpr int64_t kGroup = CodeTraits<bf16>::kGroup;
  double squares = 0, error_squares = 0;
  bf16* codes = reinterpret_cast<bf16*>(query + 1);
  for (int64_t d = 0; d < depth; ++d) {
    squares += static_cast<double>(q[d]) * q[d];
    if (kGroup == 1) continue;
    from_float(q[d], codes + d);
    const double error = static_cast<double>(q[d]) - to_float(codes[d]);
    error_squares += error * error;
  }
  if (kGroup == 2 && depth % 2 == 1) codes[depth].bits = 0;
  set_bound(squares, error_squares, depth, query);
}

// A coded table and the queries of a wave.
template <typename Code>
struct CodedItems {
  const ItemScores& s;
  const Code* codes;
  const bf16* facts;     // [V / 16][scale, r, n][16]
  const int32_t* words;  // [wave, query_words]
  int64_t query_words, first_query;

  const CodedQuery& query(int64_t row) const {
    return *reinterpret_cast<const CodedQuery*>(words + (row - first_query) * query_words);
  }
  const typename CodeTraits<Code>::Word* left(int64_t row) const {
    if constexpr (CodeTraits<Code>::kGroup == 1)
      return s.query(row);
    else
      return words_of(query(row));
  }
  // groups of dimensions, and codes of a panel
  int64_t groups() const { return ceil_div(s.depth, CodeTraits<Code>::kGroup); }
  int64_t panel() const { return round_up(s.depth, CodeTraits<Code>::kPadded) * kPanel; }
};

// The facts of a tile's items, widened: what does not depend on the query.
struct TileFacts {
  alignas(64) float scale[kTileItems], residual[kTileItems], norm[kTileItems];
};

inline void load_facts(const bf16* facts, int64_t first, int64_t count, TileFacts* tile) {
  facts += first / kPanel * 3 * kPanel;
  for (int64_t i = 0; i < count; i += kPanel, facts += 3 * kPanel)
    for (int64_t j = 0; j < kPanel; j += kLanes) {
      store(tile->scale + i + j, load(facts + j));
      store(tile->residual + i + j, load(facts + kPanel + j));
      store(tile->norm + i + j, load(facts + 2 * kPanel + j));
    }
}

// How far the exact product of items i .. i + kLanes of the tile can be from the approximate one.
inline vf bound_of(const CodedQuery& q, const TileFacts& tile, int64_t i) {
  const vf by_size = fma(splat(q.norm4) * load(tile.norm + i), splat(q.spread), splat(q.slack));
  return fma(splat(q.norm), load(tile.residual + i), by_size);
}

// One register tile, as gemm_tile, over codes.
template <int Rows, int Panels, typename Code, typename Sink>
inline __attribute__((always_inline)) void code_tile(const CodedItems<Code>& c, int64_t query,
                                                     const Code* codes, Sink&& sink) {
  using Traits = CodeTraits<Code>;
  constexpr int kVecs = Panels * kPanelVecs;
  const int64_t groups = c.groups(), panel = c.panel();
  const typename Traits::Word* left[Rows];
  typename Traits::Sums acc[Rows][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    left[i] = c.left(query + i);
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[i][v] = typename Traits::Sums{};
  }
  for (int64_t k = 0; k < groups; ++k, codes += kPanel * Traits::kGroup) {
    typename Traits::Right right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v)
      right[v] = load_codes(codes + v / kPanelVecs * panel + v % kPanelVecs * kLanes * Traits::kGroup);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[i][v] = multiply_add(left[i][k], right[v], acc[i][v]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) sink(i, v * kLanes, acc[i][v]);
}

template <int Panels, int Rows, typename Code, typename Sink>
inline void code_rows(const CodedItems<Code>& c, int64_t query, int64_t rows, const Code* codes,
                      Sink&& sink) {
  if constexpr (Rows > 0) {
    if (rows == Rows) return code_tile<Rows, Panels>(c, query, codes, sink);
    code_rows<Panels, Rows - 1>(c, query, rows, codes, sink);
  }
}

// The fill of for_each_tile with approximate products.
template <typename Code>
__attribute__((noinline)) inline void fill_products(const CodedItems<Code>& c, const TileFacts& facts,
                                                    int64_t query, int64_t rows, int64_t first, int64_t count,
                                                    float* tile) {
  const int64_t panel = c.panel();
  const Code* codes = c.codes + first / kPanel * panel;
  for (int64_t at = 0; at < count;) {
    const auto sink = [&](int64_t row, int64_t col, typename CodeTraits<Code>::Sums sums) {
      vf value;
      if constexpr (sizeof(Code) == sizeof(bf16)) {
        value = sums;
      } else {
        const CodedQuery& q = c.query(query + row);
        value = __builtin_convertvector(sums - splat_int(q.correction), vf) * splat(q.scale) *
                load(facts.scale + at + col);
      }
      store(tile + row * kTileItems + at + col, value);
    };
    if (count - at >= kTilePanels * kPanel) {
      code_rows<kTilePanels, kTileRows>(c, query, rows, codes, sink);
      at += kTilePanels * kPanel, codes += kTilePanels * panel;
    } else {
      code_rows<1, kTileRows>(c, query, rows, codes, sink);
      at += kPanel, codes += panel;
    }
  }
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
