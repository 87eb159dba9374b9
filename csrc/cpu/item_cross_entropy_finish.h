// What item_cross_entropy does once the sums over the columns stand: rows to losses and hidden gradients,
// sums of columns to gradients of items.
#pragma once
#include "cpu/item_cross_entropy_loss.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// The loss of row i of the block; leaves the coefficients of its targets and returns the factor of its
// exponentials.
template <typename T>
float Loss<T>::finish_row(int64_t i, float maximum, double total) const {
  const int64_t row = row_of(i), begin = target_begin(row), count = target_begin(row + 1) - begin;
  const float* hidden = p.hidden_rows + i * p.padded;
  const float* log_q = args.target_log_q.as<float>();
  const double row_share = weight(row) / total_weight, share = row_share / static_cast<double>(count);
  const double normalizer = maximum + __builtin_log(total), smoothing = args.label_smoothing;
  double losing = 0;  // the mean probability of the negatives against a target; 1 where all items compete
  double loss = 0;
  for (int64_t m = begin; m < begin + count; ++m) {
    const int64_t item = target(m);
    const float shift = bias(item) * scale - (log_q != nullptr ? log_q[m] : 0);
    const float product = logit_of(hidden, table_row(item), p.depth);
    const double logit = product * scale + shift;
    const double margin = normalizer - logit, small = __builtin_exp(margin > 0 ? -margin : margin);
    double wrong = 1, term = margin;
    if (p.sampled) {
      wrong = (margin > 0 ? 1 : small) / (1 + small);
      term = (margin > 0 ? margin : 0) + __builtin_log1p(small);
      if (margin != margin) wrong = term = margin;
    }
    loss += term * share * (1 - smoothing);
    losing += wrong * share;
    p.coefficients[m] = static_cast<float>(-wrong * share * (1 - smoothing) * scale);
  }
  if (p.smoothed) {
    double mean = p.table_mean[p.padded];
    for (int64_t d = 0; d < p.depth; ++d) mean += p.table_mean[d] * static_cast<double>(hidden[d]);
    loss += smoothing * row_share * (normalizer - mean * scale);
    p.row_uniform[i] = static_cast<float>(-smoothing * row_share * scale / static_cast<double>(p.cols));
  }
  p.row_loss[i] = loss;
  return total == 0 ? 0 : static_cast<float>(losing * scale / total);
}

// Of row i, lanes d .. of the hidden gradient: the sum over the items, then the targets and the uniform part.
template <typename T>
void Loss<T>::add_row_terms(int64_t i, int64_t d, vf total) const {
  const int64_t row = row_of(i), left = p.depth - d;
  for (int64_t m = target_begin(row); m < target_begin(row + 1); ++m)
    total = fma(splat(p.coefficients[m]), load_some(table_row(target(m)) + d, left), total);
  if (p.smoothed) {
    float mean[kLanes];
    for (int lane = 0; lane < kLanes; ++lane)
      mean[lane] = static_cast<float>(p.table_mean[d + lane] * static_cast<double>(p.cols));
    total = fma(splat(p.row_uniform[i]), load(mean), total);
  }
  store_some(args.hidden_grad.as<T>() + row * p.depth + d, total, left);
}

template <typename T>
void Loss<T>::finish_hidden_grads(int64_t begin, int64_t end) const {
  if constexpr (kRounded) {  // the sums are transposed: a square of kLanes rows x kLanes depths at a time
    for (int64_t i = begin; i < end; i += kLanes)
      for (int64_t d = 0; d < p.depth; d += kLanes) {
        vf m[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          m[lane] = splat(0);
          for (int64_t s = 0; d + lane < p.depth && s < p.spans; ++s)
            m[lane] = fma(load(span_max(s) + i), load(partial(s) + (d + lane) * p.block + i), m[lane]);
        }
        transpose(m);
        for (int64_t lane = 0; lane < min64(kLanes, end - i); ++lane) add_row_terms(i + lane, d, m[lane]);
      }
  } else {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t d = 0; d < p.depth; d += kLanes) {
        vf total = splat(0);
        for (int64_t s = 0; s < p.spans; ++s)
          total = fma(splat(span_max(s)[i]), load(partial(s) + i * p.padded + d), total);
        add_row_terms(i, d, total);
      }
  }
}

