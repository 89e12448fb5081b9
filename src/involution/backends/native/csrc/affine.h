// The last step before a result is written: a scale, an offset, a cut at zero.
#pragma once

#include <cmath>

#include "vector.h"
#include "views.h"

namespace INVOLUTION_ISA {

template <class A>
struct Affine {
  const A* scale;
  const A* offset;
  bool relu;

  // What a call asks for; a scale and an offset made of a norm go to `memory`.
  static Affine of(const InvolutionLast& last, i64 channels, Scratch& memory) {
    const A* bias = static_cast<const A*>(last.bias);
    if (!last.mean) return {nullptr, bias, last.relu != 0};
    const A *mean = static_cast<const A*>(last.mean), *variance = static_cast<const A*>(last.variance);
    const A *weight = static_cast<const A*>(last.weight), *offset = static_cast<const A*>(last.offset);
    A* const scales = static_cast<A*>(memory.bytes(2 * channels * i64(sizeof(A))));
    A* const offsets = scales + channels;
    for (i64 c = 0; c < channels; c++) {
      scales[c] = (weight ? weight[c] : A(1)) / std::sqrt(variance[c] + A(last.epsilon));
      offsets[c] = (offset ? offset[c] : A(0)) + ((bias ? bias[c] : A(0)) - mean[c]) * scales[c];
    }
    return {scales, offsets, last.relu != 0};
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
