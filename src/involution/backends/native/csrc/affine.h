// The last step before a result is written: a scale, an offset, a cut at zero.
#pragma once

#include "vector.h"

namespace INVOLUTION_ISA {

// One value per channel each, or null.
template <class A>
struct Affine {
  const A* scale = nullptr;
  const A* offset = nullptr;
  bool relu = false;

  Affine from(i64 channel) const { return {scale ? scale + channel : nullptr, offset ? offset + channel : nullptr, relu}; }

  // N values: those of channels [channel, channel + N). NaN stays NaN, as in torch.
  template <int N>
  vec_t<A, N> of(vec_t<A, N> v, i64 channel) const {
    if (scale) v *= vec<A, N>::load(scale + channel);
    if (offset) v += vec<A, N>::load(offset + channel);
    if (!relu) return v;
    const vec_t<A, N> zero{};
    return v < zero ? zero : v;
  }
};

}  // namespace INVOLUTION_ISA
