// Stands in for CUDA's header of this name: nvcuda::wmma products of 16 x 16 x 16 with fp32 accumulators.
//
// Which lane holds which element of a fragment is nobody's business but the hardware's, so it is drawn from
// the seed here: a kernel may work on `x[i]` only in ways that do not depend on it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace nvcuda::wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16, "this layer knows 16 x 16 x 16 only");
  static constexpr bool kAccumulator = std::is_same_v<Use, accumulator>;
  static_assert(kAccumulator ? std::is_same_v<T, float>
                             : std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>,
                "this layer knows half and bfloat16 factors and float accumulators only");
  static constexpr int num_elements = 8;
  T x[num_elements];
};

}  // namespace nvcuda::wmma

namespace simt {

inline float widen(float x) { return x; }
inline float widen(__half x) { return __half2float(x); }
inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// The element (row * 16 + column) that a lane holds at x[i]: a permutation that depends on the seed.
inline int element_of(int lane, int i) {
  return static_cast<int>(((lane * 8 + i) * 77 + 13 * (seed() % 19)) % 256);
}

template <typename T>
bool is_fragment_address(const T* address, unsigned leading) {
  return reinterpret_cast<uintptr_t>(address) % 32 == 0 && leading * sizeof(T) % 16 == 0;
}

struct MatrixMove {
  void* address;
  unsigned leading;
};

// All lanes must name the same matrix.
inline void same_matrix(void* const values[32], const int*, unsigned, Site site) {
  const auto* first = static_cast<const MatrixMove*>(values[0]);
  for (int lane = 1; lane < 32; ++lane) {
    const auto* mine = static_cast<const MatrixMove*>(values[lane]);
    if (mine->address != first->address || mine->leading != first->leading)
      fail("the lanes of a wmma load or store name different matrices", site);
  }
}

template <typename T>
void move_matrix(const char* call, const T* address, unsigned leading, Site site) {
  if (!is_fragment_address(address, leading))
    fail("wmma wants a matrix aligned to 32 bytes with rows of a multiple of 16 bytes", site);
  MatrixMove move{const_cast<T*>(address), leading};
  meet_warp(call, ~0u, &move, 0, same_matrix, site);
}

}  // namespace simt

namespace nvcuda::wmma {

template <typename Fragment, typename T>
void fill_fragment(Fragment& fragment, const T& value) {
  for (auto& x : fragment.x) x = value;
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& fragment, const T* address, unsigned leading,
                      simt::Site site = simt::Site::here()) {
  static_assert(!std::is_void_v<Layout>, "an accumulator is loaded with its layout");
  simt::move_matrix("wmma::load_matrix_sync", address, leading, site);
  for (int i = 0; i < fragment.num_elements; ++i) {
    const unsigned e = simt::element_of(simt::lane(), i), row = e / 16, column = e % 16;
    fragment.x[i] =
        std::is_same_v<Layout, row_major> ? address[row * leading + column] : address[column * leading + row];
  }
}

template <typename T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& fragment, const T* address, unsigned leading,
                      layout_t layout, simt::Site site = simt::Site::here()) {
  simt::move_matrix("wmma::load_matrix_sync", address, leading, site);
  for (int i = 0; i < fragment.num_elements; ++i) {
    const unsigned e = simt::element_of(simt::lane(), i), row = e / 16, column = e % 16;
    fragment.x[i] =
        layout == mem_row_major ? address[row * leading + column] : address[column * leading + row];
  }
}

template <typename T>
void store_matrix_sync(T* address, const fragment<accumulator, 16, 16, 16, T>& fragment, unsigned leading,
                       layout_t layout, simt::Site site = simt::Site::here()) {
  simt::move_matrix("wmma::store_matrix_sync", address, leading, site);
  for (int i = 0; i < fragment.num_elements; ++i) {
    const unsigned e = simt::element_of(simt::lane(), i), row = e / 16, column = e % 16;
    (layout == mem_row_major ? address[row * leading + column] : address[column * leading + row]) =
        fragment.x[i];
  }
}

template <typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, T, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c, simt::Site site = simt::Site::here()) {
  struct Product {
    const T *a, *b;
    const float* c;
    float* d;
  } mine{a.x, b.x, c.x, d.x};
  simt::meet_warp(
      "wmma::mma_sync", ~0u, &mine, 0,
      [](void* const values[32], const int*, unsigned, simt::Site) {
        float left[256], right[256], sum[256];
        for (int lane = 0; lane < 32; ++lane) {
          const auto* it = static_cast<const Product*>(values[lane]);
          for (int i = 0; i < 8; ++i) {
            const int e = simt::element_of(lane, i);
            left[e] = simt::widen(it->a[i]), right[e] = simt::widen(it->b[i]), sum[e] = it->c[i];
          }
        }
        for (int m = 0; m < 16; ++m)
          for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 16; ++n) sum[m * 16 + n] += left[m * 16 + k] * right[k * 16 + n];
        for (int lane = 0; lane < 32; ++lane) {
          const auto* it = static_cast<const Product*>(values[lane]);
          for (int i = 0; i < 8; ++i) it->d[i] = sum[simt::element_of(lane, i)];
        }
      },
      site);
}

}  // namespace nvcuda::wmma
