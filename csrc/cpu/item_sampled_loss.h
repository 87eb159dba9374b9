// One call of item_sampled_loss: its state, and the losses of a row whose logits are known.
#pragma once
#include "core/parallel.h"
#include "cpu/item_cross_entropy_tiles.h"
#include "cpu/item_sampled_loss_plan.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

constexpr int kVecs = 4;  // vectors of a row that are summed together

struct ScalarSoftplus {
  double value, slope;
  explicit ScalarSoftplus(double x) {
    const double small = __builtin_exp(x > 0 ? -x : x);
    slope = (x > 0 ? 1 : small) / (1 + small);
    value = (x > 0 ? x : 0) + __builtin_log1p(small);
    if (x != x) slope = value = x;
  }
};

// A row in work: its targets are begin .. end, each weighs `share` in the loss, `kept` negatives compete.
struct Row {
  const ItemSampledLossThread& room;
  int64_t index, begin, end;
  double share;
  int64_t kept;
  int64_t* cursors;
};

// Rows whose logits for negatives that all rows share are made together.
struct SharedRows {
  const int64_t* ids;
  int64_t count;
  int64_t kept[ItemSampledLossPlan::kTile];
};

template <typename T>
struct SampledLoss {
  const ItemSampledLossArgs& args;
  const ItemSampledLossPlan& p;
  float scale;  // of products and biases: 1 / temperature
  double total_weight = 0;
  int64_t counted = 0, slice_rows = 0;  // rows that count, and how many of them a slice has

  const T* table_row(int64_t item) const { return args.table.as<T>() + item * args.table.stride[0]; }
  const T* hidden_row(int64_t row) const { return args.hidden.as<T>() + row * args.hidden.stride[0]; }
  const int64_t* negatives_of(int64_t row) const {
    return args.negatives.as<int64_t>() + row * args.negatives.stride[0];
  }
  int64_t target(int64_t at) const { return args.targets.as<int64_t>()[at]; }
  int64_t target_begin(int64_t row) const {
    return args.target_offsets ? args.target_offsets.as<int64_t>()[row] : row;
  }
  double weight(int64_t row) const {  // zero: the row does not count
    if (target_begin(row + 1) == target_begin(row)) return 0;
    return args.weights ? args.weights.as<float>()[row] : 1;
  }
  float bias(int64_t item) const { return args.bias ? to_float(args.bias.as<T>()[item]) : 0; }
  ItemSampledLossThread room(int thread) const { return {p.threads + thread * p.per_thread, p}; }
  int64_t* cursors(int64_t slice) const { return p.cursors + slice * p.buckets; }
  // The slice's first row among those that count, and the one behind its last.
  int64_t begin_of(int64_t slice) const { return min64(slice * slice_rows, counted); }

  void run();
  void count_rows();
  void count_shares(int64_t slice) const;
  void place_shares() const;
  void sweep_slice(int64_t slice, int thread) const;
  int64_t logits_of(int64_t row, const ItemSampledLossThread& mine) const;
  double sweep_row(int64_t index, const ItemSampledLossThread& mine, int64_t* cursors) const;
  float right_logit(const Row& row, int64_t m) const;
  void take_target(const Row& row, int64_t m, double slope) const;
  double add_pairs(const Row& row, float right, double times, double* loss) const;
  double softmax_row(const Row& row) const;
  double gbce_row(const Row& row) const;
  double bpr_row(const Row& row) const;
  template <int Vecs>
  void add_items(const Row& row, int64_t d0, int64_t begin, int64_t end, vf* total) const;
  void add_hidden_grad(const Row& row) const;
  void put(int64_t item, int64_t row, float coefficient, int64_t* cursors) const {
    if (p.scatters)
      p.shares[cursors[item >> p.shift]++] = {static_cast<int32_t>(item), static_cast<int32_t>(row),
                                              coefficient};
  }
  void pack_shared(int64_t panel) const;
  void shared_logits(SharedRows* rows, const ItemSampledLossThread& mine) const;
  void add_products(const SharedRows& rows, int64_t slice, bool fresh,
                    const ItemSampledLossThread& mine) const;
  void sweep_shared_slice(int64_t slice, int thread) const;
  void sum_slices(int64_t negative) const;
  double row_loss(const Row& row) const;
  void sort_bucket(int64_t bucket, int64_t* starts) const;
  template <int Vecs>
  void add_shares(int64_t item, int64_t d0, int64_t begin, int64_t end) const;
  void finish_bucket(int64_t bucket, int thread) const;
};

