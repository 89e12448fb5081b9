// The kernels for engines other than PyTorch, such as ONNX Runtime and OpenVINO: what the library exports for them, in C
// and with dense arrays only.
#pragma once

#include <cstdint>

// Counts the changes of what the library exports, here and in csrc; what loads it compares the number with its own.
constexpr int kInterface = 7;

extern "C" {

enum InvolutionDtype { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Who computes a call: boxes are cut for so many threads, and `run` calls body(task, i) for every i in [0, count), in any
// order, on the threads of a pool that belongs to the caller, and returns when all are done. Null: OpenMP's threads.
struct InvolutionParallel {
  std::int64_t threads;
  void (*run)(void* pool, std::int64_t count, void (*body)(void* task, std::int64_t i), void* task);
  void* pool;
};

// The operators of the ONNX domain "involution" and their inputs, for maps of one to three spatial dimensions.
enum InvolutionEngineOperator {
  // value (B, C, H, W), hidden (B, C_hidden, H', W'), weight (G·K·K, C_hidden, 1, 1), and as far as they are there bias
  // (G·K·K), scale (C) and offset (C); gives relu(scale · Y + offset) (B, C, H', W').
  kInvolution = 0,
  // input (B, C, H, W), field (B, G, K, K, H', W'); gives (B, C, H', W'). Takes groups and kernel size from the field.
  kInvolutionOfField = 1,
  // query (B, C, H', W'), key (B, C, H, W); gives the field (B, G, K, K, H', W').
  kCorrelation = 2,
};
constexpr int kInvolutionInputs = 6, kInvolutionDims = 8;

// A tensor without gaps, its last dimension together in memory. One that is optional and missing has no `size`.
struct InvolutionArray {
  const void* data;
  std::int64_t dims;
  const std::int64_t* size;
};

// An attribute of one number per spatial dimension; no more than these are kept.
struct InvolutionNumbers {
  std::int64_t count, at[3];
};

struct InvolutionCall {
  std::int64_t op, dtype;
  std::int64_t groups, relu;
  InvolutionNumbers kernel_size, stride, padding, dilation;
  InvolutionArray inputs[kInvolutionInputs];
  // Set by involution_prepare.
  std::int64_t output_dims, output_size[kInvolutionDims];
  // Room for so many values, for involution_compute.
  void* output;
};

// All return 0, or 1 after they wrote into `sentence`, of `room` bytes, what was expected, what came and what to do.

// The attributes alone, which are known before any input is.
typedef int InvolutionCheck(const InvolutionCall* call, char* sentence, std::int64_t room);
// Attributes and sizes of inputs, whose data may be missing; gives the size of the output.
typedef int InvolutionPrepare(InvolutionCall* call, char* sentence, std::int64_t room);
// A call that was prepared.
typedef int InvolutionCompute(const InvolutionCall* call, const InvolutionParallel* parallel, char* sentence,
                              std::int64_t room);
// Exported as involution_check, involution_prepare and involution_compute; `int involution_interface()` gives kInterface.
}
