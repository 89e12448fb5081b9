// Half-precision values in memory, and copies between tensors of any layout and the small float arrays the kernels read.
#pragma once

#include "vector.h"

namespace INVOLUTION_ISA {

struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

template <class A, class B>
inline A same_bits(B b) {
  static_assert(sizeof(A) == sizeof(B), "sizes differ");
  A a;
  std::memcpy(&a, &b, sizeof(a));
  return a;
}

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(bfloat16 v) { return same_bits<float>(std::uint32_t(v.bits) << 16); }

#if defined(__AVX2__)
inline float widen(float16 v) { return _cvtsh_ss(v.bits); }
#elif defined(__ARM_FP16_FORMAT_IEEE)
inline float widen(float16 v) { return float(same_bits<__fp16>(v.bits)); }
#else
inline float widen(float16 v) {
  const std::uint32_t sign = std::uint32_t(v.bits & 0x8000u) << 16, rest = v.bits & 0x7fffu;
  // Multiplying by 2^112 moves the exponent and normalises subnormal numbers.
  const std::uint32_t finite = same_bits<std::uint32_t>(same_bits<float>(rest << 13) * same_bits<float>(0x77800000u));
  return same_bits<float>(sign | (rest >= 0x7c00u ? 0x7f800000u | (rest << 13) : finite));
}
#endif

inline void narrow(float v, float& out) { out = v; }
inline void narrow(double v, double& out) { out = v; }

inline void narrow(float v, bfloat16& out) {
  const std::uint32_t bits = same_bits<std::uint32_t>(v);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

#if defined(__AVX2__)
inline void narrow(float v, float16& out) { out.bits = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__ARM_FP16_FORMAT_IEEE)
inline void narrow(float v, float16& out) { out.bits = same_bits<std::uint16_t>(__fp16(v)); }
#else
inline void narrow(float v, float16& out) {
  const std::uint32_t bits = same_bits<std::uint32_t>(v), magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Adding 0.5 lets the addition itself round to the spacing of subnormal halves, 2^-24.
    half = same_bits<std::uint32_t>(same_bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out.bits = std::uint16_t((bits >> 16 & 0x8000u) | half);
}
#endif

// The type sums are kept in.
template <class S>
using accumulator = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class S>
constexpr bool kDirect = std::is_same_v<S, accumulator<S>>;

template <class S>
inline void load_run(const S* from, accumulator<S>* to, i64 n) {
  i64 i = 0;
#if defined(__AVX2__) && !defined(INVOLUTION_WITHOUT_VECTOR_CONVERSIONS)
  if constexpr (std::is_same_v<S, float16>) {
    for (; i + 8 <= n; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
  }
#endif
  for (; i < n; i++) to[i] = widen(from[i]);
}

template <class S>
inline void store_run(const accumulator<S>* from, S* to, i64 n) {
  i64 i = 0;
#if defined(__AVX2__) && !defined(INVOLUTION_WITHOUT_VECTOR_CONVERSIONS)
  if constexpr (std::is_same_v<S, float16>) {
    for (; i + 8 <= n; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    }
  }
#endif
  for (; i < n; i++) narrow(from[i], to[i]);
}

// N values in memory as accumulators, and back.
template <class S, int N>
inline vec_t<accumulator<S>, N> load_wide(const S* from) {
  if constexpr (kDirect<S>) {
    return vec<S, N>::load(from);
  } else if constexpr (N == 1) {
    return widen(*from);
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    using bits = vec_t<std::uint32_t, N>;
    // GCC 12 widens in pieces if it is not told the instruction.
#if defined(__AVX512F__)
    if constexpr (N == 16) {
      const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      return (vec_t<float, N>)((bits)_mm512_maskz_cvtepu16_epi32(0xffff, sixteen) << 16);
    }
#endif
#if defined(__AVX2__)
    if constexpr (N == 8) {
      const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      return (vec_t<float, N>)((bits)_mm256_cvtepu16_epi32(eight) << 16);
    }
#endif
    const auto halves = vec<std::uint16_t, N>::load(reinterpret_cast<const std::uint16_t*>(from));
    return (vec_t<float, N>)(__builtin_convertvector(halves, bits) << 16);
  } else {
#if defined(__AVX512F__)
    // With a mask of all lanes: GCC 12 warns of its own header otherwise.
    if constexpr (N == 16) return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
    float wide[N];
    load_run(from, wide, N);
    return vec<float, N>::load(wide);
  }
}

template <class S, int N>
inline void store_narrow(vec_t<accumulator<S>, N> v, S* to) {
  if constexpr (kDirect<S>) {
    vec<S, N>::store(to, v);
  } else if constexpr (N == 1) {
    narrow(v, *to);
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    // As `narrow`: to the nearest, ties to even; NaN stays NaN.
    using bits = vec_t<std::uint32_t, N>;
    const bits all = (bits)v, rounded = (all + 0x7fffu + ((all >> 16) & 1u)) >> 16;
    const bits kept = (all & 0x7fffffffu) > 0x7f800000u ? (all >> 16) | 0x40u : rounded;
    vec<std::uint16_t, N>::store(reinterpret_cast<std::uint16_t*>(to), __builtin_convertvector(kept, vec_t<std::uint16_t, N>));
  } else {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
      const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
      return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
    }
#endif
    float wide[N];
    vec<float, N>::store(wide, v);
    store_run(wide, to, N);
  }
}

// An N×N block whose row r lies at from + r·step, as accumulators.
template <class S, int N>
inline void load_block(const S* from, i64 step, vec_t<accumulator<S>, N> (&block)[N]) {
#pragma GCC unroll 16
  for (int r = 0; r < N; r++) block[r] = load_wide<S, N>(from + r * step);
}

// N rows of m values, element (i, j) at i + j·from_j. The last block moves back over what is done already.
template <class S, int N>
inline void gather_rows(const S* from, i64 from_j, accumulator<S>* to, i64 to_i, i64 m) {
  using A = accumulator<S>;
  if (m >= N) {
    for (i64 j = 0; j < m; j += N) {
      const i64 at = smaller(j, m - N);
      vec_t<A, N> block[N];
      load_block<S, N>(from + at * from_j, from_j, block);
      transpose<A, N>(block);
#pragma GCC unroll 16
      for (int r = 0; r < N; r++) vec<A, N>::store(to + r * to_i + at, block[r]);
    }
  } else if constexpr (N > 4) {
    gather_rows<S, N / 2>(from, from_j, to, to_i, m);
    gather_rows<S, N / 2>(from + N / 2, from_j, to + N / 2 * to_i, to_i, m);
  } else {
    for (i64 j = 0; j < m; j++) {
      for (int r = 0; r < N; r++) to[r * to_i + j] = widen(from[r + j * from_j]);
    }
  }
}

// Copies an n×m matrix (element (i, j) at i·from_i + j·from_j) to rows of m values, row i at i·to_i.
template <class S>
inline void gather(const S* from, i64 from_i, i64 from_j, accumulator<S>* to, i64 to_i, i64 n, i64 m) {
  constexpr int N = kLanes<accumulator<S>>;
  if (from_j == 1) {
    for (i64 i = 0; i < n; i++) load_run(from + i * from_i, to + i * to_i, m);
    return;
  }
  i64 i = 0;
  if (from_i == 1) {
    for (; i + N <= n; i += N) gather_rows<S, N>(from + i, from_j, to + i * to_i, to_i, m);
    if constexpr (N > 8) {
      for (; i + 8 <= n; i += 8) gather_rows<S, 8>(from + i, from_j, to + i * to_i, to_i, m);
    }
    if constexpr (N > 4) {
      for (; i + 4 <= n; i += 4) gather_rows<S, 4>(from + i, from_j, to + i * to_i, to_i, m);
    }
  }
  for (; i < n; i++) {
    for (i64 j = 0; j < m; j++) to[i * to_i + j] = widen(from[i * from_i + j * from_j]);
  }
}

// N rows of m values, row i at i·from_i, to element (i, j) at i + j·to_j.
template <class S, int N>
inline void scatter_rows(const accumulator<S>* from, i64 from_i, S* to, i64 to_j, i64 m) {
  using A = accumulator<S>;
  if (m >= N) {
    for (i64 j = 0; j < m; j += N) {
      const i64 at = smaller(j, m - N);
      vec_t<A, N> block[N];
      load_block<A, N>(from + at, from_i, block);
      transpose<A, N>(block);
#pragma GCC unroll 16
      for (int r = 0; r < N; r++) store_narrow<S, N>(block[r], to + (at + r) * to_j);
    }
  } else if constexpr (N > 4) {
    scatter_rows<S, N / 2>(from, from_i, to, to_j, m);
    scatter_rows<S, N / 2>(from + N / 2 * from_i, from_i, to + N / 2, to_j, m);
  } else {
    for (i64 j = 0; j < m; j++) {
      for (int r = 0; r < N; r++) narrow(from[r * from_i + j], to[r + j * to_j]);
    }
  }
}

// The way back: rows of m values, row i at i·from_i, to element (i, j) at i·to_i + j·to_j.
template <class S>
inline void scatter(const accumulator<S>* from, i64 from_i, S* to, i64 to_i, i64 to_j, i64 n, i64 m) {
  constexpr int N = kLanes<accumulator<S>>;
  if (to_j == 1) {
    for (i64 i = 0; i < n; i++) store_run(from + i * from_i, to + i * to_i, m);
    return;
  }
  if (to_i == 1 && n >= 4) {
    // As the columns, the last rows move back over what is done already.
    auto rows = [&](auto size) {
      constexpr int block = decltype(size)::value;
      for (i64 i = 0; i < n; i += block) {
        const i64 at = smaller(i, n - block);
        scatter_rows<S, block>(from + at * from_i, from_i, to + at, to_j, m);
      }
    };
    if constexpr (N > 8) {
      if (n >= N) return rows(std::integral_constant<int, N>{});
    }
    if constexpr (N > 4) {
      if (n >= 8) return rows(std::integral_constant<int, 8>{});
    }
    if (N == 2) return rows(std::integral_constant<int, 2>{});
    return rows(std::integral_constant<int, 4>{});
  }
  for (i64 i = 0; i < n; i++) {
    for (i64 j = 0; j < m; j++) narrow(from[i * from_i + j], to[i * to_i + j * to_j]);
  }
}

}  // namespace INVOLUTION_ISA
