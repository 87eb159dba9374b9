#include "core/parallel.h"
#include "cpu/graph_rows.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// A stable counting sort of the edges by neighbour. Every chunk of edges counts for itself, the counts become
// places in the order (neighbour, chunk), and every chunk fills its places. What comes out is the same for
// any number of chunks.
template <typename Id>
struct Transpose {
  Csr matrix;
  const Id* neighbours;
  int64_t num_neighbours, edges, chunks;
  int64_t* offsets;  // the output
  Id *rows, *places;
  int64_t* totals;  // [chunks]: the edges of each block of neighbours
  Id* counts;       // [chunks, num_neighbours]: edges of a chunk, then their first place

  // Of `count` things in `chunks` equal parts, where one begins.
  int64_t cut(int64_t count, int64_t chunk) const {
    return count / chunks * chunk + min64(chunk, count % chunks);
  }

  void count(int64_t chunk) {
    Id* mine = counts + chunk * num_neighbours;
    for (int64_t n = 0; n < num_neighbours; ++n) mine[n] = 0;
    for (int64_t e = cut(edges, chunk); e < cut(edges, chunk + 1); ++e) ++mine[neighbours[e]];
  }

  void add_up(int64_t block) {
    int64_t total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int64_t n = cut(num_neighbours, block); n < cut(num_neighbours, block + 1); ++n)
        total += counts[chunk * num_neighbours + n];
    totals[block] = total;
  }

  void place(int64_t block) {
    int64_t at = 0;
    for (int64_t before = 0; before < block; ++before) at += totals[before];
    for (int64_t n = cut(num_neighbours, block); n < cut(num_neighbours, block + 1); ++n) {
      offsets[n] = at;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        Id* count = counts + chunk * num_neighbours + n;
        const int64_t next = at + *count;
        *count = static_cast<Id>(at);
        at = next;
      }
    }
  }

  void fill(int64_t chunk) {
    const int64_t end = cut(edges, chunk + 1);
    Id* next = counts + chunk * num_neighbours;
    int64_t row = matrix.row_of(cut(edges, chunk));
    for (int64_t e = cut(edges, chunk); e < end; ++e) {
      while (matrix.end(row) <= e) ++row;
      const Id at = next[neighbours[e]]++;
      rows[at] = static_cast<Id>(row);
      places[at] = static_cast<Id>(e);
    }
  }

  void run() {
    // places are indices: what an interrupt left out must not be used
    parallel_for(chunks, [&](int64_t chunk, int) { count(chunk); });
    if (interrupted()) return;
    parallel_for(chunks, [&](int64_t block, int) { add_up(block); });
    if (interrupted()) return;
    parallel_for(chunks, [&](int64_t block, int) { place(block); });
    if (interrupted()) return;
    offsets[num_neighbours] = edges;
    parallel_for(chunks, [&](int64_t chunk, int) { fill(chunk); });
  }
};

template <typename Id>
void transpose(const GraphTransposeArgs& args) {
  const int64_t num_neighbours = args.transposed_offsets.shape[0] - 1, edges = args.neighbours.shape[0];
  const int64_t chunks = graph_chunks(edges, num_threads());
  int64_t* totals = args.scratch.as<int64_t>();
  Transpose<Id>{csr_of(args.offsets),
                args.neighbours.as<const Id>(),
                num_neighbours,
                edges,
                chunks,
                args.transposed_offsets.as<int64_t>(),
                args.rows.as<Id>(),
                args.edges.as<Id>(),
                totals,
                reinterpret_cast<Id*>(totals + chunks)}
      .run();
}

}  // namespace

void graph_transpose(const GraphTransposeArgs& args) {
  if (args.neighbours.dtype == DType::i64)
    transpose<int64_t>(args);
  else
    transpose<int32_t>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
