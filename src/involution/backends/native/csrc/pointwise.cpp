// 1×1 convolution for inference with the batch norm, the addition and the activation that follow it: what lies between
// two involutions, in one pass over memory. Weights are read as they lie: nothing is reordered per call.
#include "accumulate.h"
#include "affine.h"
#include "dispatch.h"
#include "product.h"

namespace INVOLUTION_ISA {
namespace {

// Rows of a product that share what they load, and output channels that are made before they are written.
constexpr int kRows = kVectorBytes == 64 ? 8 : 4;
constexpr i64 kChannels = 64;

template <class A>
struct Pointwise {
  const InvolutionPointwise& p;
  const A* x;
  const A* weight;
  const A* residual;
  A* y;
  Affine<A> affine;

  i64 pixels() const { return p.batch * p.out[0] * p.out[1] * p.out[2]; }

  // Whether pixels that follow each other lie in equal steps in memory, over the borders of rows and images too.
  bool even(const i64* steps, const i64* stride) const {
    i64 step = steps[4] * stride[2];
    const i64 size[3] = {p.out[2], p.out[1], p.out[0]}, next[3] = {steps[3] * stride[1], steps[2] * stride[0], steps[0]};
    const i64 times[3] = {p.out[1], p.out[0], p.batch};
    for (int i = 0; i < 3; i++) {
      step *= size[i];
      if (times[i] > 1 && next[i] != step) return false;
      if (times[i] == 1) continue;
    }
    return true;
  }

  // Calls body(first, count, offset) for the runs of equal steps that pixels [begin, end) consist of.
  template <class Body>
  void runs(i64 begin, i64 end, const i64* steps, const i64* stride, bool all, const Body& body) const {
    while (begin < end) {
      i64 rest = begin;
      const i64 w = rest % p.out[2];
      rest /= p.out[2];
      const i64 h = rest % p.out[1];
      rest /= p.out[1];
      const i64 d = rest % p.out[0], b = rest / p.out[0];
      const i64 count = all ? end - begin : smaller(end - begin, p.out[2] - w);
      body(begin, count, b * steps[0] + d * stride[0] * steps[2] + h * stride[1] * steps[3] + w * stride[2] * steps[4]);
      begin += count;
    }
  }

  void run(i64 threads) const {
    constexpr i64 L = kLanes<A>;
    const i64 all = pixels(), work = all * p.in_channels * p.out_channels;
    // Three vectors of pixels share a weight; what a block of pixels reads should stay in the second-level cache.
    i64 width = larger(1, smaller(3, kScratchBytes / 2 / (p.in_channels * 3 * L * i64(sizeof(A))))) * 3 * L;
    width = smaller(width, ceil_div(all, L) * L);
    Cut cut{1, 1, 1, all, p.out_channels, 1, width, ceil_div(p.out_channels, kChannels) * kChannels};
    while (threads > 1 && work >= kSerialWork && cut.count() < 4 * threads && cut.box_columns > 3 * L) {
      cut.box_columns -= 3 * L;
    }
    while (threads > 1 && work >= kSerialWork && cut.count() < 4 * threads && cut.box_groups > kChannels) {
      cut.box_groups = ceil_div(cut.box_groups / 2, kRows) * kRows;
    }
    width = cut.box_columns = ceil_div(cut.box_columns, L) * L;
    const bool even_x = even(p.x, p.stride);
    const i64 ones[3] = {1, 1, 1};
    const bool even_y = even(p.y, ones) && (!residual || even(p.r, ones));
    const i64 room = (p.in_channels + kChannels) * width;
    for_boxes(cut, work, threads, [&](const Box& box) {
      A* const columns = static_cast<A*>(scratch().bytes(room * i64(sizeof(A))));
      A* const made = columns + p.in_channels * width;
      const i64 count = box.column_end - box.column_begin, filled = ceil_div(count, L) * L;
      runs(box.column_begin, box.column_end, p.x, p.stride, even_x, [&](i64 first, i64 n, i64 offset) {
        gather(x + offset, p.x[1], p.x[4] * p.stride[2], columns + first - box.column_begin, width, p.in_channels, n);
      });
      for (i64 c = 0; c < p.in_channels && filled > count; c++) {
        for (i64 m = count; m < filled; m++) columns[c * width + m] = 0;
      }
      for (i64 o = box.group_begin; o < box.group_end; o += kChannels) {
        const i64 channels = smaller(kChannels, box.group_end - o);
        const i64 depth = p.in_channels;
        product<A, kRows>({weight + o * depth, depth, 1, columns, width, depth, nullptr, made, width}, channels, filled);
        runs(box.column_begin, box.column_end, p.y, ones, even_y, [&](i64 first, i64 n, i64 offset) {
          const A* add = nullptr;
          if (residual) {
            runs(first, first + n, p.r, ones, even_y, [&](i64, i64, i64 at) { add = residual + at + o * p.r[1]; });
          }
          write(made + first - box.column_begin, width, y + offset + o * p.y[1], add, n, channels, affine.from(o));
        });
      }
    });
  }

  // Channels lie in rows of `from`, `row` apart.
  void write(const A* from, i64 row, A* to, const A* add, i64 n, i64 channels, const Affine<A>& last) const {
    constexpr int N = kLanes<A>;
    i64 c = 0;
    if (p.y[1] == 1 && (!add || p.r[1] == 1)) {
      for (; c + N <= channels; c += N) {
        i64 i = 0;
        for (; i + N <= n; i += N) {
          vec_t<A, N> block[N];
#pragma GCC unroll 16
          for (int r = 0; r < N; r++) block[r] = vec<A, N>::load(from + (c + r) * row + i);
          transpose<A, N>(block);
#pragma GCC unroll 16
          for (int r = 0; r < N; r++) {
            vec_t<A, N> v = last.template linear<N>(block[r], c);
            if (add) v += vec<A, N>::load(add + (i + r) * p.r[4] + c);
            vec<A, N>::store(to + (i + r) * p.y[4] + c, last.template cut<N>(v));
          }
        }
        for (; i < n; i++) {
          for (i64 j = c; j < c + N; j++) one(from[j * row + i], to + i * p.y[4], add ? add + i * p.r[4] : nullptr, j, last);
        }
      }
    }
    for (; c < channels; c++) {
      for (i64 i = 0; i < n; i++) one(from[c * row + i], to + i * p.y[4], add ? add + i * p.r[4] : nullptr, c, last);
    }
  }

  void one(A value, A* to, const A* add, i64 channel, const Affine<A>& last) const {
    value = last.template linear<1>(value, channel);
    if (add) value += add[channel * p.r[1]];
    to[channel * p.y[1]] = last.template cut<1>(value);
  }
};

template <class A>
void run_as(const InvolutionPointwise& p, const void* x, const void* weight, const InvolutionLast& last,
            const void* residual, void* y, i64 threads) {
  Scratch memory;
  Pointwise<A>{p,
               static_cast<const A*>(x),
               static_cast<const A*>(weight),
               static_cast<const A*>(residual),
               static_cast<A*>(y),
               Affine<A>::of(last, p.out_channels, memory)}
      .run(threads);
}

}  // namespace

void pointwise(const InvolutionPointwise& p, const void* x, const void* weight, const InvolutionLast& last,
               const void* residual, void* y, i64 threads) {
  if (p.dtype == kFloat64) return run_as<double>(p, x, weight, last, residual, y, threads);
  return run_as<float>(p, x, weight, last, residual, y, threads);
}

}  // namespace INVOLUTION_ISA
