// Batch norm with batch statistics, the addition of a residual and ReLU, each way in two passes over memory.
//
// Maps are dense and channels_last: `pixels` rows of `channels` values. Statistics are taken chunk by chunk in two passes
// while a chunk is in the first-level cache, and merged in double precision (Chan et al.), in the same order every time.
#include <cmath>
#include <memory>

#include "accumulate.h"
#include "dispatch.h"

namespace INVOLUTION_ISA {
namespace {

template <class A>
struct Norm {
  static constexpr int L = kLanes<A>;
  const InvolutionNorm& p;
  i64 threads;

  // Pixels that stay in the first-level cache between two passes over them.
  i64 chunk() const { return larger(1, 24 * 1024 / (p.channels * i64(sizeof(A)))); }
  i64 slots() const { return p.pixels * p.channels < kSerialWork / 8 ? 1 : larger(1, smaller(threads, p.pixels)); }
  i64 begin(i64 slot) const { return slot * p.pixels / slots(); }

  struct Moments {
    double count, mean, squares;

    void merge(double n, double m, double s) {
      if (n == 0) return;
      const double all = count + n, apart = m - mean;
      squares += s + apart * apart * count * n / all;
      mean += apart * n / all;
      count = all;
    }
  };

  // Calls body(channel, N, NV) for the channels in blocks of NV vectors of N values.
  template <class Body>
  void channel_blocks(const Body& body) const {
    i64 c = 0;
    // Several sums at a time, for one would wait for itself.
    for (; c + 4 * L <= p.channels; c += 4 * L) body(c, std::integral_constant<int, L>{}, std::integral_constant<int, 4>{});
    for (; c + L <= p.channels; c += L) body(c, std::integral_constant<int, L>{}, std::integral_constant<int, 1>{});
    for (; c < p.channels; c++) body(c, std::integral_constant<int, 1>{}, std::integral_constant<int, 1>{});
  }

