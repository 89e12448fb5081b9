// The instruction sets that were compiled, and the choice among them.
#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(INVOLUTION_PAIR_PRODUCTS)
#include <cpuid.h>
#endif

namespace {

struct InstructionSet {
  const char* name;
  bool (*available)();
  InvolutionKernels kernels;
};

#define INVOLUTION_KERNELS(isa, pair_product) {isa::contract, isa::span_and_contract, isa::span_gradients, pair_product}

#if defined(INVOLUTION_X86)
bool avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

#if defined(INVOLUTION_PAIR_PRODUCTS)
// Leaf 7 says whether the processor has AMX-BF16 (bit 22) and AMX-TILE (bit 24).
bool amx_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
}
#endif

// In the order of preference, worst first.
const InstructionSet kInstructionSets[] = {
    {"baseline", [] { return true; }, INVOLUTION_KERNELS(baseline, nullptr)},
#if defined(INVOLUTION_X86)
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); },
     INVOLUTION_KERNELS(avx2, nullptr)},
    {"avx512", avx512, INVOLUTION_KERNELS(avx512, nullptr)},
#if defined(INVOLUTION_PAIR_PRODUCTS)
    {"avx512_bf16", [] { return avx512() && __builtin_cpu_supports("avx512bf16"); },
     INVOLUTION_KERNELS(avx512, avx512_bf16::pair_product)},
    {"amx", [] { return avx512() && amx_bf16() && amx::permitted(); }, INVOLUTION_KERNELS(avx512, amx::pair_product)},
#endif
#endif
};
constexpr int kCount = sizeof(kInstructionSets) / sizeof(kInstructionSets[0]);

// The best one, or the one that the environment names; Python refuses names that are not there.
const InvolutionKernels* initial() {
  const char* wanted = std::getenv("INVOLUTION_NATIVE_ISA");
  const InvolutionKernels* best = nullptr;
  for (const auto& set : kInstructionSets) {
    if (!set.available()) continue;
    best = &set.kernels;
    if (wanted && !std::strcmp(wanted, set.name)) break;
  }
  return best;
}

std::atomic<const InvolutionKernels*>& in_use() {
  static std::atomic<const InvolutionKernels*> kernels{initial()};
  return kernels;
}

}  // namespace

const InvolutionKernels& kernels() { return *in_use().load(std::memory_order_relaxed); }

INVOLUTION_EXPORT int involution_interface() { return kInterface; }

// The number of instruction sets compiled in; the name of each; whether this machine has it.
INVOLUTION_EXPORT int involution_isa_count() { return kCount; }
INVOLUTION_EXPORT const char* involution_isa_name(int isa) { return kInstructionSets[isa].name; }
INVOLUTION_EXPORT int involution_isa_available(int isa) { return kInstructionSets[isa].available(); }

// The kernels in use, and others in their place, those of another build for instance.
INVOLUTION_EXPORT const void* involution_kernels() { return &kernels(); }
INVOLUTION_EXPORT void involution_use_kernels(const void* kernels) {
  in_use() = static_cast<const InvolutionKernels*>(kernels);
}
