// The kernel gradient: dot products over the channels of a group, of every output pixel with its neighbourhood.
#pragma once

#include "accumulate.h"

namespace INVOLUTION_ISA {

// What is set in all bits of a lane keeps its value, zero makes it zero.
template <class A>
using lane_mask = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;

template <class A, int N>
inline vec_t<A, N> kept(vec_t<A, N> v, const lane_mask<A>* keep) {
  if constexpr (N == 1) {
    return *keep ? v : A(0);
  } else {
    using M = vec<lane_mask<A>, N>;
    return (vec_t<A, N>)((typename M::type)v & M::load(keep));
  }
}

// out[tap] = Σ_c dy[c] · x[offset[tap] + c] for all taps, zero where `keep` (if there is one) says so; `Blocks` vectors
// of N channels (0: any number, `blocks`).
template <class A, int N, int Blocks>
void dots(const A* dy, const A* x, const i64* offset, i64 taps, i64 blocks, A* out, const lane_mask<A>* keep) {
  using V = vec<A, N>;
  using v = typename V::type;
  constexpr int held = Blocks ? Blocks : 1;
  v d[held];
  for (int b = 0; b < held; b++) d[b] = V::load(dy + b * N);
  auto product = [&](i64 tap) {
    const A* at = x + offset[tap];
    v total = d[0] * V::load(at);
    if constexpr (Blocks) {
#pragma GCC unroll 4
      for (int b = 1; b < Blocks; b++) total += d[b] * V::load(at + b * N);
    } else {
      for (i64 b = 1; b < blocks; b++) total += V::load(dy + b * N) * V::load(at + b * N);
    }
    return total;
  };
  i64 tap = 0;
  if constexpr (N > 1) {
    // The last of several blocks makes some taps again, so that it is whole.
    while (taps - tap >= N || (taps - tap > N / 4 && taps >= N)) {
      const i64 first = smaller(tap, taps - N);
      v products[N];
#pragma GCC unroll 16
      for (int j = 0; j < N; j++) products[j] = product(first + j);
      const v made = sums<A, N>(products);
      V::store(out + first, keep ? kept<A, N>(made, keep + first) : made);
      tap = first + N;
    }
    if (taps - tap > N / 4) {
      v products[N] = {};
      for (i64 j = 0; tap + j < taps; j++) products[j] = product(tap + j);
      A last[N];
      V::store(last, sums<A, N>(products));
      for (i64 j = 0; tap + j < taps; j++) out[tap + j] = keep && !keep[tap + j] ? A(0) : last[j];
      return;
    }
  }
  for (; tap < taps; tap++) out[tap] = keep && !keep[tap] ? A(0) : sum<A, N>(product(tap));
}

template <class A>
using Dots = void (*)(const A*, const A*, const i64*, i64, i64, A*, const lane_mask<A>*);

template <class A, int N>
Dots<A> dots_of_lanes(i64 channels, i64& blocks) {
  blocks = channels / N;
  return blocks == 1 ? dots<A, N, 1> : blocks == 2 ? dots<A, N, 2> : blocks == 4 ? dots<A, N, 4> : dots<A, N, 0>;
}

// The dot product with the widest vectors whose length divides the number of channels.
template <class A>
Dots<A> choose_dots(i64 channels, i64& blocks) {
  constexpr int L = kLanes<A>;
  if (channels % L == 0) return dots_of_lanes<A, L>(channels, blocks);
  if constexpr (L > 8) {
    if (channels % 8 == 0) return dots_of_lanes<A, 8>(channels, blocks);
  }
  if constexpr (L > 4) {
    if (channels % 4 == 0) return dots_of_lanes<A, 4>(channels, blocks);
  }
  return dots_of_lanes<A, 1>(channels, blocks);
}

// T is what the field holds: S, or accumulators.
template <class S, class T = S>
struct KernelGradient {
  using A = accumulator<S>;
  static constexpr bool kDirectField = std::is_same_v<T, A>;
  const InvolutionProblem& p;
  const S* input;
  const S* grad_output;
  T* out;

