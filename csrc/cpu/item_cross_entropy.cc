// Rows that have a target go through in blocks. For one block: (1) chunk by chunk of the columns (items, or
// negatives), the exponentials of the logits relative to the largest so far of the chunk's span, their sums,
// and their product with the items; (2) per row, the spans come together: normaliser, loss, targets, gradient
// of the hidden row; (3) chunk by chunk, the transposed product with the hidden rows, for the table. Targets
// are rare, so they stay out of the products: each has a coefficient, added to its item's gradient at the
// very end. Chunks, spans, blocks and the order of every sum depend on the sizes alone. In bf16 the products
// take the exponentials rounded to bf16; sums and the loss are fp32 and better.
#include "cpu/item_cross_entropy_finish.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// The next rows that count: the others cost nothing, and nothing in them reaches a gradient.
template <typename T>
void Loss<T>::load_block() {
  for (block_rows = 0; next_row < p.rows && block_rows < p.block; ++next_row) {
    if (weight(next_row) > 0) {
      p.block_ids[block_rows++] = next_row;
      continue;
    }
    if (p.hidden_grad) fill_zero(args.hidden_grad.as<T>() + next_row * p.depth, p.depth);
    for (int64_t m = target_begin(next_row); m < target_begin(next_row + 1); ++m) p.coefficients[m] = 0;
  }
  width = round_up(block_rows, kRounded ? kGroup : kRowsPerTask);
  for (int64_t i = 0; i < width; ++i) {
    if (i < block_rows)
      widen(hidden_row(row_of(i)), p.depth, p.padded, p.hidden_rows + i * p.padded);
    else
      fill_zero(p.hidden_rows + i * p.padded, p.padded);
  }
  if constexpr (kRounded)
    pack_pairs(p.hidden_rows, 1, p.padded, p.depth, width, reinterpret_cast<T*>(p.hidden_packed));
  else
    pack_panels(p.hidden_rows, 1, p.padded, p.depth, width, reinterpret_cast<T*>(p.hidden_packed));
}

// Accidental hits: a negative that is one of the row's targets does not compete. Rows begin .. end.
template <typename T>
void Loss<T>::mask_hits(int64_t first, int64_t count, int64_t begin, int64_t end, float* tile,
                        int64_t step) const {
  const int64_t* ids = args.negatives.as<int64_t>() + first;
  for (int64_t i = begin; i < min64(end, block_rows); ++i)
    for (int64_t m = target_begin(row_of(i)); m < target_begin(row_of(i) + 1); ++m)
      for (int64_t j = first_not(0, count, [&](int64_t at) { return ids[at] < target(m); });
           j < count && ids[j] == target(m); ++j)
        tile[j * step + i - begin] = -__builtin_inff();
}

// The chunk's items as rows that hold `padded` elements; in place where they stand so.
template <typename T>
const T* Loss<T>::load_items(int64_t first, int64_t count, const ItemCrossEntropyThread& room,
                             int64_t* step) const {
  T* items = reinterpret_cast<T*>(room.items);
  const float* log_q = args.negative_log_q.as<float>();
  const bool in_place = !p.sampled && p.padded == p.depth;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t item = item_of(first + j);
    room.shifts[j] = bias(item) * scale - (log_q != nullptr ? log_q[first + j] : 0);
    if (in_place) continue;
    const T* from = table_row(item);
    T* to = items + j * p.padded;
    __builtin_memcpy(to, from, p.depth * sizeof(T));
    for (int64_t d = p.depth; d < p.padded; ++d) to[d] = T{};
  }
  *step = in_place ? args.table.stride[0] : p.padded;
  return in_place ? table_row(first) : items;
}

template <typename T>
RunningSum Loss<T>::running(int64_t span, int64_t i, bool fresh) const {
  RunningSum rows;
  if (!fresh) rows.top = load(span_max(span) + i), rows.total = load(span_sum(span) + i);
  return rows;
}

template <typename T>
void Loss<T>::keep_running(int64_t span, int64_t chunk, int64_t i, const RunningSum& rows) const {
  store(span_max(span) + i, rows.top);
  store(span_sum(span) + i, rows.total);
  if (p.keeps_weights()) store(chunk_max(chunk) + i, rows.top);
}

