"""The three contractions for every geometry: one program per tile of pixels and block of channels, one step per tap.

Maps are (B, C, D, H, W) and fields (B, G, KD, KH, KW, D', H', W') here: one and two dimensions have leading ones.
Tensors are read and written through their strides, so every layout is served in place; where channels lie together a
load takes 16 bytes. Pixels of the whole batch are numbered through, so small maps fill their tiles. Every result is
gathered by one program, in a fixed order: no atomics, the same bits every time.

The number of rows of taps is a run-time value, ``rows``: compilers that know it unroll them all and run out of registers.
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
    locate,
    pixel_offset,
    row_inside,
    row_offset,
    store_pixels,
    widen,
)


@triton.jit(do_not_specialize=ANY_VALUE)
def forward(
    X, Kernel, Y,
    pixels, groups, rows,
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
    """See `Backend.forward`; a tile of output pixels, ``CHANNELS`` are those of a group."""
    p, g, block = assignment(pixels, groups, BLOCK_PIXELS, (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS, WIDE)
    b, z, i, j = locate(p, out_depth, out_height, out_width, VOLUME)
    inside = p < pixels
    channel, in_group = channels_of(g, block, CHANNELS, BLOCK_CHANNELS)
    z0, i0, j0 = z * SD - PD, i * SH - PH, j * SW - PW
    x_pixel = X + pixel_offset(b, z0, i0, j0, x_b, x_d, x_h, X_W)[:, None] + channel * x_c
    weight = Kernel + pixel_offset(b, z, i, j, k_b, k_d, k_h, k_w) + g * k_g
    tap = widen(k_v, WIDE)
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = row_inside(inside, z0 + t * DD, i0 + u * DH, depth, height, VOLUME)
            x_row = x_pixel + row_offset(t * DD, u * DH, x_d, x_h, WIDE)
            w_row = weight + row_offset(t, u, k_t, k_u, WIDE)
            for v in tl.static_range(KW):
                # Outside the map neither is read, so that an infinite weight there meets no zero.
                reads = row & (j0 + v * DW >= 0) & (j0 + v * DW < width)
                total += load_weights(w_row + v * tap, reads) * load_pixels(x_row + v * DW * X_W, reads, in_group)
    y_pixel = Y + pixel_offset(b, z, i, j, y_b, y_d, y_h, y_w)[:, None] + channel * y_c
    store_pixels(y_pixel, total, inside, in_group)


@triton.jit(do_not_specialize=ANY_VALUE)
def input_gradient(
    X, Kernel, Y,
    pixels, groups, rows,
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
    """See `Backend.input_gradient`; a tile of input pixels, which gathers from the windows that read it.

    ``X`` is the gradient to write, ``Y`` the output's. Output row o reads input row h through tap u where
    s·o = h + p − d·u. Without dilation only every s-th tap can: the first is (h + p) mod s.
    """
    p, g, block = assignment(pixels, groups, BLOCK_PIXELS, (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS, WIDE)
    b, z, i, j = locate(p, depth, height, width, VOLUME)
    inside = p < pixels
    channel, in_group = channels_of(g, block, CHANNELS, BLOCK_CHANNELS)
    STEP_D: tl.constexpr = SD if DD == 1 else 1
    STEP_H: tl.constexpr = SH if DH == 1 else 1
    STEP_W: tl.constexpr = SW if DW == 1 else 1
    COLUMNS: tl.constexpr = (KW + STEP_W - 1) // STEP_W
    # More columns than this at a time do not fit into the registers.
    UNROLLED: tl.constexpr = COLUMNS if COLUMNS < 16 else 16
    y_group = Y + (b * y_b)[:, None] + channel * y_c
    w_group = Kernel + b * k_b + g * k_g
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    for t_step in tl.range((KD + STEP_D - 1) // STEP_D):
        t = (z + PD) % STEP_D + t_step * STEP_D
        plane = z + PD - t * DD
        # Truncation and floor agree from zero on, and below zero the mask decides.
        o_d = plane // SD
        reads_plane = inside & (t < KD) & (plane >= 0) & (o_d < out_depth) & (o_d * SD == plane)
        for u_step in tl.range(rows):
            u = (i + PH) % STEP_H + u_step * STEP_H
            line = i + PH - u * DH
            o_h = line // SH
            reads_line = reads_plane & (u < KH) & (line >= 0) & (o_h < out_height) & (o_h * SH == line)
            y_row = y_group + (o_d * y_d + o_h * y_h)[:, None]
            w_row = w_group + (t * k_t + u * k_u + o_d * k_d + o_h * k_h)
            for first in tl.range(0, COLUMNS, UNROLLED):
                for n in tl.static_range(UNROLLED):
                    v = (j + PW) % STEP_W + (first + n) * STEP_W
                    column = j + PW - v * DW
                    o_w = column // SW
                    reads = reads_line & (v < KW) & (column >= 0) & (o_w < out_width) & (o_w * SW == column)
                    w = load_weights(w_row + (v * k_v + o_w * k_w), reads)
                    total += w * load_pixels(y_row + (o_w * Y_W)[:, None], reads, in_group)
    x_pixel = X + pixel_offset(b, z, i, j, x_b, x_d, x_h, x_w)[:, None] + channel * x_c
    store_pixels(x_pixel, total, inside, in_group)


@triton.jit(do_not_specialize=ANY_VALUE)
def kernel_gradient(
    X, Kernel, Y,
    pixels, groups, rows,
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
    """See `Backend.kernel_gradient`; a tile of output pixels and all channels of a group, ``Kernel`` is written."""
    p, g, _ = assignment(pixels, groups, BLOCK_PIXELS, 1, WIDE)
    b, z, i, j = locate(p, out_depth, out_height, out_width, VOLUME)
    inside = p < pixels
    channel, in_group = channels_of(g, 0, CHANNELS, BLOCK_CHANNELS)
    z0, i0, j0 = z * SD - PD, i * SH - PH, j * SW - PW
    x_pixel = X + pixel_offset(b, z0, i0, j0, x_b, x_d, x_h, X_W)[:, None] + channel * x_c
    y_pixel = Y + pixel_offset(b, z, i, j, y_b, y_d, y_h, y_w)[:, None] + channel * y_c
    weight = Kernel + pixel_offset(b, z, i, j, k_b, k_d, k_h, k_w) + g * k_g
    tap = widen(k_v, WIDE)
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    first = load_pixels(y_pixel, inside, in_group)
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = row_inside(inside, z0 + t * DD, i0 + u * DH, depth, height, VOLUME)
            x_row = x_pixel + row_offset(t * DD, u * DH, x_d, x_h, WIDE)
            w_row = weight + row_offset(t, u, k_t, k_u, WIDE)
            for v in tl.static_range(KW):
                reads = row & (j0 + v * DW >= 0) & (j0 + v * DW < width)
                x_tap = x_row + v * DW * X_W
                total = tl.sum(first * load_pixels(x_tap, reads, in_group), axis=1)
                for block in tl.range(1, BLOCKS):
                    more = channels_of(g, block, CHANNELS, BLOCK_CHANNELS)[1]
                    shift = widen(block * BLOCK_CHANNELS, WIDE)
                    y = load_pixels(y_pixel + shift * y_c, inside, more)
                    total += tl.sum(y * load_pixels(x_tap + shift * x_c, reads, more), axis=1)
                # A tap outside the map has no gradient, even where the output's is infinite.
                total = tl.where(reads, total, 0.0)
                tl.store(w_row + v * tap, total.to(Kernel.dtype.element_ty), mask=inside)
