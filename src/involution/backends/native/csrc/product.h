// Small matrix products, with the columns of the right side as the lanes of vectors.
#pragma once

#include "vector.h"

namespace INVOLUTION_ISA {

// out[n][m] = start + Σ_k a[n · a_n + k · a_k] · b[k · b_k + m], row n of out at n · out_n; start is bias[n] (zero where
// there is none), or what out holds.
template <class A>
struct Product {
  const A* a;
  i64 a_n, a_k;
  const A* b;
  i64 b_k, depth;
  const A* bias;
  A* out;
  i64 out_n;
  bool add = false;

  Product from(i64 row, i64 column) const {
    Product q = *this;
    q.a += row * a_n;
    q.b += column;
    q.out += row * out_n + column;
    if (bias) q.bias += row;
    return q;
  }
};

// R rows and NV vectors.
template <class A, int R, int NV>
inline void product_block(const Product<A>& q) {
  constexpr int L = kLanes<A>;
  using V = vec<A, L>;
  typename V::type acc[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      acc[r][n] = q.add ? V::load(q.out + r * q.out_n + n * L) : typename V::type{} + (q.bias ? q.bias[r] : A(0));
    }
  }
  const A *a = q.a, *b = q.b;
  for (i64 k = 0; k < q.depth; k++, a += q.a_k, b += q.b_k) {
    typename V::type column[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) column[n] = V::load(b + n * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const A value = a[r * q.a_n];
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) acc[r][n] += column[n] * value;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) V::store(q.out + r * q.out_n + n * L, acc[r][n]);
  }
}

template <class A, int R, int NV>
void product_rows(const Product<A>& q, i64 column, i64 rows) {
  i64 r = 0;
  for (; r + R <= rows; r += R) product_block<A, R, NV>(q.from(r, column));
  for (; r < rows; r++) product_block<A, 1, NV>(q.from(r, column));
}

// Any number of rows, R at a time; `width` is a multiple of the vector length.
template <class A, int R>
void product(const Product<A>& q, i64 rows, i64 width) {
  constexpr int L = kLanes<A>;
  i64 m = 0;
  for (; width - m > 4 * L || width - m == 3 * L; m += 3 * L) product_rows<A, R, 3>(q, m, rows);
  for (; width - m >= 2 * L; m += 2 * L) product_rows<A, R, 2>(q, m, rows);
  for (; width - m >= L; m += L) product_rows<A, R, 1>(q, m, rows);
}

}  // namespace INVOLUTION_ISA
