// Forward and input gradient with the kernel field made on the way: for a few rows of pixels and one group at a time,
// the span's matrix product goes to scratch memory that stays in the cache, and is consumed at once.
#pragma once

#include "accumulate.h"
#include "dispatch.h"
#include "product.h"

namespace INVOLUTION_ISA {

// Seven rows of taps at a time: the paper's windows have 7·7.
constexpr int kProductRows = kVectorBytes == 64 ? 7 : 4;

// Zeros from column `count` on.
template <class T>
void fill_rows(T* matrix, i64 rows, i64 count, i64 width) {
  for (i64 row = 0; row < rows; row++) {
    for (i64 m = count; m < width; m++) matrix[row * width + m] = 0;
  }
}

// The hidden map of a box as the matrix that the span's weight is multiplied by: row c holds channel c of all pixels,
// `width` of them, zero beyond the last.
template <class S>
struct HiddenRows {
  using A = accumulator<S>;
  A* const hidden;
  A* const weights;
  A* const biases;

  static i64 hidden_values(i64 channels, i64 width) { return channels * width; }
  static i64 parameter_values(i64 taps, i64 channels) { return kDirect<S> ? 0 : taps * (channels + 1); }

  HiddenRows(A* hidden, A* parameters, i64 taps, i64 channels, PairProduct*)
      : hidden(hidden), weights(parameters), biases(parameters + taps * channels) {}

  // `columns` pixels of one row of the map, from pixel `at` of the box.
  void row(const InvolutionSpan& span, const S* from, i64 at, i64 width, i64 columns) const {
    gather(from, span.h[1], span.h[4], hidden + at, width, span.channels, columns);
  }

  void fill(i64 channels, i64 count, i64 width) const { fill_rows(hidden, channels, count, width); }

  void field(const InvolutionSpan& span, const S* weight, const S* bias, i64 taps, i64 width, A* out) const {
    const A *w, *b;
    if constexpr (kDirect<S>) {
      w = weight;
      b = bias;
    } else {
      load_run(weight, weights, taps * span.channels);
      if (bias) load_run(bias, biases, taps);
      w = weights;
      b = bias ? biases : nullptr;
    }
    product<A, kProductRows>({w, span.channels, 1, hidden, width, span.channels, b, out, width}, taps, width);
  }
};

// The same of bfloat16, two channels in a row, for the instructions that multiply pairs.
struct HiddenPairs {
  std::uint32_t* const pairs;
  PairProduct* const product;

  static i64 hidden_values(i64 channels, i64 width) { return channels / 2 * width; }
  static i64 parameter_values(i64, i64) { return 0; }

  HiddenPairs(float* hidden, float*, i64, i64, PairProduct* product)
      : pairs(reinterpret_cast<std::uint32_t*>(hidden)), product(product) {}

  void row(const InvolutionSpan& span, const bfloat16* from, i64 at, i64 width, i64 columns) const {
    const i64 n = span.channels / 2, pixel = span.h[4], channel = span.h[1];
    if (channel == 1 && pixel % 2 == 0 && reinterpret_cast<std::uintptr_t>(from) % 4 == 0) {
      // Pairs lie as they shall; only their order changes.
      gather(reinterpret_cast<const float*>(from), 1, pixel / 2, reinterpret_cast<float*>(pairs) + at, width, n, columns);
      return;
    }
    for (i64 k = 0; k < n; k++, from += 2 * channel) {
      for (i64 m = 0; m < columns; m++) {
        pairs[k * width + at + m] = from[m * pixel].bits | std::uint32_t(from[m * pixel + channel].bits) << 16;
      }
    }
  }

  void fill(i64 channels, i64 count, i64 width) const { fill_rows(pairs, channels / 2, count, width); }

  void field(const InvolutionSpan& span, const bfloat16* weight, const bfloat16* bias, i64 taps, i64 width, float* out) const {
    product({reinterpret_cast<const std::uint16_t*>(weight), reinterpret_cast<const std::uint16_t*>(bias), taps,
             span.channels, pairs, width, out});
  }
};

// `Hidden` makes the field, E is what Accumulation works on.
template <class S, bool Backward, class Hidden, class E>
struct SpanAndContract {
  using A = accumulator<S>;
  const InvolutionProblem& p;
  const InvolutionSpan& span;
  PairProduct* pair_product;
  Affine<A> affine;
  Accumulation<S, Backward, E> sums;

