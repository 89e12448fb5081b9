// Products of bfloat16 by AMX: tiles of 16 rows (taps) times 16 columns (pixels), 32 channels at a time.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dispatch.h"

namespace amx {
namespace {

constexpr int kRows = 16, kColumns = 16, kMostChannels = 32;

// Which tile registers hold what beside the sums: 0 to 2 those of whole blocks of rows, 3 those of one that is not whole.
// The intrinsics put the number into the instruction as text.
#define TILE_WEIGHTS 4
#define TILE_LAST_WEIGHTS 5
#define TILE_HIDDEN 6

struct alignas(64) Palette {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  // `step` channels at a time; the last rows are `rest` of 16.
  Palette(int step, int rest) {
    for (int sum = 0; sum < 4; sum++) shape(sum, sum < 3 ? kRows : rest, kColumns * 4);
    shape(TILE_WEIGHTS, kRows, step * 2);
    shape(TILE_LAST_WEIGHTS, rest, step * 2);
    shape(TILE_HIDDEN, step / 2, kColumns * 4);
  }

 private:
  void shape(int tile, int tile_rows, int bytes) {
    if (tile_rows == 0) return;
    rows[tile] = std::uint8_t(tile_rows);
    row_bytes[tile] = std::uint16_t(bytes);
  }
};
static_assert(sizeof(Palette) == 64, "the processor reads 64 bytes");

// `Whole` blocks of 16 rows from `row` on, and one of fewer rows if `Last`; `start` holds their biases.
template <int Whole, bool Last>
void rows(const InvolutionPairProduct& q, std::int64_t row, int step, const float* start) {
  const std::int64_t out_bytes = q.width * 4, weight_bytes = q.channels * 2, block = kRows * q.channels;
  const std::uint16_t* const weight = q.weight + row * q.channels;
  for (std::int64_t m = 0; m < q.width; m += kColumns) {
    if constexpr (Whole > 0) _tile_loadd(0, start, kColumns * 4);
    if constexpr (Whole > 1) _tile_loadd(1, start + kRows * kColumns, kColumns * 4);
    if constexpr (Whole > 2) _tile_loadd(2, start + 2 * kRows * kColumns, kColumns * 4);
    if constexpr (Last) _tile_loadd(3, start + Whole * kRows * kColumns, kColumns * 4);
    const std::uint32_t* pairs = q.pairs + m;
    for (std::int64_t k = 0; k < q.channels; k += step, pairs += step / 2 * q.width) {
      _tile_loadd(TILE_HIDDEN, pairs, out_bytes);
      if constexpr (Whole > 0) {
        _tile_loadd(TILE_WEIGHTS, weight + k, weight_bytes);
        _tile_dpbf16ps(0, TILE_WEIGHTS, TILE_HIDDEN);
      }
      if constexpr (Whole > 1) {
        _tile_loadd(TILE_WEIGHTS, weight + block + k, weight_bytes);
        _tile_dpbf16ps(1, TILE_WEIGHTS, TILE_HIDDEN);
      }
      if constexpr (Whole > 2) {
        _tile_loadd(TILE_WEIGHTS, weight + 2 * block + k, weight_bytes);
        _tile_dpbf16ps(2, TILE_WEIGHTS, TILE_HIDDEN);
      }
      if constexpr (Last) {
        _tile_loadd(TILE_LAST_WEIGHTS, weight + Whole * block + k, weight_bytes);
        _tile_dpbf16ps(3, TILE_LAST_WEIGHTS, TILE_HIDDEN);
      }
    }
    float* const out = q.out + row * q.width + m;
    if constexpr (Whole > 0) _tile_stored(0, out, out_bytes);
    if constexpr (Whole > 1) _tile_stored(1, out + kRows * q.width, out_bytes);
    if constexpr (Whole > 2) _tile_stored(2, out + 2 * kRows * q.width, out_bytes);
    if constexpr (Last) _tile_stored(3, out + Whole * kRows * q.width, out_bytes);
  }
}

using Rows = void (*)(const InvolutionPairProduct&, std::int64_t, int, const float*);
// By whether a block that is not whole follows, and by the number of whole ones.
constexpr Rows kKinds[2][4] = {{nullptr, rows<1, false>, rows<2, false>, rows<3, false>},
                               {rows<0, true>, rows<1, true>, rows<2, true>, rows<3, true>}};

}  // namespace

// Linux lends the tile registers, 8 KiB of a thread's state, to processes that ask for them.
bool permitted() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

void pair_product(const InvolutionPairProduct& q) {
  // All steps are alike: the largest even divisor of the number of channels that a tile holds.
  int step = kMostChannels;
  while (q.channels % step) step -= 2;
  const Palette palette(step, int(q.rows % kRows));
  _tile_loadconfig(&palette);
  alignas(64) float start[4 * kRows * kColumns];
  for (std::int64_t row = 0; row < q.rows;) {
    const std::int64_t left = q.rows - row;
    const int whole = left >= 3 * kRows ? 3 : int(left / kRows);
    const bool last = left % kRows != 0 && left < 4 * kRows;
    const std::int64_t count = last ? left : whole * kRows;
    for (std::int64_t r = 0; r < count; r++) {
      const std::uint32_t bias = q.bias ? std::uint32_t(q.bias[row + r]) << 16 : 0;
      _mm512_store_ps(start + r * kColumns, _mm512_castsi512_ps(_mm512_set1_epi32(int(bias))));
    }
    // The compiler does not know that loading a tile reads memory.
    asm volatile("" ::"r"(start), "r"(&palette) : "memory");
    kKinds[last][whole](q, row, step, start);
    row += count;
  }
  _tile_release();
}

}  // namespace amx
