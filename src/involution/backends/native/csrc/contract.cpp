// The three contractions for one instruction set.
#include "accumulate.h"
#include "dispatch.h"
#include "kernel_gradient.h"

namespace INVOLUTION_ISA {
namespace {

template <class S>
void contract_as(int op, const InvolutionProblem& p, void* x, void* f, void* y, i64 threads) {
  S *xs = static_cast<S*>(x), *fs = static_cast<S*>(f), *ys = static_cast<S*>(y);
  if (op == kForward) {
    Accumulation<S, false>{p, xs, fs, ys}.run(threads);
  } else if (op == kInputGradient) {
    Accumulation<S, true>{p, ys, fs, xs}.run(threads);
  } else {
    KernelGradient<S>{p, xs, ys, fs}.run(threads);
  }
}

}  // namespace

void contract(int op, const InvolutionProblem& p, void* x, void* f, void* y, i64 threads) {
  switch (p.dtype) {
    case kFloat32: return contract_as<float>(op, p, x, f, y, threads);
    case kFloat64: return contract_as<double>(op, p, x, f, y, threads);
    case kBFloat16: return contract_as<bfloat16>(op, p, x, f, y, threads);
    default: return contract_as<float16>(op, p, x, f, y, threads);
  }
}

}  // namespace INVOLUTION_ISA
