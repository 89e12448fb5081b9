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


@triton.jit
def locate(pixel, depth, height, width, VOLUME: tl.constexpr):
    """Return batch index and coordinates of a pixel's number; ``VOLUME`` is whether there is more than one plane."""
    column = pixel % width
    row = pixel // width
    if VOLUME:
        plane = row // height
        return plane // depth, plane % depth, row % height, column
    else:
        return row // height, row * 0, row % height, column


@triton.jit
def assignment(pixels, groups, BLOCK_PIXELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr, WIDE: tl.constexpr):
    """Return pixel numbers, group and channel block of this program; programs of one pixel tile follow each other.

    ``WIDE`` is whether offsets need 64 bits.
    """
    program = tl.program_id(0)
    block = program % CHANNEL_BLOCKS
    group = (program // CHANNEL_BLOCKS) % groups
    tile = program // CHANNEL_BLOCKS // groups
    if WIDE:
        tile = tile.to(tl.int64)
        group = group.to(tl.int64)
    return tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS), group, block


@triton.jit
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
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_group = (c < CHANNELS)[None, :]
    channel = (g * CHANNELS + c)[None, :]
    z0, i0, j0 = z * SD - PD, i * SH - PH, j * SW - PW
    x_pixel = X + (b * x_b + z0 * x_d + i0 * x_h + j0 * X_W)[:, None] + channel * x_c
    weight = Kernel + (b * k_b + z * k_d + i * k_h + j * k_w) + g * k_g
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = inside & (i0 + u * DH >= 0) & (i0 + u * DH < height)
            if VOLUME:
                row = row & (z0 + t * DD >= 0) & (z0 + t * DD < depth)
            x_row = x_pixel + (t * DD * x_d + u * DH * x_h)
            w_row = weight + (t * k_t + u * k_u)
            for v in tl.static_range(KW):
                # Outside the map neither is read, so that an infinite weight there meets no zero.
                reads = row & (j0 + v * DW >= 0) & (j0 + v * DW < width)
                w = tl.load(w_row + v * k_v, mask=reads, other=0.0).to(tl.float32)
                x = tl.load(x_row + v * DW * X_W, mask=reads[:, None] & in_group, other=0.0).to(tl.float32)
                total += w[:, None] * x
    y_pixel = Y + (b * y_b + z * y_d + i * y_h + j * y_w)[:, None] + channel * y_c
    tl.store(y_pixel, total.to(Y.dtype.element_ty), mask=inside[:, None] & in_group)


@triton.jit
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
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_group = (c < CHANNELS)[None, :]
    channel = (g * CHANNELS + c)[None, :]
    STEP_D: tl.constexpr = SD if DD == 1 else 1
    STEP_H: tl.constexpr = SH if DH == 1 else 1
    STEP_W: tl.constexpr = SW if DW == 1 else 1
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
            for v_step in tl.static_range((KW + STEP_W - 1) // STEP_W):
                v = (j + PW) % STEP_W + v_step * STEP_W
                column = j + PW - v * DW
                o_w = column // SW
                reads = reads_line & (v < KW) & (column >= 0) & (o_w < out_width) & (o_w * SW == column)
                w = tl.load(w_row + (v * k_v + o_w * k_w), mask=reads, other=0.0).to(tl.float32)
                y = tl.load(y_row + (o_w * Y_W)[:, None], mask=reads[:, None] & in_group, other=0.0).to(tl.float32)
                total += w[:, None] * y
    x_pixel = X + (b * x_b + z * x_d + i * x_h + j * x_w)[:, None] + channel * x_c
    tl.store(x_pixel, total.to(X.dtype.element_ty), mask=inside[:, None] & in_group)


@triton.jit
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
    c = tl.arange(0, BLOCK_CHANNELS)
    channel = (g * CHANNELS + c)[None, :]
    z0, i0, j0 = z * SD - PD, i * SH - PH, j * SW - PW
    x_pixel = X + (b * x_b + z0 * x_d + i0 * x_h + j0 * X_W)[:, None] + channel * x_c
    y_pixel = Y + (b * y_b + z * y_d + i * y_h + j * y_w)[:, None] + channel * y_c
    weight = Kernel + (b * k_b + z * k_d + i * k_h + j * k_w) + g * k_g
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    first = tl.load(y_pixel, mask=inside[:, None] & (c < CHANNELS)[None, :], other=0.0).to(tl.float32)
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = inside & (i0 + u * DH >= 0) & (i0 + u * DH < height)
            if VOLUME:
                row = row & (z0 + t * DD >= 0) & (z0 + t * DD < depth)
            x_row = x_pixel + (t * DD * x_d + u * DH * x_h)
            w_row = weight + (t * k_t + u * k_u)
            for v in tl.static_range(KW):
                reads = row & (j0 + v * DW >= 0) & (j0 + v * DW < width)
                x_tap = x_row + v * DW * X_W
                x = tl.load(x_tap, mask=reads[:, None] & (c < CHANNELS)[None, :], other=0.0).to(tl.float32)
                total = tl.sum(first * x, axis=1)
                for block in tl.range(1, BLOCKS):
                    shift = block * BLOCK_CHANNELS
                    more = inside[:, None] & (c + shift < CHANNELS)[None, :]
                    y = tl.load(y_pixel + shift * y_c, mask=more, other=0.0).to(tl.float32)
                    x = tl.load(x_tap + shift * x_c, mask=more & reads[:, None], other=0.0).to(tl.float32)
                    total += tl.sum(y * x, axis=1)
                # A tap outside the map has no gradient, even where the output's is infinite.
                total = tl.where(reads, total, 0.0)
                tl.store(w_row + v * k_v, total.to(Kernel.dtype.element_ty), mask=inside)
