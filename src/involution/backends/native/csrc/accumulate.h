// Forward and input gradient: the sums of tile.h over whole tensors.
#pragma once

#include <atomic>

#include "tile.h"
#include "views.h"

namespace INVOLUTION_ISA {

// Below this many multiply-adds waking other threads costs more than they save.
constexpr i64 kSerialWork = 1 << 18;
// A box that passes through scratch, group by group, reads about this much of a kernel field, so that it is still in
// the second-level cache when the next group reads its share of the same lines.
constexpr i64 kFieldBytes = 256 * 1024;

inline i64 taps_of(const InvolutionProblem& p) { return p.taps[0] * p.taps[1] * p.taps[2]; }

inline i64 work_of(const InvolutionProblem& p) {
  return p.batch * p.groups * p.group_channels * taps_of(p) * p.out[0] * p.out[1] * p.out[2];
}

// One thread where the work is too little for several.
inline InvolutionParallel worthwhile(const InvolutionParallel& parallel, i64 work) {
  return work < kSerialWork ? InvolutionParallel{1, nullptr, nullptr} : parallel;
}

// What a pool is handed; an exception must not leave one of its threads.
template <class Body>
struct Guarded {
  const Body& body;
  std::atomic<bool> failed{false};

  static void run(void* task, i64 i) {
    auto* const guarded = static_cast<Guarded*>(task);
    try {
      guarded->body(i);
    } catch (const std::bad_alloc&) {
      guarded->failed = true;
    }
  }
};

// Runs body(i) for i in [0, count): in the caller's pool, or on OpenMP's threads, which take neighbouring numbers.
template <class Body>
void parallel_for(i64 count, const InvolutionParallel& parallel, const Body& body) {
  if (parallel.threads <= 1 || count <= 1) {
    for (i64 i = 0; i < count; i++) body(i);
    return;
  }
  Guarded<Body> guarded{body};
  if (parallel.run != nullptr) {
    parallel.run(parallel.pool, count, Guarded<Body>::run, &guarded);
  } else {
#pragma omp parallel for schedule(static) num_threads(int(parallel.threads))
    for (i64 i = 0; i < count; i++) Guarded<Body>::run(&guarded, i);
  }
  if (guarded.failed) throw std::bad_alloc();
}

// Runs body(box) for every box, on several threads where the work is worth it.
template <class Body>
void for_boxes(const Cut& cut, i64 work, const InvolutionParallel& parallel, const Body& body) {
  parallel_for(cut.count(), worthwhile(parallel, work), [&](i64 i) { body(cut.at(i)); });
}

// Forward (target: output) and input gradient (target: input) as sums over the windows' taps. E is what source and
// target hold where the sums are made: accumulators, in scratch memory or in place, or half precision in place, for
// which the channels of both must lie together.
template <class S, bool Backward, class E = accumulator<S>>
struct Accumulation {
  using A = accumulator<S>;
  const InvolutionProblem& p;
  const S* source;
  const S* field;
  S* target;

  const i64* source_steps() const { return Backward ? p.y : p.x; }
  const i64* target_steps() const { return Backward ? p.x : p.y; }
  const i64* target_size() const { return Backward ? p.in : p.out; }
  Line line(const Axis& axis, i64 at) const { return Backward ? axis.backward(at) : axis.forward(at); }

  Range3 source_range(const Box& box) const {
    Range3 range;
    const i64 begin[3] = {box.plane, box.row_begin, box.column_begin};
    const i64 end[3] = {box.plane + 1, box.row_end, box.column_end};
    for (int dim = 0; dim < 3; dim++) {
      const Axis axis = Axis::of(p, dim);
      if (Backward) {
        axis.backward_span(begin[dim], end[dim], range.from[dim], range.to[dim]);
      } else {
        axis.forward_span(begin[dim], end[dim], range.from[dim], range.to[dim]);
      }
    }
    return range;
  }

