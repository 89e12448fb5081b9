// Small matrix products whose right side lies in scratch memory, pixels as the lanes of its vectors.
#pragma once

#include "vector.h"

namespace INVOLUTION_ISA {

// out[n][m] = bias[n] + Σ_k a[n · a_n + k] · b[k · b_k + m] for R rows n and NV vectors of m.
template <class A, int R, int NV>
inline void product_block(const A* a, i64 a_n, const A* b, i64 b_k, i64 depth, const A* bias, A* out, i64 out_n) {
  constexpr int L = kLanes<A>;
  using V = vec<A, L>;
  typename V::type acc[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) acc[r][n] = typename V::type{} + (bias ? bias[r] : A(0));
  }
  for (i64 k = 0; k < depth; k++) {
    typename V::type column[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) column[n] = V::load(b + k * b_k + n * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const A value = a[r * a_n + k];
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) acc[r][n] += column[n] * value;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) V::store(out + r * out_n + n * L, acc[r][n]);
  }
}

template <class A, int R, int NV>
void product_rows(const A* a, i64 a_n, const A* b, i64 b_k, i64 depth, const A* bias, A* out, i64 out_n, i64 rows) {
  i64 r = 0;
  for (; r + R <= rows; r += R) {
    product_block<A, R, NV>(a + r * a_n, a_n, b, b_k, depth, bias ? bias + r : nullptr, out + r * out_n, out_n);
  }
  for (; r < rows; r++) {
    product_block<A, 1, NV>(a + r * a_n, a_n, b, b_k, depth, bias ? bias + r : nullptr, out + r * out_n, out_n);
  }
}

// Any number of rows, R at a time; `width` is a multiple of the vector length.
template <class A, int R>
void product(const A* a, i64 a_n, const A* b, i64 b_k, i64 depth, const A* bias, A* out, i64 out_n, i64 rows, i64 width) {
  constexpr int L = kLanes<A>;
  i64 m = 0;
  for (; width - m > 4 * L || width - m == 3 * L; m += 3 * L) {
    product_rows<A, R, 3>(a, a_n, b + m, b_k, depth, bias, out + m, out_n, rows);
  }
  for (; width - m >= 2 * L; m += 2 * L) product_rows<A, R, 2>(a, a_n, b + m, b_k, depth, bias, out + m, out_n, rows);
  for (; width - m >= L; m += L) product_rows<A, R, 1>(a, a_n, b + m, b_k, depth, bias, out + m, out_n, rows);
}

}  // namespace INVOLUTION_ISA
