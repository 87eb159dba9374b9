// What a layer multiplies with: weights packed in fp32, in bf16 or in 8-bit codes. A Multiplier brings rows
// of values or of states into the form that such weights are multiplied with, and adds the product to the
// sums.
//
//   fp32   the rows as they are
//   bf16   the rows rounded to bf16, products and sums as in gemm_bf16.h
//   int8   a weight is a code times the scale of its row of the layer's matrix; a row of the left side is
//          24-bit whole numbers times one scale, in three digits, so that only weights lose precision
//
// A panel, 16 columns of the right side, has round_up(depth, .) x 16 elements; that of codes ends with the
// 16 scales as floats. The sums of a row do not depend on what other rows come with it.
#pragma once
#include "cpu/code_products.h"
#include "cpu/gemm_bf16.h"
#include "cpu/recurrent_product.h"
#include "cpu/recurrent_tiles.h"

namespace chronorec {
namespace CHRONOREC_LEVEL {
namespace {

inline DType type_of(const float*) { return DType::f32; }
inline DType type_of(const bf16*) { return DType::bf16; }
inline DType type_of(const uint8_t*) { return DType::u8; }

template <typename W>
struct PackedWeight {
  const W* panels;
  int64_t depth;

  // Elements from one panel to the next.
  int64_t panel_size() const { return panel_depth(type_of(panels), depth) * kPanel; }
  const W* at(int64_t panel, int64_t k) const { return panels + panel * panel_size() + k * kPanel; }
};

// Calls run with null pointers to the types of values (fp32 or bf16) and of packed weights.
template <typename Run>
void with_types(DType values, DType packed, Run&& run) {
  const auto with_values = [&](auto* value) {
    if (packed == DType::bf16) return run(value, static_cast<bf16*>(nullptr));
    if (packed == DType::u8) return run(value, static_cast<uint8_t*>(nullptr));
    run(value, static_cast<float*>(nullptr));
  };
  if (values == DType::bf16) return with_values(static_cast<bf16*>(nullptr));
  with_values(static_cast<float*>(nullptr));
}

// Rows of the left side, made by Multiplier::put, which belong to depths [k, k + depth) of the right side.
struct LeftRows {
  char* data;
  int64_t rows, k, depth;
};

template <typename W>
class Multiplier;

template <>
class Multiplier<float> {
 public:
  static int64_t row_bytes(int64_t depth) { return row_stride(round_up(depth, kLanes)) * 4; }

  // Makes row `row`: at(k, left) gives the kLanes numbers from k on, zeros from the first `left` on.
  template <typename At>
  static void put(const LeftRows& to, int64_t row, At&& at) {
    float* target = reinterpret_cast<float*>(to.data + row * row_bytes(to.depth));
    for (int64_t k = 0; k < to.depth; k += kLanes) store(target + k, at(k, to.depth - k));
  }

  // Adds the product with `Panels` panels from `panel` on.
  template <int Panels, typename Columns>
  void add(const LeftRows& left, const PackedWeight<float>& weight, int64_t panel, Target<Columns> c) const {
    const RowsTimesPanels p = {reinterpret_cast<const float*>(left.data),
                               row_bytes(left.depth) / 4,
                               weight.at(panel, left.k),
                               weight.panel_size(),
                               left.rows,
                               left.depth};
    add_panels<Panels>(p, 0, c);
  }
};

inline void store_rounded(float* p, vf v) { store(p, v); }
// Rounded to nearest even; what is below the smallest normal number may become zero, as in the product.
inline void store_rounded(bf16* p, vf v) {
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
  __builtin_memcpy(p, &rounded, sizeof rounded);
#else
  store(p, v);
#endif
}

template <>
class Multiplier<bf16> {
 public:
  static int64_t row_bytes(int64_t depth) { return row_stride(packed_depth(depth)) * 2; }

  template <typename At>
  static void put(const LeftRows& to, int64_t row, At&& at) {
    bf16* target = reinterpret_cast<bf16*>(to.data + row * row_bytes(to.depth));
    for (int64_t k = 0; k < packed_depth(to.depth); k += kLanes)
      store_rounded(target + k, at(k, to.depth - k));
  }

  template <int Panels, typename Columns>
  void add(const LeftRows& left, const PackedWeight<bf16>& weight, int64_t panel, Target<Columns> c) const {
    const PairProduct p = {reinterpret_cast<const bf16*>(left.data),
                           row_bytes(left.depth) / 2,
                           kRun,
                           weight.at(panel, left.k),
                           weight.panel_size(),
                           left.rows,
                           Panels * kPanel,
                           left.depth,
                           true};
    unit_.multiply(p, [&](int64_t row, int64_t column, vf value) { c.add(row, column, value); });
  }

 private:
  const MatrixUnit unit_;
};

template <>
class Multiplier<uint8_t> {
 public:
  // A row: its scale and what the 128 in every code adds to each of the sums of digits; then the digits,
  // lowest first, of all depths each.
  static int64_t row_bytes(int64_t depth) { return kHeader + kDigits * digits_bytes(depth); }

