// The inner loops of forward and input gradient: a tile of T pixels along the width times a block of channels.
//
// Both are the same sum, acc[t] += x[pixel(t, k)] · w[t, k] over tap rows and taps k, with other steps through memory.
// The channels of a block are the lanes of NV vectors, a weight is broadcast to all of them.
#pragma once

#include "affine.h"
#include "convert.h"

// A build can leave this out, to measure what it brings (benchmarks/without.py).
#if defined(INVOLUTION_WITHOUT_SHARED_WEIGHTS)
constexpr bool kWithoutSharedWeights = true;
#else
constexpr bool kWithoutSharedWeights = false;
#endif

namespace INVOLUTION_ISA {

// Steps are in elements; `planes`, `rows` and `taps` count what is left of the window after cutting it at the border
// (planes and rows), or all taps of a row, whose columns are checked here: pixel t and tap k read column
// first + t·column_t + k·column_k, which contributes if it is in [0, columns). E is what source and target hold.
template <class E>
struct Tile {
  using A = accumulator<E>;
  const E* x;
  i64 x_plane, x_row, x_column;
  const A* w;
  i64 w_plane, w_row, w_t, w_k;
  i64 planes, rows, taps;
  i64 first, column_t, column_k, columns;
  E* y;
  i64 y_t;
  Affine<A> affine;
};

// Where the weight of pixel t and tap k lies.
enum Weights {
  kTapsTogether,    // w[t · w_t + k]
  kColumnTogether,  // w[(t + k) · w_k + t]: the input gradient's view of a field whose taps lie together
  kPixelsTogether,  // w[k · w_k + t]
};

template <class E, int N, int NV, int T>
inline void store_tile(const Tile<E>& q, const vec_t<accumulator<E>, N> (&acc)[T][NV]) {
#pragma GCC unroll 16
  for (int t = 0; t < T; t++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) store_narrow<E, N>(q.affine.template of<N>(acc[t][n], n * N), q.y + t * q.y_t + n * N);
  }
}

// K taps a row, all known to the compiler, stride S (1 or 2), no dilation: each input vector is loaded once and serves
// all pixels of the tile whose window it lies in.
template <class E, int N, int NV, int T, int K, int S, Weights Where>
void shared_tile(const Tile<E>& q) {
  using A = accumulator<E>;
  constexpr int I = S * (T - 1) + K;
  const i64 low = larger(0, -q.first), high = smaller(I, q.columns - q.first);
  const i64 x_column = q.x_column, w_t = q.w_t, w_k = q.w_k;
  vec_t<A, N> acc[T][NV] = {};
  for (i64 plane = 0; plane < q.planes; plane++) {
    for (i64 row = 0; row < q.rows; row++) {
      const E* x = q.x + plane * q.x_plane + row * q.x_row + q.first * x_column;
      const A* w = q.w + plane * q.w_plane + row * q.w_row;
#pragma GCC unroll 64
      for (int i = 0; i < I; i++) {
        if (i < low || i >= high) continue;
        vec_t<A, N> value[NV];
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) value[n] = load_wide<E, N>(x + i * x_column + n * N);
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
          const int k = i - S * t;
          if (k < 0 || k >= K) continue;
          const A weight = Where == kTapsTogether     ? w[t * w_t + k]
                           : Where == kColumnTogether ? w[i * w_k + t]
                                                      : w[k * w_k + t];
#pragma GCC unroll 4
          for (int n = 0; n < NV; n++) acc[t][n] += value[n] * weight;
        }
      }
    }
  }
  store_tile<E, N, NV, T>(q, acc);
}

// Any number of taps, stride, dilation and layout of the field.
template <class E, int N, int NV, int T>
void strided_tile(const Tile<E>& q) {
  using A = accumulator<E>;
  vec_t<A, N> acc[T][NV] = {};
  const i64 x_t = q.column_t * q.x_column, x_k = q.column_k * q.x_column;
  const i64 last = q.first + (T - 1) * q.column_t;
  for (i64 plane = 0; plane < q.planes; plane++) {
    for (i64 row = 0; row < q.rows; row++) {
      const E* x = q.x + plane * q.x_plane + row * q.x_row + q.first * q.x_column;
      const A* w = q.w + plane * q.w_plane + row * q.w_row;
      for (i64 k = 0; k < q.taps; k++, x += x_k, w += q.w_k) {
        const i64 column = q.first + k * q.column_k;
        const bool inside = column >= 0 && last + k * q.column_k < q.columns;
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
          const i64 at = column + t * q.column_t;
          if (!inside && (at < 0 || at >= q.columns)) continue;
          const A weight = w[t * q.w_t];
#pragma GCC unroll 4
          for (int n = 0; n < NV; n++) acc[t][n] += load_wide<E, N>(x + t * x_t + n * N) * weight;
        }
      }
    }
  }
  store_tile<E, N, NV, T>(q, acc);
}

