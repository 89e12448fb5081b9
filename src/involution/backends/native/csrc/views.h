// The tensors of a call as the kernels read and write them: in place where their layout allows it, otherwise through
// scratch memory of bounded size that holds one box of one group.
#pragma once

#include <cstdlib>
#include <new>

#include "convert.h"
#include "geometry.h"
#include "problem.h"

namespace INVOLUTION_ISA {

// A buffer of one thread, kept between calls; it grows to the largest box the thread has seen.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  void* bytes(i64 size) {
    if (size > size_) {
      std::free(memory_);
      size_ = 0;
      memory_ = nullptr;
      const i64 rounded = (size + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(64, std::size_t(rounded));
      if (memory_ == nullptr) throw std::bad_alloc();
      size_ = rounded;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  i64 size_ = 0;
};

inline Scratch& scratch() {
  static thread_local Scratch instance;
  return instance;
}

// Boxes are cut so that what they pack stays below this; it fits the second-level cache of common processors.
constexpr i64 kScratchBytes = 384 * 1024;

// The channels of one group of a map, channel stride 1; (plane, row, column) is at data + (plane − origin) · step ...
template <class E>
struct MapView {
  const E* data;
  i64 plane, row, column;
  i64 origin[3];

  i64 offset(i64 d, i64 h) const { return (d - origin[0]) * plane + (h - origin[1]) * row - origin[2] * column; }
};

// The weights of one group of a field.
template <class A>
struct FieldView {
  const A* data;
  i64 tap[3], pixel[3];
  i64 origin[3];

  i64 offset(i64 d, i64 h) const { return (d - origin[0]) * pixel[0] + (h - origin[1]) * pixel[1] - origin[2] * pixel[2]; }
};

struct Range3 {
  i64 from[3], to[3];

  i64 size(int dim) const { return larger(0, to[dim] - from[dim]); }
  i64 pixels() const { return size(0) * size(1) * size(2); }
};

// Whether the channels of a pixel lie one after another.
inline bool channels_together(const i64* steps, i64 channels) { return steps[1] == 1 || channels == 1; }

// Whether a map of S can be read or written where it lies by what works on E.
template <class S, class E>
inline bool map_in_place(const i64* steps, i64 channels) {
  return std::is_same_v<S, E> && channels_together(steps, channels);
}

// A map of S as E: S itself, if its channels lie together, or accumulators.
template <class S, class E>
MapView<E> view_map(const S* data, const i64* steps, i64 batch, i64 first_channel, i64 channels, const Range3& range,
                    accumulator<S>* room) {
  data += batch * steps[0] + first_channel * steps[1];
  if constexpr (std::is_same_v<S, E>) {
    if (!kDirect<S> || channels_together(steps, channels)) return {data, steps[2], steps[3], steps[4], {0, 0, 0}};
  }
  if constexpr (kDirect<E>) {
    const i64 columns = range.size(2), row = columns * channels, plane = range.size(1) * row;
    E* to = room;
    for (i64 d = range.from[0]; d < range.to[0]; d++) {
      for (i64 h = range.from[1]; h < range.to[1]; h++, to += row) {
        gather(data + d * steps[2] + h * steps[3] + range.from[2] * steps[4], steps[4], steps[1], to, channels, columns,
               channels);
      }
    }
    return {room, plane, row, channels, {range.from[0], range.from[1], range.from[2]}};
  }
}

// Whether the taps (as far as there are several per dimension) lie one after another.
inline bool taps_together(const InvolutionProblem& p) {
  return p.f[4] == 1 && (p.taps[1] == 1 || p.f[3] == p.taps[2]) &&
         (p.taps[0] == 1 || p.f[2] == p.taps[1] * p.taps[2]);
}

template <class S>
inline bool field_in_place(const InvolutionProblem&) {
  return kDirect<S>;
}

template <class S>
FieldView<accumulator<S>> view_field(const S* data, const InvolutionProblem& p, i64 batch, i64 group,
                                     const Range3& range, accumulator<S>* room) {
  using A = accumulator<S>;
  data += batch * p.f[0] + group * p.f[1];
  if constexpr (kDirect<S>) {
    return {data, {p.f[2], p.f[3], p.f[4]}, {p.f[5], p.f[6], p.f[7]}, {0, 0, 0}};
  }
  const i64 taps = p.taps[0] * p.taps[1] * p.taps[2], columns = range.size(2), rows = range.size(1);
  FieldView<A> view{room, {}, {}, {range.from[0], range.from[1], range.from[2]}};
  const bool by_pixel = p.f[7] != 1 || taps_together(p);
  const i64 pixels = range.pixels();
  view.tap[2] = by_pixel ? 1 : pixels;
  view.tap[1] = p.taps[2] * view.tap[2];
  view.tap[0] = p.taps[1] * view.tap[1];
  view.pixel[2] = by_pixel ? taps : 1;
  view.pixel[1] = columns * view.pixel[2];
  view.pixel[0] = rows * view.pixel[1];
  for (i64 d = range.from[0]; d < range.to[0]; d++) {
    for (i64 h = range.from[1]; h < range.to[1]; h++) {
      const S* from = data + d * p.f[5] + h * p.f[6] + range.from[2] * p.f[7];
      A* to = room + (d - range.from[0]) * view.pixel[0] + (h - range.from[1]) * view.pixel[1];
      if (taps_together(p)) {
        gather(from, p.f[7], 1, to, taps, columns, taps);
        continue;
      }
      for (i64 a = 0; a < p.taps[0]; a++) {
        for (i64 u = 0; u < p.taps[1]; u++) {
          const S* row = from + a * p.f[2] + u * p.f[3];
          A* target = to + a * view.tap[0] + u * view.tap[1];
          if (by_pixel) {
            gather(row, p.f[7], p.f[4], target, taps, columns, p.taps[2]);
          } else {
            for (i64 v = 0; v < p.taps[2]; v++) load_run(row + v * p.f[4], target + v * view.tap[2], columns);
          }
        }
      }
    }
  }
  return view;
}

}  // namespace INVOLUTION_ISA
