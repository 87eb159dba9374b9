// Rows of a CSR matrix in parallel, and the sum of the neighbours of one.
#pragma once
#include "core/parallel.h"
#include "cpu/graph_plan.h"
#include "cpu/transpose.h"
#include "ops.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

struct Csr {
  const int64_t* offsets;
  int64_t rows;

  int64_t begin(int64_t row) const { return offsets[row]; }
  int64_t end(int64_t row) const { return offsets[row + 1]; }
  int64_t size(int64_t row) const { return end(row) - begin(row); }
  int64_t position(int64_t row) const { return begin(row) + row; }
  int64_t tasks() const { return graph_tasks(rows, offsets[rows]); }

  // The first row at `position` or behind it.
  int64_t row_at(int64_t at) const {
    return first_not(0, rows, [&](int64_t row) { return position(row) < at; });
  }
  // The row of an edge.
  int64_t row_of(int64_t edge) const {
    return first_not(0, rows, [&](int64_t row) { return end(row) <= edge; });
  }
};

inline Csr csr_of(const TensorView& offsets) { return {offsets.as<const int64_t>(), offsets.shape[0] - 1}; }

// Edges of one row; the whole row if slot is negative.
struct Part {
  int64_t row, begin, end, slot;

  int64_t size() const { return end - begin; }
  bool whole() const { return slot < 0; }
};

// body(task, thread) for every task.
template <typename Body>
inline void for_each_task(const Csr& matrix, Body&& body) {
  parallel_for(matrix.tasks(), static_cast<Body&&>(body), kGraphAlone);
}

// body(part, thread) for every part of every row. Returns whether some row was divided.
template <typename Body>
inline bool for_each_part(const Csr& matrix, Body&& body) {
  bool divided = false;
  for_each_task(matrix, [&](int64_t task, int thread) {
    const int64_t first = task * kGraphPart, last = first + kGraphPart;
    int64_t row = matrix.row_at(first);
    if (row > 0 && matrix.size(row - 1) > kGraphPart) {  // one that began earlier may have a part here
      const int64_t start = matrix.position(row - 1), end = matrix.end(row - 1);
      const int64_t part = ceil_div(first - start, kGraphPart);
      const int64_t begin = matrix.begin(row - 1) + part * kGraphPart;
      if (begin < end)
        body(Part{row - 1, begin, min64(begin + kGraphPart, end), graph_slot(start, part)}, thread);
    }
    for (; row < matrix.rows && matrix.position(row) < last; ++row) {
      const int64_t begin = matrix.begin(row), end = matrix.end(row);
      if (end - begin <= kGraphPart) {
        body(Part{row, begin, end, -1}, thread);
      } else {
        __atomic_store_n(&divided, true, __ATOMIC_RELAXED);
        body(Part{row, begin, begin + kGraphPart, graph_slot(matrix.position(row), 0)}, thread);
      }
    }
  });
  return divided;
}

// body(row, parts) for every row that was divided.
template <typename Body>
inline void for_each_divided(const Csr& matrix, Body&& body) {
  for_each_task(matrix, [&](int64_t task, int) {
    const int64_t last = (task + 1) * kGraphPart;
    for (int64_t row = matrix.row_at(task * kGraphPart); row < matrix.rows && matrix.position(row) < last;
         ++row)
      if (matrix.size(row) > kGraphPart) body(row, ceil_div(matrix.size(row), kGraphPart));
  });
}

// Adds the parts of divided rows: sink(row, col, left, sum).
template <typename Sink>
inline void add_parts(const Csr& matrix, const float* partial, int64_t width, Sink&& sink) {
  const int64_t pitch = graph_pitch(width);
  for_each_divided(matrix, [&](int64_t row, int64_t parts) {
    for (int64_t col = 0; col < width; col += kLanes) {
      vf total = splat(0);
      for (int64_t part = 0; part < parts; ++part)
        total += load(partial + graph_slot(matrix.position(row), part) * pitch + col);
      sink(row, col, width - col, total);
    }
  });
}

