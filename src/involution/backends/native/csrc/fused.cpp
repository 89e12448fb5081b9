// Forward with the kernel field made on the way: for a few rows of pixels and one group at a time, the span's matrix
// product goes to scratch memory that stays in the cache, and is consumed at once.
#include "accumulate.h"
#include "affine.h"
#include "dispatch.h"
#include "product.h"

namespace INVOLUTION_ISA {
namespace {

// Seven rows of taps at a time: the paper's windows have 7·7.
constexpr int kRows = kVectorBytes == 64 ? 7 : 4;

template <class S>
struct SpanAndContract {
  using A = accumulator<S>;
  const InvolutionProblem& p;
  const InvolutionSpan& span;
  Affine<A> affine;
  Accumulation<S, false> sums;

  // Columns of the scratch matrices: the pixels of the largest box, filled up to whole vectors.
  i64 width(const Cut& cut) const { return ceil_div(cut.box_rows * cut.box_columns, kLanes<A>) * kLanes<A>; }

  // Values of scratch: hidden, field of one group, its weights and bias as accumulators, and those of Accumulation.
  void scratch_values(const Cut& cut, i64 (&values)[7]) const {
    i64 others[3];
    sums.scratch_values(cut, others);
    values[0] = span.channels * width(cut);
    values[1] = taps_of(p) * width(cut);
    values[2] = kDirect<S> ? 0 : taps_of(p) * span.channels;
    values[3] = kDirect<S> ? 0 : taps_of(p);
    values[4] = others[0];
    values[5] = others[2];
    values[6] = 0;
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(i64 threads) const {
    Cut cut{p.batch, p.out[0], p.out[1], p.out[2], p.groups, p.out[1], p.out[2], p.groups};
    i64 values[7];
    auto needed = [&] {
      scratch_values(cut, values);
      i64 total = 0;
      for (i64 n : values) total += n;
      return total * i64(sizeof(A));
    };
    // A product of about a hundred pixels runs at full speed, and field and hidden of so many stay in the caches.
    cut.box_rows = smaller(cut.box_rows, larger(1, 112 / p.out[2]));
    while (needed() > kScratchBytes && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    while (needed() > kScratchBytes && cut.box_columns > 28) cut.box_columns = ceil_div(cut.box_columns, 2);
    const i64 work = work_of(p) + p.batch * p.groups * taps_of(p) * p.out[0] * p.out[1] * p.out[2] * span.channels;
    cut.share_among(threads);
    const i64 bytes = needed();
    for_boxes(cut, work, threads, [&](const Box& box) { run_box(box, static_cast<A*>(scratch().bytes(bytes)), values); });
  }

  void run_box(const Box& box, A* room, const i64 (&values)[7]) const {
    constexpr int L = kLanes<A>;
    const i64 columns = box.column_end - box.column_begin, rows = box.row_end - box.row_begin, taps = taps_of(p);
    const i64 width = ceil_div(rows * columns, L) * L;
    A* const hidden = room;
    A* const field = hidden + values[0];
    A* const weights = field + values[1];
    A* const biases = weights + values[2];
    A* const map_room = biases + values[3];
    A* const row_room = map_room + values[4];
    const S* h = static_cast<const S*>(span.hidden) + box.batch * span.h[0] + box.plane * span.h[2] +
                 box.row_begin * span.h[3] + box.column_begin * span.h[4];
    for (i64 r = 0; r < rows; r++) {
      // Row c of the matrix holds channel c of all pixels.
      gather(h + r * span.h[3], span.h[1], span.h[4], hidden + r * columns, width, span.channels, columns);
    }
    for (i64 c = 0; c < span.channels; c++) {
      for (i64 m = rows * columns; m < width; m++) hidden[c * width + m] = 0;
    }
    const FieldView<A> view{field,
                            {p.taps[1] * p.taps[2] * width, p.taps[2] * width, width},
                            {0, columns, 1},
                            {box.plane, box.row_begin, box.column_begin}};
    const Range3 map_box = sums.source_range(box);
    for (i64 g = box.group_begin; g < box.group_end; g++) {
      const S* weight = static_cast<const S*>(span.weight) + g * taps * span.channels;
      const S* bias = span.bias ? static_cast<const S*>(span.bias) + g * taps : nullptr;
      if constexpr (kDirect<S>) {
        product<A, kRows>(weight, span.channels, hidden, width, span.channels, bias, field, width, taps, width);
      } else {
        load_run(weight, weights, taps * span.channels);
        if (bias) load_run(bias, biases, taps);
        product<A, kRows>(weights, span.channels, hidden, width, span.channels, bias ? biases : nullptr, field, width, taps, width);
      }
      const i64 c = p.group_channels;
      const auto map = view_map(sums.source, p.x, box.batch, g * c, c, map_box, map_room);
      S* out = sums.target + box.batch * p.y[0] + g * c * p.y[1] + box.plane * p.y[2];
      for (i64 row = box.row_begin; row < box.row_end; row++) {
        sums.row(map, view, out + row * p.y[3], box, row, row_room, nullptr);
        if constexpr (kDirect<S>) {
          if (affine.any()) affine.from(g * c).apply(out + row * p.y[3] + box.column_begin * p.y[4], p.y[4], p.y[1], columns, c);
        }
      }
    }
  }
};

template <class S>
void run_as(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y, i64 threads) {
  SpanAndContract<S>{p, span, Affine<accumulator<S>>::of(span.affine), {p, static_cast<const S*>(x), nullptr, static_cast<S*>(y)}}.run(threads);
}

}  // namespace

void span_and_contract(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y, i64 threads) {
  switch (p.dtype) {
    case kFloat32: return run_as<float>(p, x, span, y, threads);
    case kFloat64: return run_as<double>(p, x, span, y, threads);
    case kBFloat16: return run_as<bfloat16>(p, x, span, y, threads);
    default: return run_as<float16>(p, x, span, y, threads);
  }
}

}  // namespace INVOLUTION_ISA
