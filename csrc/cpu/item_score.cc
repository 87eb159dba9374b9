#include "core/parallel.h"
#include "cpu/item_scores.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {

void item_score(const ItemScoreArgs& args) {
  score_lists(scores_of(args), args.list_offsets.as<int64_t>(), args.queries.shape[0],
              args.list_items.as<int32_t>(), args.scores.as<float>());
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
