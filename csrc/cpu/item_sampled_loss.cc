// Losses over negatives of each row's own, or of all rows (item_sampled_loss_shared.h). (1) Slices of rows:
// the table rows of a row's negatives are gathered, for the products and, still in cache, for the hidden
// gradient; what the row adds to an item's gradient is a share (item, row, coefficient), put down in the
// bucket of items that the item belongs to. (2) Bucket by bucket, the shares are sorted by item and added up
// in the order of rows. Slices, buckets and the order of every sum depend on the sizes alone.
#include "cpu/item_sampled_loss_shared.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

template <typename T>
void SampledLoss<T>::count_shares(int64_t slice) const {
  int64_t* counts = cursors(slice);
  for (int64_t bucket = 0; bucket < p.buckets; ++bucket) counts[bucket] = 0;
  const auto count_negatives = [&](const int64_t* ids) {
    for (int64_t k = 0; k < p.negatives; ++k) ++counts[ids[k] >> p.shift];
  };
  if (p.shared && slice == 0) count_negatives(negatives_of(0));
  for (int64_t at = begin_of(slice); at < begin_of(slice + 1); ++at) {
    const int64_t row = p.counted[at];
    if (!p.shared) count_negatives(negatives_of(row));
    for (int64_t m = target_begin(row); m < target_begin(row + 1); ++m) ++counts[target(m) >> p.shift];
  }
}

// Counts to the places where each slice's shares begin.
template <typename T>
void SampledLoss<T>::place_shares() const {
  int64_t at = 0;
  for (int64_t bucket = 0; bucket < p.buckets; ++bucket) {
    for (int64_t slice = 0; slice < p.slices; ++slice) {
      const int64_t count = cursors(slice)[bucket];
      cursors(slice)[bucket] = at;
      at += count;
    }
    p.ends[bucket] = at;
  }
}

// The logits of the row's negatives, -inf where one is a target of the row (an accidental hit) and behind the
// last. Returns how many are left.
template <typename T>
int64_t SampledLoss<T>::logits_of(int64_t row, const ItemSampledLossThread& mine) const {
  const int64_t* ids = negatives_of(row);
  const float* log_q =
      args.negative_log_q ? args.negative_log_q.as<float>() + row * args.negative_log_q.stride[0] : nullptr;
  int64_t kept = 0;
  for (int64_t k0 = 0; k0 < p.padded_count; k0 += kLanes) {
    const int64_t count = min64(kLanes, p.negatives - k0);
    vf m[kLanes];
    float shifts[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      m[lane] = splat(0);
      shifts[lane] = -__builtin_inff();
      if (lane >= count) continue;
      const int64_t item = ids[k0 + lane];
      if (k0 + lane + kLanes < p.negatives) __builtin_prefetch(table_row(ids[k0 + lane + kLanes]));
      const T* from = table_row(item);
      for (int64_t d = 0; d < p.depth; d += kLanes)
        m[lane] = fma(load_some(from + d, p.depth - d), load(mine.hidden + d), m[lane]);
      bool hit = false;
      for (int64_t at = target_begin(row); at < target_begin(row + 1); ++at) hit |= target(at) == item;
      if (hit) continue;
      ++kept;
      shifts[lane] = bias(item) * scale - (log_q != nullptr ? log_q[k0 + lane] : 0);
    }
    store(mine.logits + k0, fma(sums_of(m), splat(scale), load(shifts)));
  }
  return kept;
}

// total[v] += coefficients[k] * lanes v of the item, over k in [begin, end).
template <typename T>
template <int Vecs>
void SampledLoss<T>::add_items(const Row& row, int64_t d0, int64_t begin, int64_t end, vf* total) const {
  const int64_t* ids = negatives_of(row.index);
  vf part[Vecs];
  for (int v = 0; v < Vecs; ++v) part[v] = splat(0);
  for (int64_t k = begin; k < end; ++k) {
    const float coefficient = row.room.coefficients[k];
    if (coefficient == 0) continue;  // masked
    const T* item = table_row(ids[k]) + d0;
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) {
      const int64_t left = p.depth - d0 - v * kLanes;
      part[v] = fma(splat(coefficient), Vecs == 1 ? load_some(item, left) : load(item + v * kLanes), part[v]);
    }
  }
  for (int v = 0; v < Vecs; ++v) total[v] += part[v];
}

