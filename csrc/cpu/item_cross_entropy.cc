// Rows that have a target go through in blocks. For one block: (1) chunk by chunk of the columns (items, or
// negatives), the exponentials of the logits relative to the chunk's own maximum, their sums, and their
// product with the items; (2) per row, the chunks come together: normaliser, loss, targets, gradient of the
// hidden row; (3) chunk by chunk, the transposed product with the hidden rows, for the table. Targets are
// rare, so they stay out of the products: each has a coefficient, added to its item's gradient at the very
// end. Chunks, blocks and the order of every sum depend on the sizes alone.
#include "core/parallel.h"
#include "cpu/gemm.h"
#include "cpu/item_cross_entropy_plan.h"
#include "cpu/kernels.h"
#include "cpu/vec_math.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr float kNoLogit = -3.4e38f;  // maximum of a chunk in which everything is masked; finite
constexpr int64_t kRowsPerTask = 16;
constexpr int64_t kItemsPerTask = 256;
constexpr int64_t kTermsPerSum = 32;  // long sums have two levels, against rounding

// The product of a hidden row and an item, summed in the order of gemm: bitwise the logit of the tile, so
// that a row whose target takes all the probability loses exactly nothing.
template <typename T>
inline float logit_of(const float* hidden, const T* item, int64_t depth) {
  float total = 0;
  for (int64_t k = 0; k < depth; ++k) total = to_float(item[k]) * hidden[k] + total;
  return total;
}

// Over n floats, a multiple of 16; several sums, for speed and against rounding.
inline float block_dot(const float* a, const float* b, int64_t n) {
  constexpr int kSums = 64 / kLanes;
  vf part[kSums];
  for (int s = 0; s < kSums; ++s) part[s] = splat(0);
  for (int64_t i = 0; i < n; i += kLanes)
    part[i / kLanes % kSums] = fma(load(a + i), load(b + i), part[i / kLanes % kSums]);
  vf total = part[0];
  for (int s = 1; s < kSums; ++s) total += part[s];
  return sum(total);
}

// y[0 .. n) += scale * x
template <typename T>
inline void add_scaled(float* y, float scale, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_some(y + i, fma(splat(scale), load_some(x + i, n - i), load_some(y + i, n - i)), n - i);
}

template <typename T>
inline void fill_zero(T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_some(y + i, splat(0), n - i);
}

// Copies a row to fp32, zero padded.
template <typename T>
inline void widen(const T* row, int64_t depth, int64_t padded, float* to) {
  for (int64_t i = 0; i < padded; i += kLanes) store(to + i, load_some(row + i, depth - i));
}

// The first position in [0, n) whose id is not below `bound`, n if there is none; id(i) ascends.
template <typename Id>
inline int64_t lower_bound(int64_t n, int64_t bound, Id&& id) {
  int64_t low = 0;
  while (low < n) {
    const int64_t middle = low + (n - low) / 2;
    if (id(middle) < bound)
      low = middle + 1;
    else
      n = middle;
  }
  return low;
}

template <typename T>
struct Loss {
  const ItemCrossEntropyArgs& args;
  const ItemCrossEntropyPlan& p;
  float* scratch;
  double counted = 0;      // rows with a target
  int64_t next_row = 0;    // after the block at hand
  int64_t block_rows = 0;  // in the block at hand
  bool first_block = true;

  const T* table_row(int64_t item) const { return args.table.as<T>() + item * args.table.stride[0]; }
  const T* hidden_row(int64_t row) const { return args.hidden.as<T>() + row * args.hidden.stride[0]; }
  int64_t* block_ids() const { return reinterpret_cast<int64_t*>(scratch + p.block_ids); }
  int64_t row_of(int64_t i) const { return block_ids()[i]; }
  int64_t item_of(int64_t col) const { return p.sampled ? args.negatives.as<int64_t>()[col] : col; }
  int64_t target(int64_t at) const { return args.targets.as<int64_t>()[at]; }
  int64_t target_begin(int64_t row) const {
    return args.target_offsets ? args.target_offsets.as<int64_t>()[row] : row;
  }
  int64_t target_row(int64_t at) const {
    if (!args.target_offsets) return at;
    const int64_t* ends = args.target_offsets.as<int64_t>() + 1;
    return lower_bound(p.rows, at + 1, [ends](int64_t row) { return ends[row]; });
  }
  float bias(int64_t item) const { return args.bias ? to_float(args.bias.as<T>()[item]) : 0; }
  float* chunk_max(int64_t chunk) const { return scratch + p.chunk_max + chunk * p.block; }
  float* chunk_sum(int64_t chunk) const { return scratch + p.chunk_sum + chunk * p.block; }
  float* partial(int64_t chunk) const { return scratch + p.partials + chunk * p.block * p.padded; }
  float* work(int64_t thread) const { return scratch + p.work + thread * max64(p.chunk, p.block) * p.padded; }
  float* weights(int64_t chunk, int thread) const {  // [chunk, block]
    return scratch +
           (p.keeps_weights() ? p.weights + chunk * p.chunk * p.block : p.tiles + thread * p.chunk * p.block);
  }
  float* table_sum() const {  // [cols, D]
    return p.sums_in_scratch() ? scratch + p.table_sum : args.table_grad.as<float>();
  }
  float* bias_sum() const { return p.sums_in_scratch() ? scratch + p.bias_sum : args.bias_grad.as<float>(); }

