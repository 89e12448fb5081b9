// Which taps of a window lie inside the map, and how a call is cut into boxes of pixels.
#pragma once

#include "problem.h"
#include "vector.h"

namespace INVOLUTION_ISA {

// The taps of one dimension that connect a target pixel with source pixels inside the map: tap + j·tap_step reads
// source + j·source_step, for j in [0, count).
struct Line {
  i64 count, tap, tap_step, source, source_step;
};

struct Axis {
  i64 taps, stride, padding, dilation, in, out;

  static Axis of(const InvolutionProblem& p, int dim) {
    return {p.taps[dim], p.stride[dim], p.padding[dim], p.dilation[dim], p.in[dim], p.out[dim]};
  }

  // Target: the output pixel `at`; source: the input.
  Line forward(i64 at) const {
    const i64 start = at * stride - padding;
    const i64 tap = larger(0, -floor_div(start, dilation));
    const i64 end = smaller(taps, floor_div(in - 1 - start, dilation) + 1);
    return {larger(0, end - tap), tap, 1, start + tap * dilation, dilation};
  }

  // Taps of the windows that read an input pixel differ by this much: the smallest step whose dilated width the
  // stride divides.
  i64 tap_step() const {
    i64 a = stride, b = dilation;
    while (b) {
      const i64 rest = a % b;
      a = b;
      b = rest;
    }
    return stride / a;
  }

  // The first tap through which some window (inside the grid or not) reads the input pixel `at`, or `taps` if none.
  i64 first_tap(i64 at) const {
    const i64 step = tap_step();
    for (i64 tap = 0; tap < smaller(step, taps); tap++) {
      if ((at + padding - tap * dilation) % stride == 0) return tap;
    }
    return taps;
  }

  // Target: the input pixel `at`; source: the output pixels whose windows read it.
  Line backward(i64 at) const {
    const i64 step = tap_step(), reach = at + padding;
    i64 tap = first_tap(at);
    if (tap == taps) return {0, 0, step, 0, 0};
    const i64 least = -floor_div((out - 1) * stride - reach, dilation);
    if (least > tap) tap += ceil_div(least - tap, step) * step;
    const i64 most = smaller(taps - 1, floor_div(reach, dilation));
    if (tap > most) return {0, 0, step, 0, 0};
    return {(most - tap) / step + 1, tap, step, (reach - tap * dilation) / stride, -(dilation * step / stride)};
  }

  // The source pixels that the targets [begin, end) read, [from, to); empty if to <= from.
  void forward_span(i64 begin, i64 end, i64& from, i64& to) const {
    from = larger(0, begin * stride - padding);
    to = smaller(in, (end - 1) * stride - padding + (taps - 1) * dilation + 1);
  }
  void backward_span(i64 begin, i64 end, i64& from, i64& to) const {
    from = larger(0, -floor_div((taps - 1) * dilation - begin - padding, stride));
    to = smaller(out, floor_div(end - 1 + padding, stride) + 1);
  }
};

// A range of rows and columns in one plane.
struct Box {
  i64 batch, plane, row_begin, row_end, column_begin, column_end, group_begin, group_end;
};

// Cuts batch × planes × rows × columns × groups into boxes.
struct Cut {
  i64 batch, planes, rows, columns, groups;
  i64 box_rows, box_columns, box_groups;

  i64 row_boxes() const { return ceil_div(rows, box_rows); }
  i64 column_boxes() const { return ceil_div(columns, box_columns); }
  i64 group_boxes() const { return ceil_div(groups, box_groups); }
  i64 count() const { return batch * planes * row_boxes() * column_boxes() * group_boxes(); }

  Box at(i64 i) const {
    const i64 group = i % group_boxes();
    i /= group_boxes();
    const i64 column = i % column_boxes();
    i /= column_boxes();
    const i64 row = i % row_boxes();
    i /= row_boxes();
    return {i / planes,
            i % planes,
            row * box_rows,
            smaller(rows, (row + 1) * box_rows),
            column * box_columns,
            smaller(columns, (column + 1) * box_columns),
            group * box_groups,
            smaller(groups, (group + 1) * box_groups)};
  }

  // Even boxes, enough of them to keep all threads busy to the end.
  void share_among(i64 threads) {
    if (threads > 1) {
      while (count() < 4 * threads && box_rows > 4) box_rows = ceil_div(box_rows, 2);
      while (count() < 4 * threads && box_groups > 1) box_groups = ceil_div(box_groups, 2);
      while (count() < 4 * threads && box_rows > 1) box_rows = ceil_div(box_rows, 2);
    }
    even_out();
  }

  // The same, but rows are only cut where there are not enough groups.
  void share_groups_among(i64 threads) {
    if (threads > 1) {
      while (count() < 4 * threads && box_groups > 1) box_groups = ceil_div(box_groups, 2);
      while (count() < 2 * threads && box_rows > 1) box_rows = ceil_div(box_rows, 2);
    }
    even_out();
  }

 private:
  void even_out() {
    box_rows = ceil_div(rows, row_boxes());
    box_groups = ceil_div(groups, group_boxes());
    box_columns = ceil_div(columns, column_boxes());
  }
};

}  // namespace INVOLUTION_ISA
