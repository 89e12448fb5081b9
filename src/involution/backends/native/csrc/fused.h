// Forward and input gradient with the kernel field made on the way: for a few rows of pixels and one group at a time,
// the span's matrix product goes to scratch memory that stays in the cache, and is consumed at once.
#pragma once

#include "accumulate.h"
#include "affine.h"
#include "product.h"

namespace INVOLUTION_ISA {

// Seven rows of taps at a time: the paper's windows have 7·7.
constexpr int kProductRows = kVectorBytes == 64 ? 7 : 4;

template <class S, bool Backward>
struct SpanAndContract {
  using A = accumulator<S>;
  const InvolutionProblem& p;
  const InvolutionSpan& span;
  Affine<A> affine;
  Accumulation<S, Backward> sums;

  // Columns of the scratch matrices: the pixels of the field that the largest box needs, filled up to whole vectors.
  i64 width(const Cut& cut) const { return ceil_div(sums.field_pixels(cut), kLanes<A>) * kLanes<A>; }

  // Values of scratch: hidden, field of one group, its weights and bias as accumulators, and those of Accumulation.
  void scratch_values(const Cut& cut, i64 (&values)[6]) const {
    i64 others[3];
    sums.scratch_values(cut, others);
    values[0] = span.channels * width(cut);
    values[1] = taps_of(p) * width(cut);
    values[2] = kDirect<S> ? 0 : taps_of(p) * span.channels;
    values[3] = kDirect<S> ? 0 : taps_of(p);
    values[4] = others[0];
    values[5] = others[2];
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(const InvolutionParallel& parallel) const {
    const i64* size = sums.target_size();
    Cut cut{p.batch, size[0], size[1], size[2], p.groups, size[1], size[2], p.groups};
    i64 values[6];
    auto needed = [&] {
      scratch_values(cut, values);
      i64 total = 0;
      for (i64 n : values) total += n;
      return total * i64(sizeof(A));
    };
    // A product of about a hundred pixels runs at full speed, and field and hidden of so many stay in the caches. The
    // input gradient needs more rows of the field than it writes, and fewer of them twice the more it writes at once.
    if (!Backward) cut.box_rows = smaller(cut.box_rows, larger(1, 112 / size[2]));
    while (needed() > kScratchBytes && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    while (needed() > kScratchBytes && cut.box_columns > 28) cut.box_columns = ceil_div(cut.box_columns, 2);
    const i64 work = work_of(p) + p.batch * p.groups * taps_of(p) * p.out[0] * p.out[1] * p.out[2] * span.channels;
    if (Backward) {
      cut.share_groups_among(parallel.threads);
    } else {
      cut.share_among(parallel.threads);
    }
    const i64 bytes = needed();
    for_boxes(cut, work, parallel, [&](const Box& box) { run_box(box, static_cast<A*>(scratch().bytes(bytes)), values); });
  }

  void run_box(const Box& box, A* room, const i64 (&values)[6]) const {
    constexpr int L = kLanes<A>;
    const Range3 pixels = sums.field_range(box);
    const i64 planes = pixels.size(0), rows = pixels.size(1), columns = pixels.size(2), count = pixels.pixels();
    const i64 width = ceil_div(count, L) * L, taps = taps_of(p), c = p.group_channels;
    A* const hidden = room;
    A* const field = hidden + values[0];
    A* const weights = field + values[1];
    A* const biases = weights + values[2];
    A* const map_room = biases + values[3];
    A* const row_room = map_room + values[4];
    const S* h = static_cast<const S*>(span.hidden) + box.batch * span.h[0] + pixels.from[2] * span.h[4];
    for (i64 d = 0; d < planes; d++) {
      for (i64 r = 0; r < rows; r++) {
        // Row c of the matrix holds channel c of all pixels.
        gather(h + (pixels.from[0] + d) * span.h[2] + (pixels.from[1] + r) * span.h[3], span.h[1], span.h[4],
               hidden + (d * rows + r) * columns, width, span.channels, columns);
      }
    }
    for (i64 k = 0; k < span.channels; k++) {
      for (i64 m = count; m < width; m++) hidden[k * width + m] = 0;
    }
    const FieldView<A> view{field,
                            {p.taps[1] * p.taps[2] * width, p.taps[2] * width, width},
                            {rows * columns, columns, 1},
                            {pixels.from[0], pixels.from[1], pixels.from[2]}};
    const Range3 map_box = sums.source_range(box);
    const i64 *source = sums.source_steps(), *target = sums.target_steps();
    for (i64 g = box.group_begin; g < box.group_end; g++) {
      const S* weight = static_cast<const S*>(span.weight) + g * taps * span.channels;
      const S* bias = span.bias ? static_cast<const S*>(span.bias) + g * taps : nullptr;
      if constexpr (kDirect<S>) {
        make_field(weight, bias, hidden, field, width);
      } else {
        load_run(weight, weights, taps * span.channels);
        if (bias) load_run(bias, biases, taps);
        make_field(weights, bias ? biases : nullptr, hidden, field, width);
      }
      const auto map = view_map(sums.source, source, box.batch, g * c, c, map_box, map_room);
      S* out = sums.target + box.batch * target[0] + g * c * target[1] + box.plane * target[2];
      for (i64 row = box.row_begin; row < box.row_end; row++) {
        sums.row(map, view, out + row * target[3], box, row, row_room, nullptr);
        if (affine.any()) {
          affine.from(g * c).apply(out + row * target[3] + box.column_begin * target[4], target[4], target[1],
                                   box.column_end - box.column_begin, c);
        }
      }
    }
  }

  void make_field(const A* weight, const A* bias, const A* hidden, A* field, i64 width) const {
    product<A, kProductRows>({weight, span.channels, 1, hidden, width, span.channels, bias, field, width}, taps_of(p), width);
  }
};

}  // namespace INVOLUTION_ISA
