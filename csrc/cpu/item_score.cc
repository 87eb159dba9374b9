#include "cpu/item_lists.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {

void item_score(const ItemScoreArgs& args) {
  const ItemScores s = scores_of(args);
  float* scores = args.scores.as<float>();
  with_ids(args.list_items, [&](const auto* items) {
    for_each_stretch(args.list_offsets.as<int64_t>(), args.queries.shape[0],
                     [&](int64_t query, int64_t begin, int64_t end) {
                       const auto* some = items + begin;
                       const int64_t count = end - begin, step = args.table.stride[0];
                       if (args.table.ndim == 3)
                         score_panels(s, query, some, count, scores + begin);
                       else if (args.table.dtype == DType::bf16)
                         score_rows(s, Rows<const bf16>{args.table.as<bf16>(), step}, query, some, count,
                                    scores + begin);
                       else
                         score_rows(s, Rows<const float>{args.table.as<float>(), step}, query, some, count,
                                    scores + begin);
                     });
  });
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