template <typename T>
void SampledLoss<T>::add_hidden_grad(const Row& row) const {
  T* out = args.hidden_grad.as<T>() + row.index * p.depth;
  for (int64_t d0 = 0; d0 < p.depth;) {
    const int vecs = p.depth - d0 >= kVecs * kLanes ? kVecs : 1;
    vf total[kVecs];
    for (int v = 0; v < vecs; ++v) total[v] = load(row.room.hidden_grad + d0 + v * kLanes);
    for (int64_t k = 0; k < p.negatives; k += kTermsPerSum) {
      const int64_t end = min64(k + kTermsPerSum, p.negatives);
      vecs == kVecs ? add_items<kVecs>(row, d0, k, end, total) : add_items<1>(row, d0, k, end, total);
    }
    for (int v = 0; v < vecs; ++v, d0 += kLanes) store_some(out + d0, total[v], p.depth - d0);
  }
}

template <typename T>
double SampledLoss<T>::sweep_row(int64_t index, const ItemSampledLossThread& mine, int64_t* cursors) const {
  Row row{mine, index, target_begin(index), target_begin(index + 1), 0, 0, cursors};
  row.share = weight(index) / total_weight / static_cast<double>(row.end - row.begin);
  widen(hidden_row(index), p.depth, p.padded, mine.hidden);
  fill_zero(mine.hidden_grad, p.padded);
  fill_zero(mine.coefficients, p.padded_count);
  row.kept = logits_of(index, mine);
  const double loss = row_loss(row);
  const int64_t* ids = negatives_of(index);
  for (int64_t k = 0; p.scatters && k < p.negatives; ++k) put(ids[k], index, mine.coefficients[k], cursors);
  if (args.hidden_grad) add_hidden_grad(row);
  return loss;
}

template <typename T>
void SampledLoss<T>::sweep_slice(int64_t slice, int thread) const {
  const ItemSampledLossThread mine = room(thread);
  double loss = 0;
  for (int64_t at = begin_of(slice); at < begin_of(slice + 1); ++at)
    loss += sweep_row(p.counted[at], mine, p.scatters ? cursors(slice) : nullptr);
  p.slice_loss[slice] = loss;
}

// The shares of a bucket by item, in the order of rows within one: a counting sort of their positions.
template <typename T>
void SampledLoss<T>::sort_bucket(int64_t bucket, int64_t* starts) const {
  const int64_t begin = bucket == 0 ? 0 : p.ends[bucket - 1], end = p.ends[bucket];
  const int64_t first = bucket << p.shift, count = p.bucket_items();
  for (int64_t i = 0; i < count + 2; ++i) starts[i] = 0;
  for (int64_t at = begin; at < end; ++at) ++starts[p.shares[at].item - first + 2];
  starts[1] = begin;
  for (int64_t i = 1; i <= count; ++i) starts[i + 1] += starts[i];
  for (int64_t at = begin; at < end; ++at) p.order[starts[p.shares[at].item - first + 1]++] = at;
  starts[0] = begin;  // now item i's shares are order[starts[i] .. starts[i + 1]]
}