  void run();
  void load_block();
  void sweep_chunk(int64_t chunk, int thread) const;
  void mask_hits(int64_t first, int64_t count, float* tile) const;
  void exponentials(int64_t chunk, int64_t count, float* tile) const;
  void finish_rows(int64_t group) const;
  float finish_row(int64_t i, float maximum, double total) const;
  void finish_hidden_grad(int64_t i) const;
  void add_to_table(int64_t chunk, int thread) const;
  void finish_items(int64_t task, int thread) const;
};

// The next rows that have a target: the others cost nothing, and nothing in them reaches a gradient.
template <typename T>
void Loss<T>::load_block() {
  for (block_rows = 0; next_row < p.rows && block_rows < p.block; ++next_row) {
    if (target_begin(next_row + 1) > target_begin(next_row))
      block_ids()[block_rows++] = next_row;
    else if (p.hidden_grad)
      fill_zero(args.hidden_grad.as<T>() + next_row * p.depth, p.depth);
  }
  float* rows = scratch + p.hidden_rows;
  for (int64_t i = 0; i < p.block; ++i) {
    if (i < block_rows)
      widen(hidden_row(row_of(i)), p.depth, p.padded, rows + i * p.padded);
    else
      fill_zero(rows + i * p.padded, p.padded);
  }
  pack_panels(rows, 1, p.padded, p.depth, p.block, scratch + p.hidden_panels);
}

// Accidental hits: a negative that is one of the row's targets does not compete.
template <typename T>
void Loss<T>::mask_hits(int64_t first, int64_t count, float* tile) const {
  const int64_t* ids = args.negatives.as<int64_t>() + first;
  for (int64_t i = 0; i < block_rows; ++i)
    for (int64_t m = target_begin(row_of(i)); m < target_begin(row_of(i) + 1); ++m)
      for (int64_t j = lower_bound(count, target(m), [&](int64_t at) { return ids[at]; });
           j < count && ids[j] == target(m); ++j)
        tile[j * p.block + i] = -__builtin_inff();
}

// Logits to exponentials relative to the chunk's maximum, per row (a column of the tile).
template <typename T>
void Loss<T>::exponentials(int64_t chunk, int64_t count, float* tile) const {
  for (int64_t i = 0; i < p.block; i += kLanes) {
    vf top = splat(kNoLogit), total = splat(0);
    for (int64_t j = 0; j < count; ++j) top = max(load(tile + j * p.block + i), top);
    for (int64_t j = 0; j < count;) {
      vf part = splat(0);
      for (const int64_t end = min64(j + kTermsPerSum, count); j < end; ++j) {
        const vf e = exp(load(tile + j * p.block + i) - top);
        store(tile + j * p.block + i, e);
        part += e;
      }
      total += part;
    }
    store(chunk_max(chunk) + i, top);
    store(chunk_sum(chunk) + i, total);
  }
}

template <typename T>
void Loss<T>::sweep_chunk(int64_t chunk, int thread) const {
  const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.cols - first);
  float* items = work(thread);
  float* shifts = scratch + p.shifts + thread * p.chunk;
  const float* log_q = args.negative_log_q.as<float>();
  for (int64_t j = 0; j < count; ++j) {
    const int64_t item = item_of(first + j);
    widen(table_row(item), p.depth, p.padded, items + j * p.padded);
    shifts[j] = bias(item) - (log_q != nullptr ? log_q[first + j] : 0);
  }
  float* tile = weights(chunk, thread);
  gemm(product(items, p.padded, scratch + p.hidden_panels, count, p.block, p.depth),
       [&](int64_t j, int64_t i, vf value) { store(tile + j * p.block + i, value + splat(shifts[j])); });
  if (p.sampled) mask_hits(first, count, tile);
  exponentials(chunk, count, tile);
  if (!p.hidden_grad) return;
  float* sums = partial(chunk);
  gemm(Product<float>{tile, 1, p.block, items, kPanel, p.padded, p.block, p.padded, count},
       [&](int64_t i, int64_t d, vf value) { store(sums + i * p.padded + d, value); });
}