// The factors of the neighbours in a sum: all one; one per edge; or one per edge and head, of which every
// column picks its own.
struct NoFactor {
  vf add(vf sum, vf x, int64_t, int) const { return sum + x; }
};
struct EdgeFactor {
  const float* factor;
  vf add(vf sum, vf x, int64_t edge, int) const { return fma(splat(factor[edge]), x, sum); }
};
struct HeadFactor {
  const float* factor;  // [edges, pitch], readable for kLanes from each edge's first
  int64_t pitch;
  const vi* head;  // of the lanes of this group's vectors

  vf add(vf sum, vf x, int64_t edge, int vec) const {
    const vf factors = load(factor + edge * pitch);
    return fma(shuffle(factors, factors, head[vec]), x, sum);
  }
};

// acc[j] = sum over edges of factor * (vector j of the neighbour's row, starting at x). `some`: that many
// lanes of the only vector.
template <int Vecs, bool Some, typename T, typename Id, typename Factor>
inline __attribute__((always_inline)) void add_neighbours(Rows<const T> x, int64_t some, const Id* ids,
                                                          int64_t count, Factor factor, vf* acc) {
#pragma GCC unroll 4
  for (int j = 0; j < Vecs; ++j) acc[j] = splat(0);
  for (int64_t e = 0; e < count; ++e) {
    const T* row = x.data + static_cast<int64_t>(ids[e]) * x.step;
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j)
      acc[j] = factor.add(acc[j], Some ? load_some(row, some) : load(row + j * kLanes), e, j);
  }
}

inline NoFactor at_column(NoFactor factor, int64_t) { return factor; }
inline EdgeFactor at_column(EdgeFactor factor, int64_t) { return factor; }
inline HeadFactor at_column(HeadFactor factor, int64_t col) {
  return {factor.factor, factor.pitch, factor.head + col / kLanes};
}

template <int Vecs, bool Some = false, typename T, typename Id, typename Factor, typename Sink>
inline __attribute__((always_inline)) void sum_columns(Rows<const T> x, int64_t width, int64_t* col,
                                                       const Id* ids, int64_t count, Factor factor,
                                                       Sink& sink) {
  vf acc[Vecs];
  add_neighbours<Vecs, Some>(Rows<const T>{x.data + *col, x.step}, width - *col, ids, count,
                             at_column(factor, *col), acc);
#pragma GCC unroll 4
  for (int j = 0; j < Vecs; ++j) sink(*col + j * kLanes, acc[j]);
  *col += Vecs * kLanes;
}

// sink(col, sum) for every vector of columns: the sum of the neighbours' rows times their factors. Lanes at
// or past `width` are no column.
template <typename T, typename Id, typename Factor, typename Sink>
inline void sum_neighbours(Rows<const T> x, int64_t width, const Id* ids, int64_t count, Factor factor,
                           Sink&& sink) {
  int64_t col = 0;
  while (width - col >= 4 * kLanes) sum_columns<4>(x, width, &col, ids, count, factor, sink);
  if (width - col >= 2 * kLanes) sum_columns<2>(x, width, &col, ids, count, factor, sink);
  if (width - col >= kLanes) sum_columns<1>(x, width, &col, ids, count, factor, sink);
  if (width > col) sum_columns<1, true>(x, width, &col, ids, count, factor, sink);
}

// The products of the columns of two rows, kLanes sums that are still to be added up.
template <typename L, typename R>
inline vf products(const L* left, const R* right, int64_t width) {
  vf acc = splat(0);
  int64_t col = 0;
  for (; col + kLanes <= width; col += kLanes) acc = fma(load(left + col), load(right + col), acc);
  if (col < width) acc = fma(load_some(left + col, width - col), load_some(right + col, width - col), acc);
  return acc;
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
