// One call as it comes from Python: 64-bit integers only, strides in elements, dimensions depth, height, width.
// Maps of fewer dimensions have leading sizes of 1.
#pragma once

#include <cstdint>

// Counts the changes of what is below and of the functions Python calls; loader.py compares it with its own.
constexpr int kInterface = 2;

extern "C" {

enum InvolutionDtype { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };
enum InvolutionOperator { kForward = 0, kInputGradient = 1, kKernelGradient = 2 };

struct InvolutionProblem {
  std::int64_t dtype;
  std::int64_t batch, groups, group_channels;
  std::int64_t in[3], out[3], taps[3];
  std::int64_t stride[3], padding[3], dilation[3];
  std::int64_t x[5];  // input side: batch, channel, depth, height, width
  std::int64_t f[8];  // field: batch, group, taps in depth, height, width, then pixels in depth, height, width
  std::int64_t y[5];  // output side, as x
};

// What happens to a result before it is written: a bias is added, a batch norm in evaluation applied, and negatives
// become zero. One value per channel each, contiguous. The bias may be null; mean and variance are where there is no
// norm; so may the norm's weight and offset be.
struct InvolutionLast {
  const void *bias, *mean, *variance, *weight, *offset;
  double epsilon;
  std::int64_t relu;
};

// The matrix that makes the field of a call: field[n] = bias[n] + Σ_c weight[n, c] · hidden[c] at every output pixel,
// n over groups and taps. Weight and bias are contiguous; the bias may be null.
struct InvolutionSpan {
  const void* hidden;
  const void* weight;
  const void* bias;
  std::int64_t channels;
  std::int64_t h[5];  // hidden: batch, channel, depth, height, width
  InvolutionLast last;
};

// Where the gradients of a call with a span go: that of the value, of hidden (with their strides), of weight and bias
// (contiguous; the bias may be null).
struct InvolutionSpanGradients {
  void* input;
  void* hidden;
  void* weight;
  void* bias;
  std::int64_t x[5], h[5];
};

// A batch norm with batch statistics over dense channels_last maps, a residual added and ReLU applied.
struct InvolutionNorm {
  std::int64_t dtype;
  std::int64_t pixels, channels;
  std::int64_t relu;
  double epsilon, momentum;
};

// Values per channel: mean to offset are results, the running ones are updated (or null). The residual may be null.
struct InvolutionNormForward {
  void *x, *residual, *weight, *bias, *running_mean, *running_var;
  void *y, *mean, *inverse, *scale, *offset;
};

// y is only read where there was a residual, and may be null otherwise; so may dresidual.
struct InvolutionNormBackward {
  void *dy, *x, *y, *mean, *inverse, *scale, *offset;
  void *dx, *dresidual, *dweight, *dbias;
};

// A 1×1 convolution without padding, y[n] = Σ_c weight[n, c] · x[c], then bias, norm, residual and ReLU. The weight is
// contiguous, the residual may be null.
struct InvolutionPointwise {
  std::int64_t dtype;
  std::int64_t batch, in_channels, out_channels;
  std::int64_t out[3], stride[3];
  std::int64_t x[5], y[5], r[5];  // batch, channel, depth, height, width
};
}
