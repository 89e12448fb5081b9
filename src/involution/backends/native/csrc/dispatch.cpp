// The functions Python calls, and the choice of the instruction set.
#include "dispatch.h"

#include <cstring>
#include <exception>

namespace {

struct InstructionSet {
  const char* name;
  bool (*available)();
  decltype(&baseline::contract) contract;
  decltype(&baseline::span_and_contract) span_and_contract;
  decltype(&baseline::span_gradients) span_gradients;
};

#define INVOLUTION_FUNCTIONS(isa) isa::contract, isa::span_and_contract, isa::span_gradients

// In the order of preference, worst first.
const InstructionSet kInstructionSets[] = {
    {"baseline", [] { return true; }, INVOLUTION_FUNCTIONS(baseline)},
#if defined(INVOLUTION_X86)
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); },
     INVOLUTION_FUNCTIONS(avx2)},
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
     },
     INVOLUTION_FUNCTIONS(avx512)},
#endif
};
constexpr int kCount = sizeof(kInstructionSets) / sizeof(kInstructionSets[0]);

}  // namespace

#if defined(_WIN32)
#define INVOLUTION_EXPORT extern "C" __declspec(dllexport)
#else
#define INVOLUTION_EXPORT extern "C" __attribute__((visibility("default")))
#endif

INVOLUTION_EXPORT int involution_interface() { return kInterface; }

// The number of instruction sets compiled in; the name of each; whether this machine has it.
INVOLUTION_EXPORT int involution_isa_count() { return kCount; }
INVOLUTION_EXPORT const char* involution_isa_name(int isa) { return kInstructionSets[isa].name; }
INVOLUTION_EXPORT int involution_isa_available(int isa) { return kInstructionSets[isa].available(); }

// Returns 0, or 1 when scratch memory could not be had.
INVOLUTION_EXPORT int involution_contract(int isa, int op, const InvolutionProblem* problem, void* x, void* f, void* y, int threads) {
  try {
    kInstructionSets[isa].contract(op, *problem, x, f, y, threads);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// Forward with the field made on the way: span->hidden and the rest are filled from the arguments.
INVOLUTION_EXPORT int involution_span_and_contract(int isa, const InvolutionProblem* problem, const std::int64_t* hidden_layout,
                                                   const void* x, const void* hidden, const void* weight,
                                                   const void* bias, const InvolutionEpilogue* epilogue, void* y, int threads) {
  InvolutionSpan span{hidden, weight, bias, hidden_layout[0], {}, *epilogue};
  std::memcpy(span.h, hidden_layout + 1, sizeof(span.h));
  try {
    kInstructionSets[isa].span_and_contract(*problem, x, span, y, threads);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// The gradients of that: layouts are the channels and strides of hidden, the strides of its gradient, and those of the
// value's gradient.
INVOLUTION_EXPORT int involution_span_gradients(int isa, const InvolutionProblem* problem, const std::int64_t* layouts,
                                                const void* x, const void* dy, const void* hidden, const void* weight,
                                                const void* bias, void* dx, void* dhidden, void* dweight, void* dbias,
                                                int threads) {
  InvolutionSpan span{hidden, weight, bias, layouts[0], {}, {}};
  InvolutionSpanGradients to{dx, dhidden, dweight, dbias, {}, {}};
  std::memcpy(span.h, layouts + 1, sizeof(span.h));
  std::memcpy(to.h, layouts + 6, sizeof(to.h));
  std::memcpy(to.x, layouts + 11, sizeof(to.x));
  try {
    kInstructionSets[isa].span_gradients(*problem, x, dy, span, to, threads);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
