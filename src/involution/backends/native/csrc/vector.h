// Vectors of the width the instruction set at hand has, written with the vector extension of GCC and Clang, so that
// one source serves every instruction set. Everything lives in the namespace of the instruction set it was compiled
// for: a function shared between two of them could be linked in the wrong one's code.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef INVOLUTION_ISA
#error "compile with -DINVOLUTION_ISA=<name of the instruction set>"
#endif

namespace INVOLUTION_ISA {

using i64 = std::int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
constexpr int kLanes = kVectorBytes / int(sizeof(A));

inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
inline i64 larger(i64 a, i64 b) { return a > b ? a : b; }
inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 floor_div(i64 a, i64 b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// vec<A, N>: N values of A, loaded from and stored to any address of an A.
template <class A, int N>
struct vec {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
  typedef A loose __attribute__((vector_size(N * sizeof(A)), aligned(alignof(A)), may_alias));
  static type load(const A* p) { return *reinterpret_cast<const loose*>(p); }
  static void store(A* p, type v) { *reinterpret_cast<loose*>(p) = v; }
};

template <class A>
struct vec<A, 1> {
  typedef A type;
  static type load(const A* p) { return *p; }
  static void store(A* p, type v) { *p = v; }
};

template <class A, int N>
using vec_t = typename vec<A, N>::type;

template <class A, int N, int... I>
inline vec_t<A, N> shuffled(vec_t<A, N> a, vec_t<A, N> b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  using lane = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;
  typedef lane mask __attribute__((vector_size(N * sizeof(A))));
  return __builtin_shuffle(a, b, mask{lane(I)...});
#endif
}

// Of each segment of `Segment` lanes of a and b: the Half-th half of a's, then the Half-th half of b's.
template <int Segment, int Half, int... I>
constexpr auto halves(std::integer_sequence<int, I...>) {
  constexpr int half = Segment / 2, n = sizeof...(I);
  return std::integer_sequence<int, (I / Segment * Segment + Half * half + I % half + (I % Segment >= half ? n : 0))...>{};
}

template <class A, int N, int Segment, int Half>
inline vec_t<A, N> take(vec_t<A, N> a, vec_t<A, N> b) {
  return shuffled<A, N>(a, b, halves<Segment, Half>(std::make_integer_sequence<int, N>{}));
}

// Sums of N vectors at once: lane j of the result is the sum of the lanes of v[j]. The vectors are used up.
template <class A, int N, int Segment = N>
inline vec_t<A, N> sums(vec_t<A, N>* v) {
  if constexpr (Segment == 1) {
    return v[0];
  } else {
    constexpr int half = Segment / 2;
#pragma GCC unroll 16
    for (int j = 0; j < half; j++) {
      v[j] = take<A, N, Segment, 0>(v[j], v[j + half]) + take<A, N, Segment, 1>(v[j], v[j + half]);
    }
    return sums<A, N, half>(v);
  }
}

template <class A, int N, int Segment>
inline vec_t<A, N> sum_halves(vec_t<A, N> v) {
  if constexpr (Segment == 1) {
    return v;
  } else {
    return sum_halves<A, N, Segment / 2>(take<A, N, Segment, 0>(v, v) + take<A, N, Segment, 1>(v, v));
  }
}

template <class A, int N>
inline A sum(vec_t<A, N> v) {
  if constexpr (N == 1) {
    return v;
  } else {
    return sum_halves<A, N, N>(v)[0];
  }
}

// Transposes the N×N matrix whose rows are v[0..N).
template <class A, int N, int Segment = N>
inline void transpose(vec_t<A, N>* v) {
  if constexpr (Segment > 1) {
    constexpr int half = Segment / 2;
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) {
      if (j % Segment < half) {
        const vec_t<A, N> first = take<A, N, Segment, 0>(v[j], v[j + half]);
        v[j + half] = take<A, N, Segment, 1>(v[j], v[j + half]);
        v[j] = first;
      }
    }
    transpose<A, N, half>(v);
  }
}

}  // namespace INVOLUTION_ISA