// The product with the row of a target, and what the loss takes off.
template <typename T>
float SampledLoss<T>::right_logit(const Row& row, int64_t m) const {
  const T* item = table_row(target(m));
  vf dot = splat(0);
  for (int64_t d = 0; d < p.depth; d += kLanes)
    dot = fma(load_some(item + d, p.depth - d), load(row.room.hidden + d), dot);
  const float* log_q = args.target_log_q.as<float>();
  return sum(dot) * scale + (bias(target(m)) * scale - (log_q != nullptr ? log_q[m] : 0));
}

// The loss falls by `slope` per logit of target m.
template <typename T>
void SampledLoss<T>::take_target(const Row& row, int64_t m, double slope) const {
  const auto coefficient = static_cast<float>(-slope * static_cast<double>(scale));
  put(target(m), row.index, coefficient, row.cursors);
  if (args.hidden_grad) add_scaled(row.room.hidden_grad, coefficient, table_row(target(m)), p.depth);
}

// Adds `times` softplus(logit - right) over the negatives; returns the sum of the slopes.
template <typename T>
double SampledLoss<T>::add_pairs(const Row& row, float right, double times, double* loss) const {
  const vf factor = splat(static_cast<float>(times * static_cast<double>(scale)));
  vf values = splat(0), slopes = splat(0);
  for (int64_t k = 0; k < p.padded_count; k += kLanes) {
    const Softplus pair(load(row.room.logits + k) - splat(right));
    values += pair.value, slopes += pair.slope;
    float* at = row.room.coefficients + k;
    store(at, fma(pair.slope, factor, load(at)));
  }
  *loss += times * static_cast<double>(sum(values));
  return times * static_cast<double>(sum(slopes));
}

// Mean over the targets of log(1 + exp(logsumexp over the negatives - right)).
template <typename T>
double SampledLoss<T>::softmax_row(const Row& row) const {
  float* coefficients = row.room.coefficients;
  vf top = splat(kNoLogit), sums = splat(0);
  for (int64_t k = 0; k < p.padded_count; k += kLanes) top = max(load(row.room.logits + k), top);
  const float highest = max_of(top);
  for (int64_t k = 0; k < p.padded_count; k += kLanes) {
    const vf e = exp_of_negative(load(row.room.logits + k) - splat(highest));
    store(coefficients + k, e);
    sums += e;
  }
  const auto total = static_cast<double>(sum(sums));
  const double normalizer = static_cast<double>(highest) + __builtin_log(total);
  double loss = 0, losing = 0;
  for (int64_t m = row.begin; m < row.end; ++m) {
    const ScalarSoftplus margin(normalizer - static_cast<double>(right_logit(row, m)));
    loss += row.share * margin.value;
    losing += row.share * margin.slope;
    take_target(row, m, row.share * margin.slope);
  }
  const vf factor = splat(total == 0 ? 0 : static_cast<float>(losing * static_cast<double>(scale) / total));
  for (int64_t k = 0; k < p.padded_count; k += kLanes)
    store(coefficients + k, load(coefficients + k) * factor);
  return loss;
}

// Mean over the targets of the mean over one target and all negatives; the target's probability is raised to
// the power of args.exponent.
template <typename T>
double SampledLoss<T>::gbce_row(const Row& row) const {
  const double each = row.share / static_cast<double>(row.kept + 1);
  double loss = 0;
  add_pairs(row, 0, each * static_cast<double>(row.end - row.begin), &loss);
  for (int64_t m = row.begin; m < row.end; ++m) {
    const ScalarSoftplus wrong(-static_cast<double>(right_logit(row, m)));
    loss += each * args.exponent * wrong.value;
    take_target(row, m, each * args.exponent * wrong.slope);
  }
  return loss;
}

// Mean over the targets of the mean over the negatives of -log sigmoid(right - logit).
template <typename T>
double SampledLoss<T>::bpr_row(const Row& row) const {
  const double each = row.share / static_cast<double>(max64(row.kept, 1));
  double loss = 0;
  for (int64_t m = row.begin; m < row.end; ++m)
    take_target(row, m, add_pairs(row, right_logit(row, m), each, &loss));
  return loss;
}

template <typename T>
double SampledLoss<T>::row_loss(const Row& row) const {
  const auto kind = static_cast<SampledLossKind>(args.kind);
  return kind == SampledLossKind::softmax ? softmax_row(row)
         : kind == SampledLossKind::gbce  ? gbce_row(row)
                                          : bpr_row(row);
}

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