// From here on chunk_max and span_max hold, instead of the maxima, the factors of the exponentials.
template <typename T>
void Loss<T>::finish_rows(int64_t group) const {
  const int64_t begin = group * kRowsPerTask, end = min64(begin + kRowsPerTask, block_rows);
  for (int64_t i = begin; i < begin + kRowsPerTask; i += kLanes) {
    vf top = splat(kNoLogit);
    for (int64_t s = 0; s < p.spans; ++s) top = max(load(span_max(s) + i), top);
    double totals[kLanes] = {};
    float lanes[kLanes], factors[kLanes] = {};
    for (int64_t s = 0; s < p.spans; ++s) {
      store(lanes, exp_of_negative(load(span_max(s) + i) - top) * load(span_sum(s) + i));
      for (int lane = 0; lane < kLanes; ++lane) totals[lane] += lanes[lane];
    }
    store(lanes, top);
    for (int lane = 0; lane < kLanes && i + lane < block_rows; ++lane)
      factors[lane] = finish_row(i + lane, lanes[lane], totals[lane]);
    const vf factor = load(factors);
    for (int64_t s = 0; s < p.spans; ++s)
      store(span_max(s) + i, exp_of_negative(load(span_max(s) + i) - top) * factor);
    for (int64_t c = 0; p.keeps_weights() && c < p.chunks; ++c)
      store(chunk_max(c) + i, exp_of_negative(load(chunk_max(c) + i) - top) * factor);
  }
  if (p.hidden_grad) finish_hidden_grads(begin, end);
}

// The mean item and the mean bias, towards which smoothed labels pull.
template <typename T>
void Loss<T>::average_table() const {
  const int64_t slice = (p.cols + p.kMeanSlices - 1) / p.kMeanSlices, step = p.padded + 1;
  parallel_for(p.kMeanSlices, [&](int64_t part, int) {
    double* sums = p.mean_parts + part * step;
    for (int64_t d = 0; d < step; ++d) sums[d] = 0;
    for (int64_t item = part * slice; item < min64((part + 1) * slice, p.cols); ++item) {
      for (int64_t d = 0; d < p.depth; ++d) sums[d] += static_cast<double>(to_float(table_row(item)[d]));
      sums[p.padded] += static_cast<double>(bias(item));
    }
  });
  for (int64_t d = 0; d < step; ++d) {
    double total = 0;
    for (int64_t part = 0; part < p.kMeanSlices; ++part) total += p.mean_parts[part * step + d];
    p.table_mean[d] = total / static_cast<double>(p.cols);
    p.uniform_sum[d] = 0;
  }
}

// What the block's rows add to every item alike.
template <typename T>
void Loss<T>::add_uniform() {
  for (int64_t i = 0; i < block_rows; ++i) {
    const auto uniform = static_cast<double>(p.row_uniform[i]);
    const float* hidden = p.hidden_rows + i * p.padded;
    for (int64_t d = 0; d < p.depth; ++d) p.uniform_sum[d] += uniform * static_cast<double>(hidden[d]);
    p.uniform_sum[p.padded] += uniform;
  }
}

// The gradients of a range of items, once all rows are through: the sums of its columns and its targets.
template <typename T>
void Loss<T>::finish_items(int64_t task, int thread) const {
  const int64_t begin = task * kItemsPerTask, end = min64(begin + kItemsPerTask, args.table.shape[0]);
  float* mine = room(thread).row;
  const int64_t* order = args.target_order.as<int64_t>();
  int64_t m = first_not(0, p.targets, [&](int64_t at) { return target(order[at]) < begin; });
  int64_t col = first_not(0, p.cols, [&](int64_t at) { return item_of(at) < begin; });
  for (int64_t item = begin; item < end; ++item) {
    const int64_t width = p.table_grad ? p.depth : 0;
    float* sums = p.sampled ? mine : p.table_grad ? table_sum() + item * width : nullptr;
    double bias_total = p.sampled || !p.bias_grad ? 0 : bias_sum()[item];
    if (p.sampled) fill_zero(sums, width);
    for (; p.sampled && col < p.cols && item_of(col) == item; ++col) {
      if (p.table_grad) add_scaled(sums, 1, table_sum() + col * width, width);
      if (p.bias_grad) bias_total += bias_sum()[col];
    }
    while (m < p.targets && target(order[m]) == item) {
      float* part = mine + p.padded;
      fill_zero(part, width);
      for (int64_t end = m + kTermsPerSum; m < end && m < p.targets && target(order[m]) == item; ++m) {
        const float coefficient = p.coefficients[order[m]];
        if (coefficient == 0) continue;
        add_scaled(part, coefficient, hidden_row(target_row(order[m])), width);
        bias_total += coefficient;
      }
      add_scaled(sums, 1, part, width);
    }
    if (p.smoothed) {
      bias_total += p.uniform_sum[p.padded];
      for (int64_t d = 0; d < width; ++d) sums[d] += static_cast<float>(p.uniform_sum[d]);
    }
    if (p.bias_grad) from_float(static_cast<float>(bias_total), args.bias_grad.as<T>() + item);
    if (!p.table_grad || !p.sums_in_scratch()) continue;
    for (int64_t d = 0; d < width; d += kLanes)
      store_some(args.table_grad.as<T>() + item * width + d, load_some(sums + d, width - d), width - d);
  }
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
