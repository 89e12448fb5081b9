// The forward pass without a kernel field in memory.
#include <vector>

#include "dispatch.h"
#include "fused.h"

namespace INVOLUTION_ISA {
namespace {

// A vector of parameters in the type of the sums.
template <class S>
const accumulator<S>* widened(const void* values, i64 n, std::vector<accumulator<S>>& room) {
  if (kDirect<S> || !values) return static_cast<const accumulator<S>*>(values);
  room.resize(std::size_t(n));
  load_run(static_cast<const S*>(values), room.data(), n);
  return room.data();
}

template <class S>
void run_as(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y,
            const InvolutionParallel& parallel) {
  std::vector<accumulator<S>> scales, offsets;
  const i64 channels = p.groups * p.group_channels;
  const Affine<accumulator<S>> affine{widened<S>(span.epilogue.scale, channels, scales),
                                      widened<S>(span.epilogue.offset, channels, offsets), span.epilogue.relu != 0};
  span_and_contract_as<S, false>(p, span, affine, static_cast<const S*>(x), static_cast<S*>(y), parallel);
}

}  // namespace

void span_and_contract(const InvolutionProblem& p, const void* x, const InvolutionSpan& span, void* y,
                       const InvolutionParallel& parallel) {
  switch (p.dtype) {
    case kFloat32: return run_as<float>(p, x, span, y, parallel);
    case kFloat64: return run_as<double>(p, x, span, y, parallel);
    case kBFloat16: return run_as<bfloat16>(p, x, span, y, parallel);
    default: return run_as<float16>(p, x, span, y, parallel);
  }
}

}  // namespace INVOLUTION_ISA
