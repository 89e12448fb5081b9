// The three contractions for one instruction set.
#include "accumulate.h"
#include "dispatch.h"
#include "kernel_gradient.h"

namespace INVOLUTION_ISA {
namespace {

template <class S>
void contract_as(int op, const InvolutionProblem& p, void* x, void* f, void* y, const InvolutionParallel& parallel) {
  S *xs = static_cast<S*>(x), *fs = static_cast<S*>(f), *ys = static_cast<S*>(y);
  if (op == kForward) {
    Accumulation<S, false>{p, xs, fs, ys}.run(parallel);
  } else if (op == kInputGradient) {
    Accumulation<S, true>{p, ys, fs, xs}.run(parallel);
  } else {
    KernelGradient<S>{p, xs, ys, fs}.run(parallel);
  }
}

}  // namespace

void contract(int op, const InvolutionProblem& p, void* x, void* f, void* y, const InvolutionParallel& parallel) {
  switch (p.dtype) {
    case kFloat32: return contract_as<float>(op, p, x, f, y, parallel);
    case kFloat64: return contract_as<double>(op, p, x, f, y, parallel);
    case kBFloat16: return contract_as<bfloat16>(op, p, x, f, y, parallel);
    default: return contract_as<float16>(op, p, x, f, y, parallel);
  }
}

}  // namespace INVOLUTION_ISA
