// Calls of engines other than PyTorch, checked: the operators of the ONNX domain "involution" over dense arrays.
#pragma once

#include <stdexcept>

#include "dispatch.h"

namespace engine {

struct Operator {
  const char* name;
  int inputs, required;
  const char* input_names[kInvolutionInputs];
};

// In the order of InvolutionEngineOperator.
constexpr int kOperatorCount = 3;
extern const Operator kOperators[kOperatorCount];

// What was refused, in a sentence.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the exported functions of these names do; they throw Refusal.
void check(const InvolutionCall& call);
void prepare(InvolutionCall& call);
void compute(const InvolutionCall& call, const InvolutionParallel& parallel);

}  // namespace engine

INVOLUTION_EXPORT InvolutionCheck involution_check;
INVOLUTION_EXPORT InvolutionPrepare involution_prepare;
INVOLUTION_EXPORT InvolutionCompute involution_compute;