// Lanes d0 .. of an item's gradient, from shares order[begin .. end]. Long sums have two levels.
template <typename T>
template <int Vecs>
void SampledLoss<T>::add_shares(int64_t item, int64_t d0, int64_t begin, int64_t end) const {
  vf total[Vecs], part[Vecs];
  for (int v = 0; v < Vecs; ++v) total[v] = splat(0);
  for (int64_t at = begin; at < end;) {
    for (int v = 0; v < Vecs; ++v) part[v] = splat(0);
    for (const int64_t stop = min64(at + kTermsPerSum, end); at < stop; ++at) {
      const ItemShare& share = p.shares[p.order[at]];
      if (share.coefficient == 0) continue;  // masked
      if (share.row >= p.rows) {             // all rows' part of a negative that they share
        for (int v = 0; v < Vecs; ++v) part[v] += load(p.sums_of(0, share.row - p.rows) + d0 + v * kLanes);
        continue;
      }
      const T* hidden = hidden_row(share.row) + d0;
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v)
        part[v] = fma(splat(share.coefficient),
                      Vecs == 1 ? load_some(hidden, p.depth - d0) : load(hidden + v * kLanes), part[v]);
    }
    for (int v = 0; v < Vecs; ++v) total[v] += part[v];
  }
  T* out = args.table_grad.as<T>() + item * p.depth + d0;
  for (int v = 0; v < Vecs; ++v) store_some(out + v * kLanes, total[v], p.depth - d0 - v * kLanes);
}

// The gradients of a bucket's items.
template <typename T>
void SampledLoss<T>::finish_bucket(int64_t bucket, int thread) const {
  int64_t* starts = room(thread).starts;
  sort_bucket(bucket, starts);
  const int64_t first = bucket << p.shift, last = min64(first + p.bucket_items(), p.items);
  for (int64_t item = first; item < last; ++item) {
    const int64_t begin = starts[item - first], end = starts[item - first + 1];
    if (args.bias_grad) {
      double total = 0;
      for (int64_t at = begin; at < end; ++at) {
        const ItemShare& share = p.shares[p.order[at]];
        total +=
            static_cast<double>(share.row < p.rows ? share.coefficient : *p.bias_sum(0, share.row - p.rows));
      }
      from_float(static_cast<float>(total), args.bias_grad.as<T>() + item);
    }
    for (int64_t d = 0; args.table_grad && d < p.depth;) {
      const bool wide = p.depth - d >= kVecs * kLanes;
      wide ? add_shares<kVecs>(item, d, begin, end) : add_shares<1>(item, d, begin, end);
      d += wide ? kVecs * kLanes : kLanes;
    }
  }
}

// The rows that count; nothing reaches the gradients of the others.
template <typename T>
void SampledLoss<T>::count_rows() {
  for (int64_t row = 0; row < p.rows; ++row) {
    if (weight(row) > 0)
      p.counted[counted++] = row;
    else if (args.hidden_grad)
      fill_zero(args.hidden_grad.as<T>() + row * p.depth, p.depth);
    total_weight += weight(row);
  }
  slice_rows = p.slice_of(counted);
}

template <typename T>
void SampledLoss<T>::run() {
  count_rows();
  if (p.scatters) {
    parallel_for(p.slices, [this](int64_t slice, int) { count_shares(slice); });
    if (interrupted()) return;  // the counts are places soon
    place_shares();
  }
  if (p.shared) {
    parallel_for(p.padded_count / kPanel, [this](int64_t panel, int) { pack_shared(panel); });
    parallel_for(p.slices, [this](int64_t slice, int thread) { sweep_shared_slice(slice, thread); });
  } else {
    parallel_for(p.slices, [this](int64_t slice, int thread) { sweep_slice(slice, thread); });
  }
  if (interrupted()) return;
  if (p.shared && p.scatters)
    parallel_for(p.negatives, [this](int64_t negative, int) { sum_slices(negative); });
  double loss = 0;
  for (int64_t slice = 0; slice < p.slices; ++slice) loss += p.slice_loss[slice];
  *args.loss.as<float>() = static_cast<float>(loss);
  if (p.scatters)
    parallel_for(p.buckets, [this](int64_t bucket, int thread) { finish_bucket(bucket, thread); });
}

}  // namespace

void item_sampled_loss(const ItemSampledLossArgs& args) {
  const ItemSampledLossPlan plan = item_sampled_loss_plan(args, num_threads());
  const auto scale = static_cast<float>(1 / args.temperature);
  if (args.hidden.dtype == DType::bf16)
    SampledLoss<bf16>{args, plan, scale}.run();
  else
    SampledLoss<float>{args, plan, scale}.run();
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
