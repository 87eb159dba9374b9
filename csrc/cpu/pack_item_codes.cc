#include "core/parallel.h"
#include "cpu/item_codes.h"
#include "cpu/kernels.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

// Of numbers that are not negative.
inline bf16 up_to_bf16(float wide) {
  uint32_t bits;
  __builtin_memcpy(&bits, &wide, 4);
  return {static_cast<uint16_t>((bits + 0xffff) >> 16)};
}

// The code of x and the multiple of the scale that it stands for; up to rounding, no x exceeds 127 scales.
inline int32_t encode(float x, double inverse, uint8_t* code) {
  const int32_t whole = round_to_code(x * inverse);
  *code = static_cast<uint8_t>(whole + 128);
  return whole;
}
inline float encode(float x, double, bf16* code) {
  from_float(x, code);
  if (__builtin_fabsf(to_float(*code)) < kTiny) code->bits = 0;
  return to_float(*code);
}
inline bf16 scale_for(float largest, const uint8_t*) {
  const bf16 scale = up_to_bf16(largest / 127), least = up_to_bf16(kTiny);
  return scale.bits > least.bits ? scale : least;
}
inline bf16 scale_for(float, const bf16*) { return {0x3f80}; }  // 1

// One row to every 16th group of its panel, and its facts. A row with a value or code that is not finite has
// an infinite r and n: its score has no bound.
template <typename T, typename Code>
void pack_row(const T* row, int64_t depth, Code* codes, bf16* facts) {
  constexpr int64_t kGroup = CodeTraits<Code>::kGroup;
  float largest = 0;
  double squares = 0, code_squares = 0, error_squares = 0;
  for (int64_t d = 0; d < depth; ++d) {
    const float x = to_float(row[d]), size = __builtin_fabsf(x);
    largest = size > largest ? size : largest;
    squares += static_cast<double>(x) * x;
  }
  const bool finite = squares - squares == 0;
  const bf16 scale = scale_for(finite ? largest : 0, codes);
  const double step = to_float(scale), inverse = 1 / step;
  for (int64_t d = 0; d < depth; ++d) {
    const double x = finite ? to_float(row[d]) : 0;
    Code* code = codes + (d / kGroup * kPanel) * kGroup + d % kGroup;
    const double stands_for = encode(static_cast<float>(x), inverse, code) * step;
    code_squares += stands_for * stands_for;
    error_squares += (x - stands_for) * (x - stands_for);
  }
  const double flushed = __builtin_sqrt(static_cast<double>(depth)) * kTiny;
  const double residual = __builtin_sqrt(error_squares) + flushed;
  const double norm = __builtin_sqrt(squares > code_squares ? squares : code_squares) + flushed;
  const bool bounded = finite && residual - residual == 0;
  facts[0] = scale;
  facts[kPanel] = up_to_bf16(static_cast<float>(bounded ? residual * kRoundUp : __builtin_inf()));
  facts[2 * kPanel] = up_to_bf16(static_cast<float>(bounded ? norm * kRoundUp : __builtin_inf()));
}

template <typename T, typename Code>
void pack(const PackItemCodesArgs& args) {
  constexpr int64_t kGroup = CodeTraits<Code>::kGroup, kPerTask = 1 << 16;
  const int64_t count = args.rows.shape[0], depth = args.rows.shape[1];
  const int64_t panel = round_up(depth, CodeTraits<Code>::kPadded) * kPanel;
  const int64_t panels = max64(1, kPerTask / max64(panel, 1));
  parallel_for(ceil_div(count, panels * kPanel), [&](int64_t task, int) {
    for (int64_t p = task * panels; p < min64((task + 1) * panels, ceil_div(count, kPanel)); ++p) {
      Code* codes = args.codes.as<Code>() + p * panel;
      bf16* facts = args.facts.as<bf16>() + p * 3 * kPanel;
      if (panel > 0) __builtin_memset(codes, 0, static_cast<uint64_t>(panel) * sizeof(Code));
      __builtin_memset(facts, 0, 3 * kPanel * sizeof(bf16));
      for (int64_t j = 0; j < min64(kPanel, count - p * kPanel); ++j)
        pack_row(args.rows.as<T>() + (p * kPanel + j) * args.rows.stride[0], depth, codes + j * kGroup,
                 facts + j);
    }
  });
}

}  // namespace

void pack_item_codes(const PackItemCodesArgs& args) {
  const bool short_rows = args.rows.dtype == DType::bf16, short_codes = args.codes.dtype == DType::bf16;
  if (short_codes)
    short_rows ? pack<bf16, bf16>(args) : pack<float, bf16>(args);
  else
    short_rows ? pack<bf16, uint8_t>(args) : pack<float, uint8_t>(args);
}

}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