// The loss of row i of the block; leaves the coefficients of its targets and returns the factor of its
// exponentials.
template <typename T>
float Loss<T>::finish_row(int64_t i, float maximum, double total) const {
  const int64_t row = row_of(i), begin = target_begin(row), count = target_begin(row + 1) - begin;
  double* loss = reinterpret_cast<double*>(scratch + p.row_loss) + i;
  *loss = 0;
  const float* hidden = scratch + p.hidden_rows + i * p.padded;
  const float* log_q = args.target_log_q.as<float>();
  const double normalizer = maximum + __builtin_log(total),
               share = 1 / (counted * static_cast<double>(count));
  double losing = 0;  // the mean probability of the negatives against a target; 1 where all items compete
  for (int64_t m = begin; m < begin + count; ++m) {
    const int64_t item = target(m);
    const float shift = bias(item) - (log_q != nullptr ? log_q[m] : 0);
    const double logit = logit_of(hidden, table_row(item), p.depth) + shift;
    const double margin = normalizer - logit, small = __builtin_exp(margin > 0 ? -margin : margin);
    double wrong = 1, term = margin;
    if (p.sampled) {
      wrong = (margin > 0 ? 1 : small) / (1 + small);
      term = (margin > 0 ? margin : 0) + __builtin_log1p(small);
      if (margin != margin) wrong = term = margin;
    }
    *loss += term * share;
    losing += wrong * share;
    scratch[p.coefficients + m] = static_cast<float>(-wrong * share);
  }
  return total == 0 ? 0 : static_cast<float>(losing / total);
}

template <typename T>
void Loss<T>::finish_hidden_grad(int64_t i) const {
  const int64_t row = row_of(i), begin = target_begin(row), end = target_begin(row + 1);
  T* out = args.hidden_grad.as<T>() + row * p.depth;
  for (int64_t d = 0; d < p.depth; d += kLanes) {
    vf total = splat(0);
    for (int64_t c = 0; c < p.chunks; ++c)
      total = fma(splat(chunk_max(c)[i]), load(partial(c) + i * p.padded + d), total);
    for (int64_t m = begin; m < end; ++m)
      total =
          fma(splat(scratch[p.coefficients + m]), load_some(table_row(target(m)) + d, p.depth - d), total);
    store_some(out + d, total, p.depth - d);
  }
}

// From here on chunk_max holds, instead of the maximum, the factor of the chunk's exponentials.
template <typename T>
void Loss<T>::finish_rows(int64_t group) const {
  const int64_t begin = group * kRowsPerTask;
  for (int64_t i = begin; i < begin + kRowsPerTask; i += kLanes) {
    vf top = splat(kNoLogit);
    for (int64_t c = 0; c < p.chunks; ++c) top = max(load(chunk_max(c) + i), top);
    double totals[kLanes] = {};
    float lanes[kLanes], factors[kLanes] = {};
    for (int64_t c = 0; c < p.chunks; ++c) {
      const vf factor = exp(load(chunk_max(c) + i) - top);
      store(chunk_max(c) + i, factor);
      store(lanes, factor * load(chunk_sum(c) + i));
      for (int lane = 0; lane < kLanes; ++lane) totals[lane] += lanes[lane];
    }
    store(lanes, top);
    for (int lane = 0; lane < kLanes && i + lane < block_rows; ++lane)
      factors[lane] = finish_row(i + lane, lanes[lane], totals[lane]);
    for (int64_t c = 0; c < p.chunks; ++c) store(chunk_max(c) + i, load(chunk_max(c) + i) * load(factors));
  }
  if (!p.hidden_grad) return;
  for (int64_t i = begin; i < min64(begin + kRowsPerTask, block_rows); ++i) finish_hidden_grad(i);
}