// fp32: all rows of the block at once; bf16: kGroup rows.
template <typename T>
void Loss<T>::sweep_group(const MatrixUnit& unit, int64_t span, int64_t chunk, int64_t group, const T* items,
                          int64_t step, const ItemCrossEntropyThread& room) const {
  const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.cols - first);
  const bool fresh = chunk == span * p.span;
  const int64_t begin = group * kGroup, end = kRounded ? begin + kGroup : width;
  const int64_t tile_step = kRounded ? kGroup : p.block;
  float* tile = room.tile;
  if constexpr (!kRounded)
    if (p.keeps_weights()) tile = weights_of(chunk);
  const T* packed = reinterpret_cast<const T*>(p.hidden_packed);
  const vf factor = splat(scale);
  const auto keep_logit = [&](int64_t j, int64_t i, vf value) {
    store(tile + j * tile_step + i, fma(value, factor, splat(room.shifts[j])));
  };
  if constexpr (kRounded)
    unit.multiply(pair_product(items, step, packed + begin * p.padded, count, kGroup, p.depth), keep_logit);
  else
    gemm(product(items, step, packed, count, width, p.depth), keep_logit);
  if (p.sampled) mask_hits(first, count, begin, end, tile, tile_step);
  float shrink[ItemCrossEntropyPlan::kMostRows];
  for (int64_t i = begin; i < end; i += kLanes) {
    RunningSum rows = running(span, i, fresh);
    const int64_t at = i - begin;
    if constexpr (kRounded) {
      T* kept = p.keeps_weights() ? weights_of(chunk) + begin * p.chunk + at : nullptr;
      T* pairs =
          reinterpret_cast<T*>(room.pairs) + at / kPairPanel * p.chunk * kPairPanel + at % kPairPanel * 2;
      exponentials(tile + at, kGroup, count, &rows, kept, p.hidden_grad ? pairs : nullptr);
    } else {
      exponentials(tile + at, p.block, count, &rows);
    }
    keep_running(span, chunk, i, rows);
    store(shrink + at, rows.shrink);
  }
  if (!p.hidden_grad) return;
  float* sums = partial(span);
  if constexpr (kRounded) {
    unit.multiply(
        PairProduct{reinterpret_cast<const T*>(room.turned), kRun, p.padded * kRun,
                    reinterpret_cast<const T*>(room.pairs), p.chunk * kPairPanel, p.depth, kGroup, count},
        [&](int64_t d, int64_t i, vf value) {
          float* at = sums + d * p.block + begin + i;
          store(at, fresh ? value : fma(load(at), load(shrink + i), value));
        });
  } else {
    gemm(Product<float>{tile, 1, p.block, items, kPanel, step, width, p.padded, count},
         [&](int64_t i, int64_t d, vf value) {
           float* at = sums + i * p.padded + d;
           store(at, fresh ? value : fma(load(at), splat(shrink[i]), value));
         });
  }
}

template <typename T>
void Loss<T>::sweep_span(int64_t span, int thread) const {
  const MatrixUnit unit;
  const ItemCrossEntropyThread mine = room(thread);
  for (int64_t chunk = span * p.span; chunk < min64((span + 1) * p.span, p.chunks); ++chunk) {
    const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.cols - first);
    int64_t step;
    const T* items = load_items(first, count, mine, &step);
    if constexpr (kRounded)
      if (p.hidden_grad) turn_pairs(items, step, count, p.padded, reinterpret_cast<T*>(mine.turned));
    for (int64_t group = 0; group < (kRounded ? width / kGroup : 1); ++group)
      sweep_group(unit, span, chunk, group, items, step, mine);
  }
}