  // Sums over n pixels for NV vectors of channels: first of x, then of (x − mean)².
  template <int N, int NV>
  static void chunk_moments(const A* x, i64 row, i64 n, A* mean, A* squares) {
    using W = vec<A, N>;
    vec_t<A, N> average[NV] = {}, sum[NV] = {};
    for (i64 m = 0; m < n; m++) {
#pragma GCC unroll 4
      for (int k = 0; k < NV; k++) average[k] += W::load(x + m * row + k * N);
    }
#pragma GCC unroll 4
    for (int k = 0; k < NV; k++) average[k] /= A(n);
    for (i64 m = 0; m < n; m++) {
#pragma GCC unroll 4
      for (int k = 0; k < NV; k++) {
        const vec_t<A, N> apart = W::load(x + m * row + k * N) - average[k];
        sum[k] += apart * apart;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < NV; k++) {
      W::store(mean + k * N, average[k]);
      W::store(squares + k * N, sum[k]);
    }
  }

  void statistics(const A* x, A* mean, A* inverse, A* running_mean, A* running_var) const {
    const i64 channels = p.channels, n = slots();
    std::unique_ptr<Moments[]> moments(new Moments[std::size_t(n * channels)]());
    parallel_for(n, n, [&](i64 slot) {
      Moments* const own = moments.get() + slot * channels;
      for (i64 first = begin(slot); first < begin(slot + 1); first += chunk()) {
        const i64 count = smaller(chunk(), begin(slot + 1) - first);
        channel_blocks([&](i64 c, auto lanes, auto vectors) {
          constexpr int N = decltype(lanes)::value, NV = decltype(vectors)::value;
          A means[N * NV], squares[N * NV];
          chunk_moments<N, NV>(x + first * channels + c, channels, count, means, squares);
          for (int i = 0; i < N * NV; i++) own[c + i].merge(double(count), double(means[i]), double(squares[i]));
        });
      }
    });
    for (i64 c = 0; c < channels; c++) {
      Moments& all = moments[std::size_t(c)];
      for (i64 slot = 1; slot < n; slot++) {
        const Moments& more = moments[std::size_t(slot * channels + c)];
        all.merge(more.count, more.mean, more.squares);
      }
      mean[c] = A(all.mean);
      inverse[c] = A(1 / std::sqrt(all.squares / all.count + p.epsilon));
      if (running_mean) running_mean[c] = A((1 - p.momentum) * double(running_mean[c]) + p.momentum * all.mean);
      if (running_var) {
        running_var[c] = A((1 - p.momentum) * double(running_var[c]) + p.momentum * all.squares / (all.count - 1));
      }
    }
  }

  // Calls body(pixel, channel, N) for all vectors of N channels of all pixels; chunks of pixels per thread.
  template <class Body>
  void each(const Body& body) const {
    parallel_for(slots(), slots(), [&](i64 slot) {
      for (i64 m = begin(slot); m < begin(slot + 1); m++) {
        i64 c = 0;
        for (; c + L <= p.channels; c += L) body(m * p.channels + c, c, std::integral_constant<int, L>{});
        for (; c < p.channels; c++) body(m * p.channels + c, c, std::integral_constant<int, 1>{});
      }
    });
  }

  void apply(const A* x, const A* residual, const A* scale, const A* offset, A* y) const {
    each([&](i64 at, i64 c, auto size) {
      constexpr int N = decltype(size)::value;
      using W = vec<A, N>;
      auto value = W::load(x + at) * W::load(scale + c) + W::load(offset + c);
      if (residual) value += W::load(residual + at);
      W::store(y + at, cut<N>(value));
    });
  }

  // NaN stays NaN, as in torch.
  template <int N>
  vec_t<A, N> cut(vec_t<A, N> value) const {
    const vec_t<A, N> zero{};
    return !p.relu ? value : value < zero ? zero : value;
  }

  // The output gradient where ReLU let a value through.
  template <int N>
  vec_t<A, N> passed(const A* dy, const A* x, const A* y, const A* scale, const A* offset, i64 at, i64 c) const {
    using W = vec<A, N>;
    const vec_t<A, N> zero{}, gradient = W::load(dy + at);
    if (!p.relu) return gradient;
    const vec_t<A, N> value = y ? W::load(y + at) : W::load(x + at) * W::load(scale + c) + W::load(offset + c);
    return value <= zero ? zero : gradient;
  }

  // sums: Σ dy' and Σ dy'·(x − mean) over pixels, dy' the gradient that ReLU let through. With a residual, dy' is its
  // gradient and is written.
  void reduce(const A* dy, const A* x, const A* y, const A* mean, const A* scale, const A* offset, A* dresidual,
              double* sums) const {
    const i64 channels = p.channels, n = slots();
    std::unique_ptr<double[]> partial(new double[std::size_t(n * 2 * channels)]());
    parallel_for(n, n, [&](i64 slot) {
      double* const own = partial.get() + slot * 2 * channels;
      for (i64 first = begin(slot); first < begin(slot + 1); first += chunk()) {
        const i64 end = smaller(first + chunk(), begin(slot + 1));
        channel_blocks([&](i64 c, auto lanes, auto vectors) {
          constexpr int N = decltype(lanes)::value, NV = decltype(vectors)::value;
          using W = vec<A, N>;
          vec_t<A, N> total[NV] = {}, moment[NV] = {}, center[NV];
#pragma GCC unroll 4
          for (int k = 0; k < NV; k++) center[k] = W::load(mean + c + k * N);
          for (i64 m = first; m < end; m++) {
#pragma GCC unroll 4
            for (int k = 0; k < NV; k++) {
              const i64 at = m * channels + c + k * N;
              const vec_t<A, N> gradient = passed<N>(dy, x, y, scale, offset, at, c + k * N);
              if (dresidual) W::store(dresidual + at, gradient);
              total[k] += gradient;
              moment[k] += gradient * (W::load(x + at) - center[k]);
            }
          }
          A totals[N * NV], moments[N * NV];
#pragma GCC unroll 4
          for (int k = 0; k < NV; k++) {
            W::store(totals + k * N, total[k]);
            W::store(moments + k * N, moment[k]);
          }
          for (int i = 0; i < N * NV; i++) {
            own[c + i] += double(totals[i]);
            own[channels + c + i] += double(moments[i]);
          }
        });
      }
    });
    for (i64 i = 0; i < 2 * channels; i++) {
      sums[i] = 0;
      for (i64 slot = 0; slot < n; slot++) sums[i] += partial[std::size_t(slot * 2 * channels + i)];
    }
  }

  // dx = scale · (dy' − Σ dy' / n − (x − mean) · inverse² · Σ dy'·(x − mean) / n)
  void backward(const A* dy, const A* x, const A* y, const A* mean, const A* inverse, const A* scale, const A* offset,
                A* dx, A* dresidual, A* dweight, A* dbias) const {
    const i64 channels = p.channels;
    std::unique_ptr<double[]> sums(new double[std::size_t(2 * channels)]);
    std::unique_ptr<A[]> factors(new A[std::size_t(2 * channels)]);
    reduce(dy, x, y, mean, scale, offset, dresidual, sums.get());
    A *const slope = factors.get(), *const shift = slope + channels;
    for (i64 c = 0; c < channels; c++) {
      const double inv = double(inverse[c]), moment = sums[std::size_t(channels + c)];
      dweight[c] = A(moment * inv);
      dbias[c] = A(sums[std::size_t(c)]);
      // dx = scale·dy' + slope·x + shift
      const double a = -double(scale[c]) * inv * inv * moment / double(p.pixels);
      slope[c] = A(a);
      shift[c] = A(-double(scale[c]) * sums[std::size_t(c)] / double(p.pixels));
    }
    each([&](i64 at, i64 c, auto size) {
      constexpr int N = decltype(size)::value;
      using W = vec<A, N>;
      const vec_t<A, N> gradient =
          dresidual ? W::load(dresidual + at) : passed<N>(dy, x, y, scale, offset, at, c);
      const vec_t<A, N> apart = W::load(x + at) - W::load(mean + c);
      W::store(dx + at, gradient * W::load(scale + c) + apart * W::load(slope + c) + W::load(shift + c));
    });
  }
};

template <class A>
void forward_as(const InvolutionNorm& p, const InvolutionNormForward& t, i64 threads) {
  const Norm<A> norm{p, threads};
  auto at = [](void* pointer) { return static_cast<A*>(pointer); };
  norm.statistics(at(t.x), at(t.mean), at(t.inverse), at(t.running_mean), at(t.running_var));
  A *scale = at(t.scale), *offset = at(t.offset);
  const A *weight = at(t.weight), *bias = at(t.bias), *mean = at(t.mean), *inverse = at(t.inverse);
  for (i64 c = 0; c < p.channels; c++) {
    scale[c] = weight[c] * inverse[c];
    offset[c] = bias[c] - mean[c] * scale[c];
  }
  norm.apply(at(t.x), at(t.residual), scale, offset, at(t.y));
}

template <class A>
void backward_as(const InvolutionNorm& p, const InvolutionNormBackward& t, i64 threads) {
  auto at = [](void* pointer) { return static_cast<A*>(pointer); };
  Norm<A>{p, threads}.backward(at(t.dy), at(t.x), at(t.y), at(t.mean), at(t.inverse), at(t.scale), at(t.offset),
                               at(t.dx), at(t.dresidual), at(t.dweight), at(t.dbias));
}

}  // namespace

void norm_forward(const InvolutionNorm& p, const InvolutionNormForward& t, i64 threads) {
  (p.dtype == kFloat64 ? forward_as<double> : forward_as<float>)(p, t, threads);
}

void norm_backward(const InvolutionNorm& p, const InvolutionNormBackward& t, i64 threads) {
  (p.dtype == kFloat64 ? backward_as<double> : backward_as<float>)(p, t, threads);
}

}  // namespace INVOLUTION_ISA
