// What the kernels demand of their arguments. Python's operators/contract.py says in a sentence what is wrong; here
// it is only found, so that no kernel reads or writes where it may not.
#pragma once

#include "arguments.h"
#include "description.h"

namespace operators {

struct Misfit {};

inline void demand(bool fits) {
  if (!fits) throw Misfit{};
}

inline bool within(i64 least, i64 number) { return number >= least && number <= kLargest; }

// Kernel size, stride, padding and dilation, one number each per dimension; here the first kDims of each.
struct Window {
  i64 dims = 0;
  Numbers taps, stride, padding, dilation;

  WindowShape shape() const { return {dims, taps.at, stride.at, padding.at, dilation.at}; }

  void check() const {
    demand(dims >= 1 && dims <= 3 && taps.count == dims && stride.count == dims && padding.count == dims &&
           dilation.count == dims);
    i64 all_taps = 1;
    for (i64 d = 0; d < dims; d++) {
      demand(within(1, taps.at[d]) && within(1, stride.at[d]) && within(0, padding.at[d]) && within(1, dilation.at[d]));
      all_taps *= taps.at[d];
      demand(all_taps <= kLargest);
    }
  }

  // The output grid over maps of a size; wide, since a hostile size overflows.
  void check_grid(const i64* input, const i64* output) const {
    for (i64 d = 0; d < dims; d++) {
      const __int128 room = __int128(input[d]) + 2 * padding.at[d] - dilation.at[d] * (taps.at[d] - 1) - 1;
      demand(input[d] >= 1 && room >= 0 && room / stride.at[d] + 1 == output[d]);
    }
  }
};

inline void check_together(const Tensor& a, const Tensor& b) {
  demand(a.dense && b.dense && a.dtype >= 0 && a.dtype == b.dtype && a.dims >= 1 && b.dims >= 1 && a.size[0] == b.size[0]);
}

inline void check_groups(i64 channels, i64 groups) { demand(groups >= 1 && channels >= 1 && channels % groups == 0); }

// A vector of parameters beside a map; it may be missing.
inline void check_parameter(const Tensor& parameter, const Tensor& map, i64 length) {
  if (!parameter) return;
  demand(parameter.dense && parameter.dtype == map.dtype && parameter.dims == 1 && parameter.size[0] == length);
}

// The window whose taps are those of a field.
inline Window window_of(const Tensor& map, const Tensor& field, Numbers stride, Numbers padding, Numbers dilation) {
  demand(map.dense && field.dense && map.dims >= 3 && map.dims <= 5 && field.dims == 2 * map.dims - 2);
  Window window{map.dims - 2, {map.dims - 2, {}}, stride, padding, dilation};
  for (i64 d = 0; d < window.dims; d++) window.taps.at[d] = field.size[2 + d];
  window.check();
  return window;
}

// A map (B, C, ...) of the window's dimensions.
inline void check_map(const Tensor& map, const Window& window) { demand(map.dense && map.dims == window.dims + 2); }

}  // namespace operators
