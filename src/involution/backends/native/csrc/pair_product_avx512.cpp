// Products of bfloat16 by AVX-512's dot products of pairs, for machines without AMX.
#include <immintrin.h>

#include <cstring>

#include "dispatch.h"

namespace avx512_bf16 {
namespace {

constexpr int kLanes = 16;

// R rows and NV vectors of columns.
template <int R, int NV>
void block(const InvolutionPairProduct& q, std::int64_t row, std::int64_t column) {
  __m512 sums[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    const std::uint32_t bias = q.bias ? std::uint32_t(q.bias[row + r]) << 16 : 0;
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) sums[r][n] = _mm512_castsi512_ps(_mm512_set1_epi32(int(bias)));
  }
  const std::uint16_t* weight = q.weight + row * q.channels;
  const std::uint32_t* pairs = q.pairs + column;
  for (std::int64_t k = 0; k < q.channels; k += 2, pairs += q.width) {
    __m512bh hidden[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) hidden[n] = (__m512bh)_mm512_loadu_si512(pairs + n * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      int pair;
      std::memcpy(&pair, weight + r * q.channels + k, sizeof(pair));
      const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) sums[r][n] = _mm512_dpbf16_ps(sums[r][n], hidden[n], value);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) _mm512_storeu_ps(q.out + (row + r) * q.width + column + n * kLanes, sums[r][n]);
  }
}

template <int NV>
void columns(const InvolutionPairProduct& q, std::int64_t column) {
  // Seven rows of taps at a time: the paper's windows have 7·7.
  std::int64_t row = 0;
  for (; row + 7 <= q.rows; row += 7) block<7, NV>(q, row, column);
  for (; row < q.rows; row++) block<1, NV>(q, row, column);
}

}  // namespace

void pair_product(const InvolutionPairProduct& q) {
  std::int64_t m = 0;
  for (; q.width - m > 4 * kLanes || q.width - m == 3 * kLanes; m += 3 * kLanes) columns<3>(q, m);
  for (; q.width - m >= 2 * kLanes; m += 2 * kLanes) columns<2>(q, m);
  for (; q.width - m >= kLanes; m += kLanes) columns<1>(q, m);
}

}  // namespace avx512_bf16