template <class E, int N, int NV, int T, int K, int S>
bool shared_weights(const Tile<E>& q) {
  if (q.w_t == 1) {
    shared_tile<E, N, NV, T, K, S, kPixelsTogether>(q);
    return true;
  }
  // Half precision is read as it lies only beside a field that was made for it, whose pixels lie together.
  if constexpr (kDirect<E>) {
    if (q.w_k == 1) {
      shared_tile<E, N, NV, T, K, S, kTapsTogether>(q);
      return true;
    }
    if (S == 1 && q.w_t - q.w_k == 1) {
      shared_tile<E, N, NV, T, K, 1, kColumnTogether>(q);
      return true;
    }
  }
  return false;
}

template <class E, int N, int NV, int T>
void any_tile(const Tile<E>& q) {
  // Unrolled code is made where it pays: not for single pixels and channels.
  if constexpr (!kWithoutSharedWeights && T * NV >= 4 && N >= 4) {
    if (q.column_k == 1 && q.column_t == 1) {
      if (q.taps == 7 && shared_weights<E, N, NV, T, 7, 1>(q)) return;
      if (q.taps == 5 && shared_weights<E, N, NV, T, 5, 1>(q)) return;
      if (q.taps == 3 && shared_weights<E, N, NV, T, 3, 1>(q)) return;
    }
    if (q.column_k == 1 && q.column_t == 2) {
      if (q.taps == 7 && shared_weights<E, N, NV, T, 7, 2>(q)) return;
      if (q.taps == 3 && shared_weights<E, N, NV, T, 3, 2>(q)) return;
    }
  }
  strided_tile<E, N, NV, T>(q);
}

// A row of `pixels` outputs in tiles; the last tile of a size moves back over pixels that are already done, which
// writes the same values again, so that no row needs a loop of single pixels unless it is shorter than a tile.
template <class E, int N, int NV, int T>
void tiles(Tile<E> q, i64 pixels) {
  const Tile<E> start = q;
  for (i64 t = 0; t < pixels; t += T) {
    const i64 at = smaller(t, pixels - T);
    q.first = start.first + at * start.column_t;
    q.w = start.w + at * start.w_t;
    q.y = start.y + at * start.y_t;
    any_tile<E, N, NV, T>(q);
  }
}

template <class E, int N, int NV>
void row_of_tiles(const Tile<E>& q, i64 pixels) {
  // As many sums as the registers hold beside the operands: 14 divides the widths 56, 28 and 14, 7 the last one.
  constexpr bool wide = kVectorBytes == 64;
  constexpr int most = wide ? 14 / NV : NV == 1 ? 8 : NV == 2 ? 4 : 2;
  constexpr int half = most == 14 ? 7 : most == 7 ? 4 : most / 2;
  constexpr int quarter = half > 3 ? half / 2 : 1;
  if (pixels >= most && (most != 14 || pixels % 14 == 0 || pixels % 14 > 7)) {
    tiles<E, N, NV, most>(q, pixels);
  } else if (pixels >= half) {
    tiles<E, N, NV, half>(q, pixels);
  } else if (pixels >= quarter) {
    tiles<E, N, NV, quarter>(q, pixels);
  } else {
    tiles<E, N, NV, 1>(q, pixels);
  }
}

// All channels of a group, in blocks of the widest vectors that still fit.
template <class E>
void row_of_group(Tile<E> q, i64 pixels, i64 channels) {
  constexpr int L = kLanes<accumulator<E>>;
  i64 done = 0;
  auto advance = [&](int n) {
    done += n;
    q.x += n;
    q.y += n;
    q.affine = q.affine.from(n);
  };
  if constexpr (kVectorBytes == 16) {
    for (; channels - done >= 4 * L; advance(4 * L)) row_of_tiles<E, L, 4>(q, pixels);
  }
  for (; channels - done >= 2 * L; advance(2 * L)) row_of_tiles<E, L, 2>(q, pixels);
  for (; channels - done >= L; advance(L)) row_of_tiles<E, L, 1>(q, pixels);
  if constexpr (L > 8) {
    for (; channels - done >= 8; advance(8)) row_of_tiles<E, 8, 1>(q, pixels);
  }
  if constexpr (L > 4) {
    for (; channels - done >= 4; advance(4)) row_of_tiles<E, 4, 1>(q, pixels);
  }
  for (; channels - done >= 1; advance(1)) row_of_tiles<E, 1, 1>(q, pixels);
}

}  // namespace INVOLUTION_ISA