  Range3 field_range(const Box& box) const {
    if (Backward) return source_range(box);
    return {{box.plane, box.row_begin, box.column_begin}, {box.plane + 1, box.row_end, box.column_end}};
  }

  bool pack_map() const { return !map_in_place<S, E>(source_steps(), p.group_channels); }
  bool pack_field() const { return !field_in_place<S>(p); }
  bool pack_target() const { return !map_in_place<S, E>(target_steps(), p.group_channels); }

  // Pixels of the source, or with `Backward` of the field as well, that the largest box reads: a bound for every box.
  i64 source_pixels(const Cut& cut) const {
    i64 pixels = 1;
    for (int dim = 0; dim < 3; dim++) {
      const Axis axis = Axis::of(p, dim);
      const i64 n = dim == 0 ? 1 : dim == 1 ? cut.box_rows : cut.box_columns;
      const i64 span = Backward ? ceil_div(n - 1 + (axis.taps - 1) * axis.dilation, axis.stride) + 1
                                : (n - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1;
      pixels *= smaller(Backward ? axis.out : axis.in, span);
    }
    return pixels;
  }

  i64 field_pixels(const Cut& cut) const { return Backward ? source_pixels(cut) : cut.box_rows * cut.box_columns; }

  // Values of scratch that the largest box needs, for the map, the field and a row of the target.
  void scratch_values(const Cut& cut, i64 (&values)[3]) const {
    values[0] = pack_map() ? source_pixels(cut) * p.group_channels : 0;
    values[1] = pack_field() ? field_pixels(cut) * taps_of(p) : 0;
    values[2] = pack_target() ? cut.box_columns * p.group_channels : 0;
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(const InvolutionParallel& parallel) const {
    const i64* size = target_size();
    Cut cut{p.batch, size[0], size[1], size[2], p.groups, size[1], size[2], p.groups};
    const i64 row_bytes = larger(1, size[2] * p.groups * taps_of(p) * i64(sizeof(S)));
    i64 values[3];
    auto needed = [&] {
      scratch_values(cut, values);
      return (values[0] + values[1] + values[2]) * i64(sizeof(A));
    };
    if (needed()) cut.box_rows = smaller(cut.box_rows, larger(1, kFieldBytes / row_bytes));
    while (needed() > kScratchBytes && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    while (needed() > kScratchBytes && cut.box_columns > 28) cut.box_columns = ceil_div(cut.box_columns, 2);
    cut.share_among(worthwhile(parallel, work_of(p)).threads);
    const i64 bytes = needed();
    for_boxes(cut, work_of(p), parallel, [&](const Box& box) {
      A* room = bytes ? static_cast<A*>(scratch().bytes(bytes)) : nullptr;
      const Range3 map_box = source_range(box), field_box = field_range(box);
      if (bytes) {
        for (i64 g = box.group_begin; g < box.group_end; g++) {
          const Group all = group(box, g, map_box, field_box, room, values);
          for (i64 h = box.row_begin; h < box.row_end; h++) {
            row(all.map, all.weights, all.out + h * target_steps()[3], box, h, room + values[0] + values[1]);
          }
        }
        return;
      }
      // In place, rows come first, so that a field whose weights lie together is read as it lies in memory.
      for (i64 h = box.row_begin; h < box.row_end; h++) {
        for (i64 g = box.group_begin; g < box.group_end; g++) {
          const Group one = group(box, g, map_box, field_box, nullptr, values);
          row(one.map, one.weights, one.out + h * target_steps()[3], box, h, nullptr);
        }
      }
    });
  }

  struct Group {
    MapView<E> map;
    FieldView<A> weights;
    S* out;
  };

  Group group(const Box& box, i64 g, const Range3& map_box, const Range3& field_box, A* room, const i64 (&values)[3]) const {
    const i64 c = p.group_channels;
    return {view_map<S, E>(source, source_steps(), box.batch, g * c, c, map_box, room),
            view_field(field, p, box.batch, g, field_box, room + values[0]),
            target + box.batch * target_steps()[0] + g * c * target_steps()[1] + box.plane * target_steps()[2]};
  }

  // One row of the target, in one pass (forward) or one per residue of the stride (backward), after `affine`.
  void row(const MapView<E>& map, const FieldView<A>& weights, S* out, const Box& box, i64 h, A* buffer,
           const Affine<A>& affine = {}) const {
    const Axis axis = Axis::of(p, 2);
    const Line plane = line(Axis::of(p, 0), box.plane), rows = line(Axis::of(p, 1), h);
    const i64 c = p.group_channels, step = target_steps()[4];
    Tile<E> q;
    q.affine = affine;
    q.planes = plane.count;
    q.rows = rows.count;
    q.x = map.data + map.offset(plane.source, rows.source);
    q.x_plane = plane.source_step * map.plane;
    q.x_row = rows.source_step * map.row;
    q.x_column = map.column;
    q.w = weights.data + plane.tap * weights.tap[0] + rows.tap * weights.tap[1] +
          (Backward ? weights.offset(plane.source, rows.source) : weights.offset(box.plane, h));
    q.w_plane = plane.tap_step * weights.tap[0] + (Backward ? plane.source_step * weights.pixel[0] : 0);
    q.w_row = rows.tap_step * weights.tap[1] + (Backward ? rows.source_step * weights.pixel[1] : 0);
    if (q.planes * q.rows == 0) q.planes = q.rows = 0;
    const i64 columns = box.column_end - box.column_begin;
    const bool direct = !pack_target();
    if constexpr (!Backward) {
      q.taps = axis.taps;
      q.first = box.column_begin * axis.stride - axis.padding;
      q.column_t = axis.stride;
      q.column_k = axis.dilation;
      q.columns = axis.in;
      q.w += box.column_begin * weights.pixel[2];
      q.w_t = weights.pixel[2];
      q.w_k = weights.tap[2];
      write(q, columns, direct, out + box.column_begin * step, step, buffer, c);
      if (!direct) scatter<S>(buffer, c, out + box.column_begin * step, step, target_steps()[1], columns, c);
    } else {
      const i64 tap_step = axis.tap_step();
      q.column_t = 1;
      q.column_k = axis.dilation * tap_step / axis.stride;
      q.columns = axis.out;
      q.w_t = weights.pixel[2];
      q.w_k = q.column_k * weights.pixel[2] - tap_step * weights.tap[2];
      const A* base = q.w;
      for (i64 r = 0; r < smaller(axis.stride, columns); r++) {
        const i64 w = box.column_begin + r, first_tap = axis.first_tap(w);
        q.taps = first_tap < axis.taps ? (axis.taps - 1 - first_tap) / tap_step + 1 : 0;
        const i64 last_tap = first_tap + (q.taps - 1) * tap_step;
        q.first = q.taps ? floor_div(w + axis.padding - last_tap * axis.dilation, axis.stride) : 0;
        q.w = base + q.first * weights.pixel[2] + (q.taps ? last_tap * weights.tap[2] : 0);
        const i64 pixels = ceil_div(columns - r, axis.stride);
        write(q, pixels, direct, out + w * step, step * axis.stride, buffer + r * c, axis.stride * c);
      }
      if (!direct) scatter<S>(buffer, c, out + box.column_begin * step, step, target_steps()[1], columns, c);
    }
  }

  // Writes `pixels` targets, in place or to the buffer of a row.
  void write(Tile<E> q, i64 pixels, bool direct, S* out, i64 step, A* buffer, i64 buffer_step) const {
    if constexpr (!std::is_same_v<S, E>) {
      q.y = buffer;
    } else if constexpr (kDirect<S>) {
      q.y = direct ? out : buffer;
    } else {
      q.y = out;
    }
    q.y_t = direct ? step : buffer_step;
    row_of_group(q, pixels, p.group_channels);
  }
};

}  // namespace INVOLUTION_ISA