  // Columns of the scratch matrices: the pixels of the field that the largest box needs, filled up to whole vectors.
  static i64 width_of(i64 pixels) { return ceil_div(pixels, kLanes<A>) * kLanes<A>; }

  // Values of scratch: hidden, field of one group, its parameters as accumulators, and those of Accumulation.
  void scratch_values(const Cut& cut, i64 (&values)[5]) const {
    i64 others[3];
    sums.scratch_values(cut, others);
    const i64 width = width_of(sums.field_pixels(cut));
    values[0] = Hidden::hidden_values(span.channels, width);
    values[1] = taps_of(p) * width;
    values[2] = Hidden::parameter_values(taps_of(p), span.channels);
    values[3] = others[0];
    values[4] = others[2];
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(const InvolutionParallel& parallel) const {
    const i64* size = sums.target_size();
    Cut cut{p.batch, size[0], size[1], size[2], p.groups, size[1], size[2], p.groups};
    i64 values[5];
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

  void run_box(const Box& box, A* room, const i64 (&values)[5]) const {
    const Range3 pixels = sums.field_range(box);
    const i64 planes = pixels.size(0), rows = pixels.size(1), columns = pixels.size(2), count = pixels.pixels();
    const i64 width = width_of(count), taps = taps_of(p), c = p.group_channels;
    A* const field = room + values[0];
    A* const parameters = field + values[1];
    A* const map_room = parameters + values[2];
    A* const row_room = map_room + values[3];
    const Hidden hidden(room, parameters, taps, span.channels, pair_product);
    const S* h = static_cast<const S*>(span.hidden) + box.batch * span.h[0] + pixels.from[2] * span.h[4];
    for (i64 d = 0; d < planes; d++) {
      for (i64 r = 0; r < rows; r++) {
        hidden.row(span, h + (pixels.from[0] + d) * span.h[2] + (pixels.from[1] + r) * span.h[3], (d * rows + r) * columns,
                   width, columns);
      }
    }
    hidden.fill(span.channels, count, width);
    const FieldView<A> view{field,
                            {p.taps[1] * p.taps[2] * width, p.taps[2] * width, width},
                            {rows * columns, columns, 1},
                            {pixels.from[0], pixels.from[1], pixels.from[2]}};
    const Range3 map_box = sums.source_range(box);
    const i64 *source = sums.source_steps(), *target = sums.target_steps();
    for (i64 g = box.group_begin; g < box.group_end; g++) {
      const S* weight = static_cast<const S*>(span.weight) + g * taps * span.channels;
      const S* bias = span.bias ? static_cast<const S*>(span.bias) + g * taps : nullptr;
      hidden.field(span, weight, bias, taps, width, field);
      const auto map = view_map<S, E>(sums.source, source, box.batch, g * c, c, map_box, map_room);
      S* out = sums.target + box.batch * target[0] + g * c * target[1] + box.plane * target[2];
      for (i64 row = box.row_begin; row < box.row_end; row++) {
        sums.row(map, view, out + row * target[3], box, row, row_room, affine.from(g * c));
      }
    }
  }
};

template <class S, bool Backward, class Hidden>
void span_and_contract_with(const InvolutionProblem& p, const InvolutionSpan& span, PairProduct* pair_product,
                            const Affine<accumulator<S>>& affine, const S* source, S* target,
                            const InvolutionParallel& parallel) {
  if constexpr (!kDirect<S>) {
    if (channels_together(p.x, p.group_channels) && channels_together(p.y, p.group_channels)) {
      SpanAndContract<S, Backward, Hidden, S>{p, span, pair_product, affine, {p, source, nullptr, target}}.run(parallel);
      return;
    }
  }
  SpanAndContract<S, Backward, Hidden, accumulator<S>>{p, span, pair_product, affine, {p, source, nullptr, target}}.run(parallel);
}

// Forward: source is the value, target the output. Backward: source is the output's gradient, target the value's.
template <class S, bool Backward>
void span_and_contract_as(const InvolutionProblem& p, const InvolutionSpan& span, const Affine<accumulator<S>>& affine,
                          const S* source, S* target, const InvolutionParallel& parallel) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    PairProduct* const product = kernels().pair_product;
    if (product && span.channels % 2 == 0) {
      return span_and_contract_with<S, Backward, HiddenPairs>(p, span, product, affine, source, target, parallel);
    }
  }
  span_and_contract_with<S, Backward, HiddenRows<S>>(p, span, nullptr, affine, source, target, parallel);
}

}  // namespace INVOLUTION_ISA
