// The last step before a result is written: a scale, an offset, a cut at zero.
#pragma once

#include "vector.h"
#include "views.h"

namespace INVOLUTION_ISA {

template <class A>
struct Affine {
  const A* scale;
  const A* offset;
  bool relu;

  static Affine of(const InvolutionEpilogue& epilogue) {
    return {static_cast<const A*>(epilogue.scale), static_cast<const A*>(epilogue.offset), epilogue.relu != 0};
  }
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
  void apply(A* y, i64 y_pixel, i64 y_channel, i64 n, i64 c) const {
    constexpr int N = kLanes<A>;
    for (i64 i = 0; i < n; i++, y += y_pixel) {
      i64 j = 0;
      if (y_channel == 1) {
        for (; j + N <= c; j += N) vec<A, N>::store(y + j, cut<N>(linear<N>(vec<A, N>::load(y + j), j)));
      }
      for (; j < c; j++) y[j * y_channel] = cut<1>(linear<1>(y[j * y_channel], j));
    }
  }
};

}  // namespace INVOLUTION_ISA
