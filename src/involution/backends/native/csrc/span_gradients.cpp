// The backward pass without a kernel field in memory: the input gradient consumes a field that is made again tile by
// tile; the gradient of the field is made tile by tile too, and turned at once into those of hidden and weight:
// dhidden = Wᵀ · dH and dW += dH · hiddenᵀ, summed over pixels in one partial sum per thread.
#include <cstdlib>
#include <memory>

#include "dispatch.h"
#include "fused.h"
#include "kernel_gradient.h"

namespace INVOLUTION_ISA {
namespace {

template <class S>
struct SpanGradients {
  using A = accumulator<S>;
  const InvolutionProblem& p;
  const InvolutionSpan& span;
  const InvolutionSpanGradients& to;
  const S* input;
  const S* grad_output;

  i64 padded() const { return ceil_div(span.channels, kLanes<A>) * kLanes<A>; }
  i64 weights() const { return p.groups * taps_of(p) * padded(); }
  i64 biases() const { return p.groups * taps_of(p); }
  bool weights_in_place() const { return kDirect<S> && span.channels == padded(); }

  // The field of one box and group lies in scratch, the taps of a pixel together.
  InvolutionProblem with_scratch_field(i64 rows, i64 columns) const {
    InvolutionProblem q = p;
    const i64 taps = taps_of(p);
    const i64 steps[8] = {0, taps, p.taps[1] * p.taps[2], p.taps[2], 1, rows * columns * taps, columns * taps, taps};
    for (int i = 0; i < 8; i++) q.f[i] = steps[i];
    return q;
  }

  // Values of scratch: hidden, its gradient, weights of a group, field, and those of KernelGradient.
  void scratch_values(const Cut& cut, i64 (&values)[6]) const {
    const InvolutionProblem q = with_scratch_field(cut.box_rows, cut.box_columns);
    i64 others[3];
    KernelGradient<S, A>{q, input, grad_output, nullptr}.scratch_values(cut, others);
    const i64 pixels = cut.box_rows * cut.box_columns;
    values[0] = values[1] = pixels * padded();
    values[2] = weights_in_place() ? 0 : taps_of(p) * padded();
    values[3] = pixels * taps_of(p);
    values[4] = others[0];
    values[5] = others[1];
    for (i64& n : values) n = ceil_div(n, 16) * 16;
  }

