// What every instruction set provides.
#pragma once

#include <cstdint>

#include "problem.h"

#define INVOLUTION_DECLARE(isa)                                                                             \
  namespace isa {                                                                                           \
  void contract(int op, const InvolutionProblem& p, void* x, void* f, void* y, const InvolutionParallel& parallel); \
  void span_and_contract(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y,    \
                         const InvolutionParallel& parallel);                                               \
  void span_gradients(const InvolutionProblem& p, const void* x, const void* dy, const InvolutionSpan& span,       \
                      const InvolutionSpanGradients& to, const InvolutionParallel& parallel);                   \
  }

INVOLUTION_DECLARE(baseline)
INVOLUTION_DECLARE(avx2)
INVOLUTION_DECLARE(avx512)

// bfloat16 products of pairs of channels, for which only some processors have instructions.
using PairProduct = void(const InvolutionPairProduct&);
namespace avx512_bf16 {
void pair_product(const InvolutionPairProduct&);
}
namespace amx {
void pair_product(const InvolutionPairProduct&);
// Whether the operating system lets this process use the tile registers; asks for them.
bool permitted();
}

struct InvolutionKernels {
  decltype(&baseline::contract) contract;
  decltype(&baseline::span_and_contract) span_and_contract;
  decltype(&baseline::span_gradients) span_gradients;
  PairProduct* pair_product;  // null where the machine has none
};

// Those in use.
const InvolutionKernels& kernels();

#if defined(_WIN32)
#define INVOLUTION_EXPORT extern "C" __declspec(dllexport)
#else
#define INVOLUTION_EXPORT extern "C" __attribute__((visibility("default")))
#endif
