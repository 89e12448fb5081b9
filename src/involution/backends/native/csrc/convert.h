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

// An N×N block whose row r lies at from + r·step, as accumulators.
template <class S, int N>
inline void load_block(const S* from, i64 step, vec_t<accumulator<S>, N> (&block)[N]) {
  using A = accumulator<S>;
#pragma GCC unroll 16
  for (int r = 0; r < N; r++) {
    if constexpr (std::is_same_v<S, A>) {
      block[r] = vec<A, N>::load(from + r * step);
    } else {
      A wide[N];
      load_run(from + r * step, wide, N);
      block[r] = vec<A, N>::load(wide);
    }
  }
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

template <class S, int N>
inline void store_vector(vec_t<accumulator<S>, N> v, S* to) {
  using A = accumulator<S>;
  if constexpr (std::is_same_v<S, A>) {
    vec<A, N>::store(to, v);
  } else {
    A wide[N];
    vec<A, N>::store(wide, v);
    store_run(wide, to, N);
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
      for (int r = 0; r < N; r++) store_vector<S, N>(block[r], to + (at + r) * to_j);
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
