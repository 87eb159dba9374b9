#include "engine/scorer.h"

#include <algorithm>

#include "ops.h"

namespace chronorec {

void Scorer::best(const float* state, const std::vector<int32_t>& out, const TensorView& allow, int64_t k,
                  float* scores, int32_t* items, Workspace& work) const {
  static thread_local std::vector<float> nothing;
  if (nothing.size() < out.size()) nothing.assign(out.size(), -__builtin_inff());
  const int64_t depth = panels.shape[1], count = static_cast<int64_t>(out.size());
  const int64_t offsets[] = {0, count};
  TensorView adjust_offsets, adjust_items, adjust_values;
  if (count > 0) {
    adjust_offsets = view_of(offsets, DType::i64, {2});
    adjust_items = view_of(out.data(), DType::i32, {count});
    adjust_values = view_of(nothing.data(), DType::f32, {count});
  }
  item_topk({view_of(state, DType::f32, {1, depth}), panels, num_items, bias, adjust_offsets, adjust_items,
             adjust_values, allow, codes, code_facts, k, view_of(scores, DType::f32, {1, k}),
             view_of(items, DType::i32, {1, k}),
             work.scratch(item_topk_scratch(1, num_items, depth, k, code_bits(codes)))});
}

int64_t recommend(SessionStore& store, const Scorer& scorer, const SessionRequest& request) {
  static thread_local Workspace work;
  static thread_local std::vector<int32_t> out;
  static thread_local std::vector<float> state;
  state.resize(static_cast<size_t>(scorer.panels.shape[1]));
  out.clear();
  const int64_t used =
      store.query(request.user, request.at, request.end, request.now, request.profile, state.data(), out);
  if (!request.leave_seen) out.clear();
  const auto* more = request.exclude.as<const int32_t>();
  out.insert(out.end(), more, more + request.exclude.shape[0]);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  scorer.best(state.data(), out, request.allow, request.scores.shape[0], request.scores.as<float>(),
              request.items.as<int32_t>(), work);
  return used;
}

}  // namespace chronorec