  template <typename At>
  static void put(const LeftRows& to, int64_t row, At&& at) {
    char* target = to.data + row * row_bytes(to.depth);
    vf largest = splat(0), finite = splat(0);
    for (int64_t k = 0; k < to.depth; k += kLanes) {
      const vf x = at(k, to.depth - k);
      largest = max(largest, max(x, -x));
      finite += x - x;  // NaN where it is not
    }
    const float bound = max_of(largest), inverse = bound > 1e-30f ? kLargest / bound : 0;
    vi sums[kDigits] = {};
    for (int64_t k = 0; k < round_up(to.depth, kPanel); k += kLanes) {
      const vf x = at(k, to.depth - k) * splat(inverse);
      vi rest = __builtin_convertvector(x + (x < splat(0) ? splat(-0.5f) : splat(0.5f)), vi);
      for (int d = 0; d < kDigits; ++d) {
        const vi digit = ((rest + 128) & 255) - 128;
        rest = (rest - digit) >> 8;
        sums[d] += digit;
        const Digits narrow = __builtin_convertvector(digit, Digits);
        __builtin_memcpy(target + kHeader + d * digits_bytes(to.depth) + k * sizeof(Digit), &narrow,
                         sizeof narrow);
      }
    }
    Header header = {bound / kLargest + sum(finite), {}};
    for (int d = 0; d < kDigits; ++d)
      for (int i = 0; i < kLanes; ++i) header.added[d] += 128 * sums[d][i];
    __builtin_memcpy(target, &header, sizeof header);
  }

  template <int Panels, typename Columns>
  void add(const LeftRows& left, const PackedWeight<uint8_t>& weight, int64_t panel,
           Target<Columns> c) const {
    constexpr int kWide = kLanes < 16 ? 1 : Panels % 3 == 0 ? 3 : Panels % 4 == 0 ? 4 : 1;
    for (int part = 0; part < Panels; part += kWide) {
      int64_t row = 0;
      for (; kLanes == 16 && row + 2 <= left.rows; row += 2)
        add_tile<2, kWide>(left, weight, row, panel, part, c);
      for (; row < left.rows; ++row) add_tile<1, kWide>(left, weight, row, panel, part, c);
    }
  }

 private:
  static constexpr int kDigits = 3, kHeader = 64;
  static constexpr int64_t kGroup = CodeTraits<uint8_t>::kGroup;
  static constexpr float kLargest = 0x7f7f00;  // its digits, and those of a rounding above it, fit 8 bits
  struct Header {
    float scale;
    int32_t added[kDigits];
  };
#if defined(__AVX512VNNI__)
  typedef int8_t Digit;
#else
  typedef int16_t Digit;
#endif
  typedef Digit Digits __attribute__((vector_size(kLanes * sizeof(Digit))));

  static int64_t digits_bytes(int64_t depth) { return round_up(depth, kPanel) * sizeof(Digit); }

  template <int Rows, int Panels, typename Columns>
  static void add_tile(const LeftRows& left, const PackedWeight<uint8_t>& weight, int64_t row, int64_t panel,
                       int64_t part, Target<Columns> c) {
    constexpr int kVecs = Panels * kPanelVecs;
    const int64_t stride = row_bytes(left.depth), plane = digits_bytes(left.depth);
    const char* digits = left.data + row * stride + kHeader;
    const uint8_t* codes = weight.at(panel + part, left.k);
    const int64_t panel_size = weight.panel_size();
    vi sums[Rows][kDigits][kVecs];
#pragma GCC unroll 2
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
      for (int d = 0; d < kDigits; ++d)
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) sums[i][d][v] = splat_int(0);
    for (int64_t k = 0; k < left.depth; k += kGroup) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        const vi right =
            load_codes(codes + v / kPanelVecs * panel_size + k * kPanel + v % kPanelVecs * kLanes * kGroup);
#pragma GCC unroll 2
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
          for (int d = 0; d < kDigits; ++d) {
            int32_t word;
            __builtin_memcpy(&word, digits + i * stride + d * plane + k * sizeof(Digit), sizeof word);
            sums[i][d][v] = multiply_add(word, right, sums[i][d][v]);
          }
      }
    }
    for (int i = 0; i < Rows; ++i) {
      Header header;
      __builtin_memcpy(&header, left.data + (row + i) * stride, sizeof header);
      for (int v = 0; v < kVecs; ++v) {
        vf total = splat(0);
        for (int d = kDigits - 1; d >= 0; --d)
          total =
              fma(total, splat(256), __builtin_convertvector(sums[i][d][v] - splat_int(header.added[d]), vf));
        const int64_t column = part * kPanel + v * kLanes;
        c.add(row + i, column,
              total * scales(weight, panel + column / kPanel, column % kPanel) * splat(header.scale));
      }
    }
  }

  static vf scales(const PackedWeight<uint8_t>& weight, int64_t panel, int64_t lane) {
    return load(reinterpret_cast<const float*>(weight.at(panel + 1, -kScaleDepths)) + lane);
  }
};

}  // namespace
}  // namespace CHRONOREC_LEVEL
}  // namespace chronorec
