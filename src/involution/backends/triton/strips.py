"""The three contractions at stride 1 without dilation along the rows: what one pixel's load serves stays in registers.

A program takes strips of four neighbouring pixels of a row. Each loaded pixel meets every pixel of the strip whose
window holds it, so K + 3 loads serve 4·K taps of a row. Otherwise as taps.py.

Kept until a GPU decides; so far its worth is counted, not timed. *For it*: the multiply-add is bound by the instructions
it issues, not by its bytes, which are those of taps.py. With K = 7 four pixels load 10 pixels of the map for a row of
taps instead of 28 (and 28 weights in either case); counted in the machine code of an H200, RedNet-50's sixteen
involutions (batch 64, bfloat16) issue for about 560 µs instead of 770, their bytes taking 344. *Against it*: four sums
per thread instead of one, and so at most 9 columns and, in the kernel gradient, 64 channels a group, and every
contraction written a second time. *What decides*: ``make gpu``, section "operators", bfloat16 at batch 64: the rows
"strips …" beside "taps …" of the same contraction and order of the field, at each of the four stages. A contraction that
is nowhere faster by three percent goes from here and from `serves_strips`; when all three have gone, so has this file.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    ANY_VALUE,
    assignment,
    channels_of,
    load_pixels,
    load_weights,
    locate_strip,
    pixel_offset,
    row_inside,
    row_offset,
    store_pixels,
    widen,
)

STRIP = 4


@triton.jit(do_not_specialize=ANY_VALUE)
def forward(
    X, Kernel, Y,
    strips, groups, rows,
    depth, height, width, out_depth, out_height, out_width,
    x_b, x_c, x_d, x_h, X_W: tl.constexpr,
    k_b, k_g, k_t, k_u, k_v, k_d, k_h, k_w,
    y_b, y_c, y_d, y_h, y_w,
    CHANNELS: tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    VOLUME: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """See `Backend.forward`; ``BLOCK_PIXELS`` counts strips of output pixels."""
    s, g, block = assignment(strips, groups, BLOCK_PIXELS, (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS, WIDE)
    b, z, i, j, inside0, inside1, inside2, inside3 = locate_strip(s, strips, out_depth, out_height, out_width, VOLUME)
    channel, in_group = channels_of(g, block, CHANNELS, BLOCK_CHANNELS)
    z0, i0, j0 = z * SD - PD, i * SH - PH, j - PW
    x_pixel = X + pixel_offset(b, z0, i0, j0, x_b, x_d, x_h, X_W)[:, None] + channel * x_c
    weight = Kernel + pixel_offset(b, z, i, j, k_b, k_d, k_h, k_w) + g * k_g
    total0 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total1 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total2 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total3 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    tap = widen(k_v, WIDE)
    # From a pixel's tap to its right neighbour's tap that reads the same input pixel.
    slant = widen(k_w, WIDE) - tap
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = row_inside(inside0, z0 + t * DD, i0 + u * DH, depth, height, VOLUME)
            x_row = x_pixel + row_offset(t * DD, u * DH, x_d, x_h, WIDE)
            w_row = weight + row_offset(t, u, k_t, k_u, WIDE)
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < width)
                x = load_pixels(x_row + n * X_W, reads, in_group)
                w = w_row + n * tap
                if n < KW:
                    total0 += load_weights(w, reads) * x
                if (n >= 1) and (n < KW + 1):
                    total1 += load_weights(w + slant, reads & inside1) * x
                if (n >= 2) and (n < KW + 2):
                    total2 += load_weights(w + 2 * slant, reads & inside2) * x
                if n >= 3:
                    total3 += load_weights(w + 3 * slant, reads & inside3) * x
    y_pixel = Y + pixel_offset(b, z, i, j, y_b, y_d, y_h, y_w)[:, None] + channel * y_c
    right = widen(y_w, WIDE)
    store_pixels(y_pixel, total0, inside0, in_group)
    store_pixels(y_pixel + right, total1, inside1, in_group)
    store_pixels(y_pixel + 2 * right, total2, inside2, in_group)
    store_pixels(y_pixel + 3 * right, total3, inside3, in_group)


@triton.jit(do_not_specialize=ANY_VALUE)
def input_gradient(
    X, Kernel, Y,
    strips, groups, rows,
    depth, height, width, out_depth, out_height, out_width,
    x_b, x_c, x_d, x_h, x_w,
    k_b, k_g, k_t, k_u, k_v, k_d, k_h, k_w,
    y_b, y_c, y_d, y_h, Y_W: tl.constexpr,
    CHANNELS: tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    VOLUME: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """See `Backend.input_gradient`; strips of input pixels, at stride 1 in every dimension.

    Input column j + r is read by output column j + p − (K − 1) + n through tap v = r + K − 1 − n.
    """
    s, g, block = assignment(strips, groups, BLOCK_PIXELS, (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS, WIDE)
    b, z, i, j, inside0, inside1, inside2, inside3 = locate_strip(s, strips, depth, height, width, VOLUME)
    channel, in_group = channels_of(g, block, CHANNELS, BLOCK_CHANNELS)
    z0, i0, j0 = z + PD, i + PH, j + PW - (KW - 1)
    y_pixel = Y + pixel_offset(b, z0, i0, j0, y_b, y_d, y_h, Y_W)[:, None] + channel * y_c
    tap = widen(k_v, WIDE)
    slant = widen(k_w, WIDE) - tap
    weight = Kernel + pixel_offset(b, z0, i0, j0, k_b, k_d, k_h, k_w) + (g * k_g + (KW - 1) * tap)
    total0 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total1 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total2 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total3 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = row_inside(inside0, z0 - t * DD, i0 - u * DH, out_depth, out_height, VOLUME)
            y_row = y_pixel - row_offset(t * DD, u * DH, y_d, y_h, WIDE)
            # The next row of taps belongs to the window that starts a row above.
            w_row = weight + (row_offset(t, u, k_t, k_u, WIDE) - row_offset(t * DD, u * DH, k_d, k_h, WIDE))
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < out_width)
                y = load_pixels(y_row + n * Y_W, reads, in_group)
                w = w_row + n * slant
                if n < KW:
                    total0 += load_weights(w, reads) * y
                if (n >= 1) and (n < KW + 1):
                    total1 += load_weights(w + tap, reads & inside1) * y
                if (n >= 2) and (n < KW + 2):
                    total2 += load_weights(w + 2 * tap, reads & inside2) * y
                if n >= 3:
                    total3 += load_weights(w + 3 * tap, reads & inside3) * y
    x_pixel = X + pixel_offset(b, z, i, j, x_b, x_d, x_h, x_w)[:, None] + channel * x_c
    right = widen(x_w, WIDE)
    store_pixels(x_pixel, total0, inside0, in_group)
    store_pixels(x_pixel + right, total1, inside1, in_group)
    store_pixels(x_pixel + 2 * right, total2, inside2, in_group)
    store_pixels(x_pixel + 3 * right, total3, inside3, in_group)


@triton.jit(do_not_specialize=ANY_VALUE)
def kernel_gradient(
    X, Kernel, Y,
    strips, groups, rows,
    depth, height, width, out_depth, out_height, out_width,
    x_b, x_c, x_d, x_h, X_W: tl.constexpr,
    k_b, k_g, k_t, k_u, k_v, k_d, k_h, k_w,
    y_b, y_c, y_d, y_h, y_w,
    CHANNELS: tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PD: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DD: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    VOLUME: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """See `Backend.kernel_gradient`; strips of output pixels, all channels of a group in one block."""
    s, g, _ = assignment(strips, groups, BLOCK_PIXELS, 1, WIDE)
    b, z, i, j, inside0, inside1, inside2, inside3 = locate_strip(s, strips, out_depth, out_height, out_width, VOLUME)
    channel, in_group = channels_of(g, 0, CHANNELS, BLOCK_CHANNELS)
    z0, i0, j0 = z * SD - PD, i * SH - PH, j - PW
    x_pixel = X + pixel_offset(b, z0, i0, j0, x_b, x_d, x_h, X_W)[:, None] + channel * x_c
    y_pixel = Y + pixel_offset(b, z, i, j, y_b, y_d, y_h, y_w)[:, None] + channel * y_c
    weight = Kernel + pixel_offset(b, z, i, j, k_b, k_d, k_h, k_w) + g * k_g
    right = widen(y_w, WIDE)
    y0 = load_pixels(y_pixel, inside0, in_group)
    y1 = load_pixels(y_pixel + right, inside1, in_group)
    y2 = load_pixels(y_pixel + 2 * right, inside2, in_group)
    y3 = load_pixels(y_pixel + 3 * right, inside3, in_group)
    tap = widen(k_v, WIDE)
    slant = widen(k_w, WIDE) - tap
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = row_inside(inside0, z0 + t * DD, i0 + u * DH, depth, height, VOLUME)
            x_row = x_pixel + row_offset(t * DD, u * DH, x_d, x_h, WIDE)
            w_row = weight + row_offset(t, u, k_t, k_u, WIDE)
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < width)
                x = load_pixels(x_row + n * X_W, reads, in_group)
                w = w_row + n * tap
                if n < KW:
                    store_tap(w, y0 * x, reads, inside0)
                if (n >= 1) and (n < KW + 1):
                    store_tap(w + slant, y1 * x, reads, inside1)
                if (n >= 2) and (n < KW + 2):
                    store_tap(w + 2 * slant, y2 * x, reads, inside2)
                if n >= 3:
                    store_tap(w + 3 * slant, y3 * x, reads, inside3)


@triton.jit
def store_tap(pointer, products, reads, inside):
    """Store the sum over channels; a tap outside the map has no gradient, even where the output's is infinite."""
    total = tl.where(reads, tl.sum(products, axis=1), 0.0)
    tl.store(pointer, total.to(pointer.dtype.element_ty), mask=inside)