  // Room for `row`'s offsets.
  static i64 offset_bytes(const InvolutionProblem& p) { return 4 * taps_of(p) * i64(sizeof(i64)); }

  Range3 input_range(const Box& box) const {
    Range3 range;
    const i64 begin[3] = {box.plane, box.row_begin, box.column_begin};
    const i64 end[3] = {box.plane + 1, box.row_end, box.column_end};
    for (int dim = 0; dim < 3; dim++) {
      Axis::of(p, dim).forward_span(begin[dim], end[dim], range.from[dim], range.to[dim]);
    }
    return range;
  }

  void scratch_values(const Cut& cut, i64 (&values)[3]) const {
    i64 pixels = 1;
    for (int dim = 0; dim < 3; dim++) {
      const Axis axis = Axis::of(p, dim);
      const i64 n = dim == 0 ? 1 : dim == 1 ? cut.box_rows : cut.box_columns;
      pixels *= smaller(axis.in, (n - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1);
    }
    values[0] = map_in_place<S, A>(p.x, p.group_channels) ? 0 : pixels * p.group_channels;
    values[1] = map_in_place<S, A>(p.y, p.group_channels) ? 0 : cut.box_rows * cut.box_columns * p.group_channels;
    values[2] = kDirectField && taps_together(p) ? 0 : cut.box_columns * taps_of(p);
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(const InvolutionParallel& parallel) const {
    Cut cut{p.batch, p.out[0], p.out[1], p.out[2], p.groups, p.out[1], p.out[2], p.groups};
    const i64 row_bytes = larger(1, p.out[2] * p.groups * taps_of(p) * i64(sizeof(T)));
    cut.box_rows = smaller(cut.box_rows, larger(1, kFieldBytes / row_bytes));
    i64 values[3];
    auto needed = [&] {
      scratch_values(cut, values);
      return (values[0] + values[1] + values[2]) * i64(sizeof(A));
    };
    while (needed() > kScratchBytes && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    while (needed() > kScratchBytes && cut.box_columns > 28) cut.box_columns = ceil_div(cut.box_columns, 2);
    cut.share_among(worthwhile(parallel, work_of(p)).threads);
    const i64 value_bytes = needed(), bytes = value_bytes + offset_bytes(p);
    for_boxes(cut, work_of(p), parallel, [&](const Box& box) {
      A* room = static_cast<A*>(scratch().bytes(bytes));
      i64* offsets = reinterpret_cast<i64*>(reinterpret_cast<char*>(room) + value_bytes);
      const Range3 x_box = input_range(box);
      const Range3 y_box{{box.plane, box.row_begin, box.column_begin}, {box.plane + 1, box.row_end, box.column_end}};
      // In place, all groups of a pixel are done together: they share the taps' offsets, and their weights are written
      // one after another. Scratch holds one group.
      const i64 together = value_bytes ? 1 : box.group_end - box.group_begin;
      for (i64 g = box.group_begin; g < box.group_end; g += together) {
        const i64 channel = g * p.group_channels;
        const auto x = view_map<S, A>(input, p.x, box.batch, channel, p.group_channels, x_box, room);
        const auto dy = view_map<S, A>(grad_output, p.y, box.batch, channel, p.group_channels, y_box, room + values[0]);
        T* target = out + box.batch * p.f[0] + g * p.f[1] + box.plane * p.f[5] + box.column_begin * p.f[7];
        for (i64 h = box.row_begin; h < box.row_end; h++) {
          row(x, dy, target + h * p.f[6], box, h, together, room + values[0] + values[1], offsets);
        }
      }
    });
  }

  // Row h of `groups` groups; `target` is where the box's first column of it lies.
  void row(const MapView<A>& x, const MapView<A>& dy, T* target, const Box& box, i64 h, i64 groups, A* buffer,
           i64* offsets) const {
    const i64 taps = taps_of(p), kh = p.taps[1], kw = p.taps[2], c = p.group_channels;
    const Axis axis = Axis::of(p, 2);
    const Line planes = Axis::of(p, 0).forward(box.plane), rows = Axis::of(p, 1).forward(h);
    const bool direct = kDirectField && taps_together(p), outside = planes.count == 0 || rows.count == 0;
    i64 blocks;
    const Dots<A> dot = choose_dots<A>(c, blocks);
    // Taps beyond the border read the nearest one inside, and what they give is not kept.
    i64 *const inside = offsets + taps, *const base = offsets + 2 * taps;
    auto* const keep = reinterpret_cast<lane_mask<A>*>(offsets + 3 * taps);
    // Between the first and the last row of taps inside.
    i64 from = 0, until = 0;
    if (!outside) {
      from = (planes.tap * kh + rows.tap) * kw;
      until = ((planes.tap + planes.count - 1) * kh + rows.tap + rows.count) * kw;
      for (i64 a = 0, i = 0; a < p.taps[0]; a++) {
        const i64 at_a = planes.source + larger(0, smaller(a - planes.tap, planes.count - 1)) * planes.source_step;
        for (i64 u = 0; u < kh; u++) {
          const i64 at_u = rows.source + larger(0, smaller(u - rows.tap, rows.count - 1)) * rows.source_step;
          base[a * kh + u] = x.offset(at_a, at_u);
          for (i64 v = 0; v < kw; v++) offsets[i++] = base[a * kh + u] + v * axis.dilation * x.column;
        }
      }
    }
    const A* const grad = dy.data + dy.offset(box.plane, h);
    for (i64 w = box.column_begin; w < box.column_end; w++) {
      A* to = buffer + (w - box.column_begin) * taps;
      if constexpr (kDirectField) {
        if (direct) to = target + (w - box.column_begin) * p.f[7];
      }
      const Line columns = axis.forward(w);
      const i64 start = w * axis.stride - axis.padding;
      const bool whole_row = columns.count == kw, nothing = outside || columns.count == 0;
      const bool holes = !whole_row || (planes.count > 1 && rows.count < kh);
      if (!nothing && holes) {
        for (i64 r = 0, i = 0; r < p.taps[0] * kh; r++) {
          const i64 a = r / kh, u = r % kh;
          const bool in = a >= planes.tap && a < planes.tap + planes.count && u >= rows.tap && u < rows.tap + rows.count;
          for (i64 v = 0; v < kw; v++, i++) {
            const i64 at_v = larger(columns.tap, smaller(v, columns.tap + columns.count - 1));
            inside[i] = base[r] + (start + at_v * axis.dilation) * x.column;
            keep[i] = -lane_mask<A>(in && at_v == v);
          }
        }
      }
      const A* gradient = grad + w * dy.column;
      const A* window = x.data + (holes ? 0 : start * x.column);
      const i64* const at = (holes ? inside : offsets) + from;
      for (i64 g = 0; g < groups; g++, to += p.f[1], gradient += c * p.y[1], window += c * p.x[1]) {
        if (nothing) {
          for (i64 i = 0; i < taps; i++) to[i] = 0;
          continue;
        }
        for (i64 i = 0; i < from; i++) to[i] = 0;
        dot(gradient, window, at, until - from, blocks, to + from, holes ? keep + from : nullptr);
        for (i64 i = until; i < taps; i++) to[i] = 0;
      }
    }
    if (direct) return;
    const i64 n = box.column_end - box.column_begin;
    if (taps_together(p)) {
      scatter(buffer, taps, target, p.f[7], 1, n, taps);
    } else if ((kh == 1 || p.f[3] == kw * p.f[4]) && (p.taps[0] == 1 || p.f[2] == kh * kw * p.f[4])) {
      scatter(buffer, taps, target, p.f[7], p.f[4], n, taps);
    } else {
      for (i64 a = 0; a < p.taps[0]; a++) {
        for (i64 u = 0; u < kh; u++) {
          scatter(buffer + (a * kh + u) * kw, taps, target + a * p.f[2] + u * p.f[3], p.f[7], p.f[4], n, kw);
        }
      }
    }
  }
};

}  // namespace INVOLUTION_ISA