  void run(const InvolutionParallel& parallel) const {
    Cut cut{p.batch, p.out[0], p.out[1], p.out[2], p.groups, p.out[1], p.out[2], p.groups};
    cut.box_rows = smaller(cut.box_rows, larger(1, 112 / p.out[2]));
    i64 values[6];
    auto needed = [&] {
      scratch_values(cut, values);
      i64 total = 0;
      for (i64 n : values) total += n;
      return total * i64(sizeof(A));
    };
    while (needed() > kScratchBytes && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    while (needed() > kScratchBytes && cut.box_columns > 28) cut.box_columns = ceil_div(cut.box_columns, 2);
    while (cut.count() < 2 * parallel.threads && cut.box_rows > 1) cut.box_rows = ceil_div(cut.box_rows, 2);
    const i64 value_bytes = needed(), bytes = value_bytes + KernelGradient<S, A>::offset_bytes(p);
    const i64 boxes = cut.count(), partial = ceil_div(weights() + biases(), 16) * 16;
    InvolutionParallel some = worthwhile(parallel, work_of(p));
    const i64 slots = some.threads = smaller(some.threads, boxes);
    std::unique_ptr<A, decltype(&std::free)> sums(
        static_cast<A*>(std::aligned_alloc(64, std::size_t(slots * partial) * sizeof(A))), &std::free);
    if (!sums) throw std::bad_alloc();
    parallel_for(slots, some, [&](i64 slot) {
      A* const sum = sums.get() + slot * partial;
      for (i64 i = 0; i < partial; i++) sum[i] = 0;
      A* const room = static_cast<A*>(scratch().bytes(bytes));
      i64* const offsets = reinterpret_cast<i64*>(reinterpret_cast<char*>(room) + value_bytes);
      for (i64 i = slot * boxes / slots; i < (slot + 1) * boxes / slots; i++) run_box(cut.at(i), room, values, offsets, sum);
    });
    // The partial sums come together in the order of the slots, so that the same threads give the same result.
    parallel_for(biases(), some, [&](i64 n) { reduce(sums.get(), slots, partial, n); });
  }

  void reduce(A* sums, i64 slots, i64 partial, i64 n) const {
    A* const total = sums + n * padded();
    A& bias = sums[weights() + n];
    for (i64 slot = 1; slot < slots; slot++) {
      const A* more = total + slot * partial;
      for (i64 k = 0; k < span.channels; k++) total[k] += more[k];
      bias += (&bias)[slot * partial];
    }
    store_run(total, static_cast<S*>(to.weight) + n * span.channels, span.channels);
    if (to.bias) narrow(bias, static_cast<S*>(to.bias)[n]);
  }

  void run_box(const Box& box, A* room, const i64 (&values)[6], i64* offsets, A* sum) const {
    const i64 rows = box.row_end - box.row_begin, columns = box.column_end - box.column_begin, pixels = rows * columns;
    const i64 taps = taps_of(p), c = p.group_channels, wide = padded();
    A* const hidden = room;
    A* const gradient = hidden + values[0];
    A* const packed = gradient + values[1];
    A* const field = packed + values[2];
    A* const x_room = field + values[3];
    A* const y_room = x_room + values[4];
    const i64 first = box.batch * span.h[0] + box.plane * span.h[2] + box.column_begin * span.h[4];
    for (i64 r = 0; r < rows; r++) {
      gather(static_cast<const S*>(span.hidden) + first + (box.row_begin + r) * span.h[3], span.h[4], span.h[1],
             hidden + r * columns * wide, wide, columns, span.channels);
    }
    for (i64 m = 0; m < pixels && wide > span.channels; m++) {
      for (i64 k = span.channels; k < wide; k++) hidden[m * wide + k] = 0;
    }
    const InvolutionProblem q = with_scratch_field(rows, columns);
    const KernelGradient<S, A> dots{q, input, grad_output, field};
    const Range3 x_box = dots.input_range(box);
    const Range3 y_box{{box.plane, box.row_begin, box.column_begin}, {box.plane + 1, box.row_end, box.column_end}};
    for (i64 g = 0; g < p.groups; g++) {
      const auto x = view_map<S, A>(input, p.x, box.batch, g * c, c, x_box, x_room);
      const auto dy = view_map<S, A>(grad_output, p.y, box.batch, g * c, c, y_box, y_room);
      for (i64 h = box.row_begin; h < box.row_end; h++) {
        dots.row(x, dy, field + (h - box.row_begin) * q.f[6], box, h, 1, nullptr, offsets);
      }
      const A* weight = weight_of(g, packed);
      product<A, kProductRows>({field, taps, 1, weight, wide, taps, nullptr, gradient, wide, g > 0}, pixels, wide);
      product<A, kProductRows>({field, 1, taps, hidden, wide, pixels, nullptr, sum + g * taps * wide, wide, true}, taps, wide);
      A* const bias = sum + weights() + g * taps;
      for (i64 m = 0; m < pixels; m++) {
        for (i64 i = 0; i < taps; i++) bias[i] += field[m * taps + i];
      }
    }
    for (i64 r = 0; r < rows; r++) {
      const i64 at = box.batch * to.h[0] + box.plane * to.h[2] + (box.row_begin + r) * to.h[3] + box.column_begin * to.h[4];
      scatter(gradient + r * columns * wide, wide, static_cast<S*>(to.hidden) + at, to.h[4], to.h[1], columns, span.channels);
    }
  }

  // The matrix of group g, a row of whole vectors per tap.
  const A* weight_of(i64 g, A* packed) const {
    const i64 taps = taps_of(p), wide = padded();
    const S* weight = static_cast<const S*>(span.weight) + g * taps * span.channels;
    if constexpr (kDirect<S>) {
      if (weights_in_place()) return weight;
    }
    for (i64 n = 0; n < taps; n++) {
      load_run(weight + n * span.channels, packed + n * wide, span.channels);
      for (i64 k = span.channels; k < wide; k++) packed[n * wide + k] = 0;
    }
    return packed;
  }
};

template <class S>
void run_as(const InvolutionProblem& p, const void* x, const void* dy, const InvolutionSpan& span,
            const InvolutionSpanGradients& to, const InvolutionParallel& parallel) {
  const S *value = static_cast<const S*>(x), *gradient = static_cast<const S*>(dy);
  // The problem of the input gradient writes to another tensor than the value.
  InvolutionProblem q = p;
  for (int i = 0; i < 5; i++) q.x[i] = to.x[i];
  span_and_contract_as<S, true>(q, span, {}, gradient, static_cast<S*>(to.input), parallel);
  SpanGradients<S>{p, span, to, value, gradient}.run(parallel);
}

}  // namespace

void span_gradients(const InvolutionProblem& p, const void* x, const void* dy, const InvolutionSpan& span,
                    const InvolutionSpanGradients& to, const InvolutionParallel& parallel) {
  switch (p.dtype) {
    case kFloat32: return run_as<float>(p, x, dy, span, to, parallel);
    case kFloat64: return run_as<double>(p, x, dy, span, to, parallel);
    case kBFloat16: return run_as<bfloat16>(p, x, dy, span, to, parallel);
    default: return run_as<float16>(p, x, dy, span, to, parallel);
  }
}

}  // namespace INVOLUTION_ISA