template <typename T>
void Loss<T>::add_to_bias(int64_t chunk, int64_t first, int64_t count) const {
  const T* tile = weights_of(chunk);
  const float* factors = chunk_max(chunk);
  const int64_t run = kRounded ? kGroup : width;  // rows that stand side by side
  for (int64_t j0 = 0; j0 < count; j0 += kLanes) {
    vf m[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      m[j] = splat(0);
      if (j0 + j >= count) continue;
      const T* row = tile + (j0 + j) * (kRounded ? kGroup : p.block);
      for (int64_t begin = 0; begin < width; begin += run, row += p.chunk * kGroup)
        for (int64_t i = 0; i < run; i += kLanes) m[j] = fma(load(row + i), load(factors + begin + i), m[j]);
    }
    const vf sums = sums_of(m);
    float* at = bias_sum() + first + j0;
    const int64_t left = count - j0;
    store_some(at, first_block ? sums : sums + load_some(at, left), left);
  }
}

template <typename T>
void Loss<T>::add_to_table(int64_t chunk, int thread) const {
  const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.cols - first);
  if (p.bias_grad) add_to_bias(chunk, first, count);
  if (!p.table_grad) return;
  T* scaled = reinterpret_cast<T*>(room(thread).items);
  const float* factors = chunk_max(chunk);
  float* sums = table_sum() + first * p.depth;
  const auto add = [&](int64_t j, int64_t d, vf value) {
    const int64_t left = p.depth - d;
    if (left <= 0) return;
    float* at = sums + j * p.depth + d;
    store_some(at, first_block ? value : value + load_some(at, left), left);
  };
  if constexpr (kRounded) {
    const MatrixUnit unit;
    pack_scaled(p.hidden_rows, factors, width, p.padded, scaled);
    unit.multiply(PairProduct{weights_of(chunk), kGroup, p.chunk * kGroup, scaled, width * kPairPanel, count,
                              p.depth, width},
                  add);
  } else {
    for (int64_t i = 0; i < width; ++i)
      for (int64_t d = 0; d < p.padded; d += kLanes)
        store(scaled + i * p.padded + d, splat(factors[i]) * load(p.hidden_rows + i * p.padded + d));
    gemm(Product<float>{weights_of(chunk), p.block, 1, scaled, kPanel, p.padded, count, p.padded, width},
         add);
  }
}

template <typename T>
void Loss<T>::clear() const {
  if (p.hidden_grad) fill_zero(args.hidden_grad.as<T>(), p.rows * p.depth);
  if (p.table_grad) fill_zero(args.table_grad.as<T>(), args.table.shape[0] * p.depth);
  if (p.bias_grad) fill_zero(args.bias_grad.as<T>(), args.table.shape[0]);
}

template <typename T>
void Loss<T>::run() {
  const int64_t items = args.table.shape[0];
  for (int64_t row = 0; row < p.rows; ++row) total_weight += weight(row);
  *args.loss.as<float>() = 0;
  if (total_weight == 0) return clear();
  if (p.smoothed) average_table();
  double loss = 0;
  for (; next_row < p.rows && !interrupted(); first_block = false) {
    load_block();
    if (block_rows == 0) break;
    parallel_for(p.spans, [this](int64_t span, int thread) { sweep_span(span, thread); });
    parallel_for(width / kRowsPerTask, [this](int64_t group, int) { finish_rows(group); });
    for (int64_t i = 0; i < block_rows; ++i) loss += p.row_loss[i];
    if (p.smoothed) add_uniform();
    if (p.keeps_weights())
      parallel_for(p.chunks, [this](int64_t chunk, int thread) { add_to_table(chunk, thread); });
  }
  *args.loss.as<float>() = static_cast<float>(loss);
  if (p.keeps_weights())
    parallel_for((items + kItemsPerTask - 1) / kItemsPerTask,
                 [this](int64_t task, int thread) { finish_items(task, thread); });
}

}  // namespace

void item_cross_entropy(const ItemCrossEntropyArgs& args) {
  const bool rounded = args.hidden.dtype == DType::bf16;
  const ItemCrossEntropyPlan plan(args.scratch.data, item_cross_entropy_sizes(args), num_threads());
  const auto scale = static_cast<float>(1 / args.temperature);
  if (rounded)
    Loss<bf16>{args, plan, scale}.run();
  else
    Loss<float>{args, plan, scale}.run();
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
