// One call of a kernel: 64-bit integers only, strides in elements, dimensions depth, height, width.
// Maps of fewer dimensions have leading sizes of 1.
#pragma once

#include <cstdint>

#include "../include/involution_engine.h"

extern "C" {

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

// What happens to a result before it is written: relu(scale · y + offset), one value per channel each, contiguous and
// of the tensors' dtype, or null.
struct InvolutionEpilogue {
  const void *scale, *offset;
  std::int64_t relu;
};

// out[n][m] = bias[n] + Σ_k weight[n][k] · hidden[k][m] of bfloat16, summed in float32: `rows` of `channels` weights and
// biases (or null), contiguous; the channels of hidden in pairs, the first in the low half of pairs[k / 2 · width + m].
// The number of channels is even, the width a multiple of 16.
struct InvolutionPairProduct {
  const std::uint16_t* weight;
  const std::uint16_t* bias;
  std::int64_t rows, channels;
  const std::uint32_t* pairs;
  std::int64_t width;
  float* out;
};

// The matrix that makes the field of a call: field[n] = bias[n] + Σ_c weight[n, c] · hidden[c] at every output pixel,
// n over groups and taps. Weight and bias are contiguous; the bias may be null.
struct InvolutionSpan {
  const void* hidden;
  const void* weight;
  const void* bias;
  std::int64_t channels;
  std::int64_t h[5];  // hidden: batch, channel, depth, height, width
  InvolutionEpilogue epilogue;
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
}
