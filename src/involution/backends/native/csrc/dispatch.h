// What every instruction set provides.
#pragma once

#include <cstdint>

#include "problem.h"

#define INVOLUTION_DECLARE(isa)                                                                             \
  namespace isa {                                                                                           \
  void contract(int op, const InvolutionProblem& p, void* x, void* f, void* y, std::int64_t threads);       \
  void span_and_contract(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y,    \
                         std::int64_t threads);                                                             \
  void span_gradients(const InvolutionProblem& p, const void* x, const void* dy, const InvolutionSpan& span,       \
                      const InvolutionSpanGradients& to, std::int64_t threads);                                 \
  void pointwise(const InvolutionPointwise& p, const void* x, const void* weight, const InvolutionLast& last, \
                 const void* residual, void* y, std::int64_t threads);                                      \
  void norm_forward(const InvolutionNorm& p, const InvolutionNormForward& t, std::int64_t threads);         \
  void norm_backward(const InvolutionNorm& p, const InvolutionNormBackward& t, std::int64_t threads);       \
  }

INVOLUTION_DECLARE(baseline)
INVOLUTION_DECLARE(avx2)
INVOLUTION_DECLARE(avx512)
