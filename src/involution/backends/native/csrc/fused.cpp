// The forward pass without a kernel field in memory.
#include "dispatch.h"
#include "fused.h"

namespace INVOLUTION_ISA {
namespace {

template <class S>
void run_as(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y, i64 threads) {
  const auto affine = Affine<accumulator<S>>::of(span.epilogue);
  SpanAndContract<S, false>{p, span, affine, {p, static_cast<const S*>(x), nullptr, static_cast<S*>(y)}}.run(threads);
}

}  // namespace

void span_and_contract(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y, i64 threads) {
  switch (p.dtype) {
    case kFloat32: return run_as<float>(p, x, span, y, threads);
    case kFloat64: return run_as<double>(p, x, span, y, threads);
    case kBFloat16: return run_as<bfloat16>(p, x, span, y, threads);
    default: return run_as<float16>(p, x, span, y, threads);
  }
}

}  // namespace INVOLUTION_ISA
