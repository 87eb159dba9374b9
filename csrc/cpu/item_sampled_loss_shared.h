// Losses over negatives that all rows share: slices of rows go through in tiles, whose logits and gradients
// are products of matrices. What a slice adds to the negatives' gradients it adds up by itself; the sums of
// all slices, in order, then join the shares of the targets. In bf16 too, the products are those of float32.
#pragma once
#include "cpu/gemm.h"
#include "cpu/item_sampled_loss.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// The vectors and biases of the negatives of one panel.
template <typename T>
void SampledLoss<T>::pack_shared(int64_t panel) const {
  const int64_t first = panel * kPanel;
  float* to = p.vectors + first * p.padded;
  for (int64_t k = first; k < first + kPanel; ++k) {
    const bool real = k < p.negatives;
    const int64_t item = real ? negatives_of(0)[k] : 0;
    p.shifts[k] = real ? bias(item) * scale : -__builtin_inff();
    if (real)
      widen(table_row(item), p.depth, p.padded, p.vectors + k * p.padded);
    else
      fill_zero(p.vectors + k * p.padded, p.padded);
  }
  pack_panels(to, 1, p.padded, p.padded, kPanel, p.panels + first * p.padded);
}

// The logits of a tile, -inf for accidental hits and behind the last negative.
template <typename T>
void SampledLoss<T>::shared_logits(SharedRows* rows, const ItemSampledLossThread& mine) const {
  for (int64_t i = 0; i < rows->count; ++i)
    widen(hidden_row(rows->ids[i]), p.depth, p.padded, mine.hidden + i * p.padded);
  gemm(product(mine.hidden, p.padded, p.panels, rows->count, p.padded_count, p.padded),
       [&](int64_t i, int64_t k, vf value) {
         store(mine.logits + i * p.padded_count + k, fma(value, splat(scale), load(p.shifts + k)));
       });
  const int64_t* ids = negatives_of(0);
  for (int64_t i = 0; i < rows->count; ++i) {
    float* logits = mine.logits + i * p.padded_count;
    rows->kept[i] = p.negatives;
    for (int64_t m = target_begin(rows->ids[i]); m < target_begin(rows->ids[i] + 1); ++m)
      for (int64_t k = 0; k < p.negatives; ++k) {
        if (ids[k] != target(m) || logits[k] == -__builtin_inff()) continue;
        logits[k] = -__builtin_inff();
        --rows->kept[i];
      }
  }
}

// The tile's part of the gradients, from its coefficients; `fresh`: the slice's first.
template <typename T>
void SampledLoss<T>::add_products(const SharedRows& rows, int64_t slice, bool fresh,
                                  const ItemSampledLossThread& mine) const {
  if (args.hidden_grad)
    gemm(Product<float>{mine.coefficients, p.padded_count, 1, p.vectors, kPanel, p.padded, rows.count,
                        p.padded, p.negatives},
         [&](int64_t i, int64_t d, vf value) {
           const vf total = value + load(mine.hidden_grad + i * p.padded + d);
           if (d < p.depth)
             store_some(args.hidden_grad.as<T>() + rows.ids[i] * p.depth + d, total, p.depth - d);
         });
  if (!p.scatters) return;
  if (args.table_grad)
    gemm(Product<float>{mine.coefficients, 1, p.padded_count, mine.hidden, kPanel, p.padded, p.negatives,
                        p.padded, rows.count},
         [&](int64_t k, int64_t d, vf value) {
           float* at = p.sums_of(slice, k) + d;
           store(at, fresh ? value : value + load(at));
         });
  for (int64_t k = 0; k < p.padded_count; k += kLanes) {
    float* at = p.bias_sum(slice, k);
    vf total = splat(0);
    for (int64_t i = 0; i < rows.count; ++i) total += load(mine.coefficients + i * p.padded_count + k);
    store(at, fresh ? total : total + load(at));
  }
}

template <typename T>
void SampledLoss<T>::sweep_shared_slice(int64_t slice, int thread) const {
  const ItemSampledLossThread mine = room(thread);
  int64_t* const places = p.scatters ? cursors(slice) : nullptr;
  for (int64_t k = 0; p.scatters && slice == 0 && k < p.negatives; ++k)
    put(negatives_of(0)[k], p.rows + k, 1, places);
  double loss = 0;
  const int64_t first = begin_of(slice), last = begin_of(slice + 1);
  for (int64_t next = first; next < last || next == first; next += ItemSampledLossPlan::kTile) {
    SharedRows rows{p.counted + next, min64(ItemSampledLossPlan::kTile, last - next), {}};
    shared_logits(&rows, mine);
    fill_zero(mine.hidden_grad, rows.count * p.padded);
    fill_zero(mine.coefficients, rows.count * p.padded_count);
    for (int64_t i = 0; i < rows.count; ++i) {
      ItemSampledLossThread own = mine;
      own.hidden += i * p.padded, own.hidden_grad += i * p.padded;
      own.logits += i * p.padded_count, own.coefficients += i * p.padded_count;
      const int64_t id = rows.ids[i];
      Row row{own, id, target_begin(id), target_begin(id + 1), 0, rows.kept[i], places};
      row.share = weight(id) / total_weight / static_cast<double>(row.end - row.begin);
      loss += row_loss(row);
    }
    add_products(rows, slice, next == first, mine);
  }
  p.slice_loss[slice] = loss;
}

// One negative's gradients of all slices, in order, into the first's.
template <typename T>
void SampledLoss<T>::sum_slices(int64_t negative) const {
  for (int64_t slice = 1; slice < p.slices; ++slice) {
    *p.bias_sum(0, negative) += *p.bias_sum(slice, negative);
    if (args.table_grad) add_scaled(p.sums_of(0, negative), 1, p.sums_of(slice, negative), p.padded);
  }
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
