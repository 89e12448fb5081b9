// How a call is described to the kernels, from sizes, steps (in elements) and windows of one to three dimensions.
#pragma once

#include "problem.h"

// A map (B, C, ...): a batch size, channels and `dims` sizes.
struct MapShape {
  const std::int64_t *size, *step;
};

// The largest stride, padding or dilation, and the largest number of taps: no window of a real net comes near, and sums and
// products of two such numbers stay within 64 bits.
constexpr std::int64_t kLargest = 0x7fffffff;

// One number each per dimension.
struct WindowShape {
  std::int64_t dims;
  const std::int64_t *taps, *stride, *padding, *dilation;
};

// Whether two lists of sizes are equal.
inline bool same(const std::int64_t* a, const std::int64_t* b, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i++) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

// The steps of a map, zero for the dimensions it lacks.
inline void map_steps(const std::int64_t* step, std::int64_t dims, std::int64_t (&steps)[5]) {
  steps[0] = step[0];
  steps[1] = step[1];
  for (std::int64_t d = 0; d < 3; d++) steps[2 + d] = d < 3 - dims ? 0 : step[2 + d - (3 - dims)];
}

// x is the input side, y the output side; both are the kernels' names.
inline InvolutionProblem problem_of(std::int64_t dtype, std::int64_t groups, const WindowShape& window, const MapShape& x,
                                    const MapShape& y) {
  InvolutionProblem p{};
  p.dtype = dtype;
  p.batch = x.size[0];
  p.groups = groups;
  p.group_channels = x.size[1] / groups;
  const std::int64_t lead = 3 - window.dims;
  for (std::int64_t d = 0; d < 3; d++) {
    const bool there = d >= lead;
    p.in[d] = there ? x.size[2 + d - lead] : 1;
    p.out[d] = there ? y.size[2 + d - lead] : 1;
    p.taps[d] = there ? window.taps[d - lead] : 1;
    p.stride[d] = there ? window.stride[d - lead] : 1;
    p.padding[d] = there ? window.padding[d - lead] : 0;
    p.dilation[d] = there ? window.dilation[d - lead] : 1;
  }
  map_steps(x.step, window.dims, p.x);
  map_steps(y.step, window.dims, p.y);
  return p;
}

// The steps of a field (B, G, K..., H'...).
inline void add_field(InvolutionProblem& p, const std::int64_t* step, std::int64_t dims) {
  p.f[0] = step[0];
  p.f[1] = step[1];
  for (std::int64_t d = 0; d < dims; d++) {
    p.f[5 - dims + d] = step[2 + d];
    p.f[8 - dims + d] = step[2 + dims + d];
  }
}