template <typename T>
void Loss<T>::add_to_table(int64_t chunk, int thread) const {
  const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.cols - first);
  const float* tile = weights(chunk, thread);
  const float* factors = chunk_max(chunk);
  if (p.bias_grad) {
    float* sums = bias_sum() + first;
    for (int64_t j = 0; j < count; ++j)
      sums[j] = (first_block ? 0 : sums[j]) + block_dot(tile + j * p.block, factors, p.block);
  }
  if (!p.table_grad) return;
  float* scaled = work(thread);
  const float* rows = scratch + p.hidden_rows;
  for (int64_t i = 0; i < p.block; ++i)
    for (int64_t d = 0; d < p.padded; d += kLanes)
      store(scaled + i * p.padded + d, splat(factors[i]) * load(rows + i * p.padded + d));
  float* sums = table_sum() + first * p.depth;
  gemm(Product<float>{tile, p.block, 1, scaled, kPanel, p.padded, count, p.padded, p.block},
       [&](int64_t j, int64_t d, vf value) {
         const int64_t left = p.depth - d;
         if (left <= 0) return;
         float* at = sums + j * p.depth + d;
         store_some(at, first_block ? value : value + load_some(at, left), left);
       });
}

// The gradients of a range of items, once all rows are through: the sums of its columns and its targets.
template <typename T>
void Loss<T>::finish_items(int64_t task, int thread) const {
  const int64_t begin = task * kItemsPerTask, end = min64(begin + kItemsPerTask, args.table.shape[0]);
  const int64_t* order = args.target_order.as<int64_t>();
  int64_t m = lower_bound(p.targets, begin, [&](int64_t at) { return target(order[at]); });
  int64_t col = lower_bound(p.cols, begin, [&](int64_t at) { return item_of(at); });
  for (int64_t item = begin; item < end; ++item) {
    const int64_t width = p.table_grad ? p.depth : 0;
    float* sums = p.sampled ? work(thread) : p.table_grad ? table_sum() + item * width : nullptr;
    double bias_total = p.sampled || !p.bias_grad ? 0 : bias_sum()[item];
    if (p.sampled) fill_zero(sums, width);
    for (; p.sampled && col < p.cols && item_of(col) == item; ++col) {
      if (p.table_grad) add_scaled(sums, 1, table_sum() + col * width, width);
      if (p.bias_grad) bias_total += bias_sum()[col];
    }
    while (m < p.targets && target(order[m]) == item) {
      float* part = work(thread) + p.padded;
      fill_zero(part, width);
      for (int64_t end = m + kTermsPerSum; m < end && m < p.targets && target(order[m]) == item; ++m) {
        const float coefficient = scratch[p.coefficients + order[m]];
        add_scaled(part, coefficient, hidden_row(target_row(order[m])), width);
        bias_total += coefficient;
      }
      add_scaled(sums, 1, part, width);
    }
    if (p.bias_grad) from_float(static_cast<float>(bias_total), args.bias_grad.as<T>() + item);
    if (!p.table_grad || !p.sums_in_scratch()) continue;
    for (int64_t d = 0; d < width; d += kLanes)
      store_some(args.table_grad.as<T>() + item * width + d, load_some(sums + d, width - d), width - d);
  }
}

template <typename T>
void Loss<T>::run() {
  const int64_t items = args.table.shape[0];
  for (int64_t row = 0; row < p.rows; ++row) counted += target_begin(row + 1) > target_begin(row);
  *args.loss.as<float>() = 0;
  if (counted == 0) {
    if (p.hidden_grad) fill_zero(args.hidden_grad.as<T>(), p.rows * p.depth);
    if (p.table_grad) fill_zero(args.table_grad.as<T>(), items * p.depth);
    if (p.bias_grad) fill_zero(args.bias_grad.as<T>(), items);
    return;
  }
  double loss = 0;
  for (; next_row < p.rows && !interrupted(); first_block = false) {
    load_block();
    if (block_rows == 0) break;
    parallel_for(p.chunks, [this](int64_t chunk, int thread) { sweep_chunk(chunk, thread); });
    parallel_for(p.block / kRowsPerTask, [this](int64_t group, int) { finish_rows(group); });
    for (int64_t i = 0; i < block_rows; ++i) loss += reinterpret_cast<const double*>(scratch + p.row_loss)[i];
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
  const bool sampled = static_cast<bool>(args.negatives), rounded = args.hidden.dtype == DType::bf16;
  ItemCrossEntropyPlan plan{args.hidden.shape[0],
                            sampled ? args.negatives.shape[0] : args.table.shape[0],
                            args.targets.shape[0],
                            args.hidden.shape[1],
                            sampled,
                            rounded,
                            static_cast<bool>(args.hidden_grad),
                            static_cast<bool>(args.table_grad),
                            static_cast<bool>(args.bias_grad)};
  finish_plan(&plan, num_threads());
  float* scratch = args.scratch.as<float>();
  if (rounded)
    Loss<bf16>{args, plan, scratch}.run();
  else
    Loss<float>{args, plan, scratch}.run();
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
