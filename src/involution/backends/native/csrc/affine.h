// The last step before a result is written: a scale, an offset, a cut at zero.
#pragma once

#include "convert.h"
#include "vector.h"
#include "views.h"

namespace INVOLUTION_ISA {

template <class A>
struct Affine {
  const A* scale;
  const A* offset;
  bool relu;

  bool any() const { return scale || offset || relu; }
  Affine from(i64 channel) const { return {scale ? scale + channel : nullptr, offset ? offset + channel : nullptr, relu}; }

  // N values: those of channels [channel, channel + N).
  template <int N>
  vec_t<A, N> linear(vec_t<A, N> v, i64 channel) const {
    if (scale) v *= vec<A, N>::load(scale + channel);
    if (offset) v += vec<A, N>::load(offset + channel);
    return v;
  }

  // NaN stays NaN, as in torch.
  template <int N>
  vec_t<A, N> cut(vec_t<A, N> v) const {
    if (!relu) return v;
    const vec_t<A, N> zero{};
    return v < zero ? zero : v;
  }

  // In place on n pixels of c channels.
  template <class S>
  void apply(S* y, i64 y_pixel, i64 y_channel, i64 n, i64 c) const {
    for (i64 i = 0; i < n; i++, y += y_pixel) {
      if constexpr (kDirect<S>) {
        apply_direct(y, y_channel, c);
      } else {
        apply_converted(y, y_channel, c);
      }
    }
  }

  void apply_direct(A* y, i64 y_channel, i64 c) const {
    constexpr int N = kLanes<A>;
    i64 j = 0;
    if (y_channel == 1) {
      for (; j + N <= c; j += N) vec<A, N>::store(y + j, cut<N>(linear<N>(vec<A, N>::load(y + j), j)));
    }
    for (; j < c; j++) y[j * y_channel] = cut<1>(linear<1>(y[j * y_channel], j));
  }

  // Values of half precision are rounded once, after the last step.
  template <class S>
  void apply_converted(S* y, i64 y_channel, i64 c) const {
    constexpr i64 kBlock = 64;
    A block[kBlock];
    for (i64 from = 0; from < c; from += kBlock) {
      const i64 m = smaller(kBlock, c - from);
      S* const part = y + from * y_channel;
      if (y_channel == 1) {
        load_run(part, block, m);
      } else {
        for (i64 j = 0; j < m; j++) block[j] = widen(part[j * y_channel]);
      }
      const Affine affine = this->from(from);
      affine.apply_direct(block, 1, m);
      if (y_channel == 1) {
        store_run(block, part, m);
      } else {
        for (i64 j = 0; j < m; j++) narrow(block[j], part[j * y_channel]);
      }
    }
  }
};

}  // namespace INVOLUTION_ISA
