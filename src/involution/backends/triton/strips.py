"""The three contractions at stride 1 without dilation along the rows: what one pixel's load serves stays in registers.

A program takes strips of four neighbouring pixels of a row. Each loaded pixel meets every pixel of the strip whose
window holds it, so K + 3 loads serve 4·K taps of a row. Otherwise as taps.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .taps import assignment, locate

STRIP = 4


@triton.jit
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
    b, z, i, j = locate(s, out_depth, out_height, (out_width + 3) // 4, VOLUME)
    j = j * 4
    inside0 = s < strips
    inside1 = inside0 & (j + 1 < out_width)
    inside2 = inside0 & (j + 2 < out_width)
    inside3 = inside0 & (j + 3 < out_width)
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_group = (c < CHANNELS)[None, :]
    channel = (g * CHANNELS + c)[None, :]
    z0, i0, j0 = z * SD - PD, i * SH - PH, j - PW
    x_pixel = X + (b * x_b + z0 * x_d + i0 * x_h + j0 * X_W)[:, None] + channel * x_c
    weight = Kernel + (b * k_b + z * k_d + i * k_h + j * k_w) + g * k_g
    total0 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total1 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total2 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total3 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    # From a pixel's tap to its right neighbour's tap that reads the same input pixel.
    slant = k_w - k_v
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = inside0 & (i0 + u * DH >= 0) & (i0 + u * DH < height)
            if VOLUME:
                row = row & (z0 + t * DD >= 0) & (z0 + t * DD < depth)
            x_row = x_pixel + (t * DD * x_d + u * DH * x_h)
            w_row = weight + (t * k_t + u * k_u)
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < width)
                x = tl.load(x_row + n * X_W, mask=reads[:, None] & in_group, other=0.0).to(tl.float32)
                w = w_row + n * k_v
                if n < KW:
                    total0 += tl.load(w, mask=reads, other=0.0).to(tl.float32)[:, None] * x
                if (n >= 1) and (n < KW + 1):
                    total1 += tl.load(w + slant, mask=reads & inside1, other=0.0).to(tl.float32)[:, None] * x
                if (n >= 2) and (n < KW + 2):
                    total2 += tl.load(w + 2 * slant, mask=reads & inside2, other=0.0).to(tl.float32)[:, None] * x
                if n >= 3:
                    total3 += tl.load(w + 3 * slant, mask=reads & inside3, other=0.0).to(tl.float32)[:, None] * x
    y_pixel = Y + (b * y_b + z * y_d + i * y_h + j * y_w)[:, None] + channel * y_c
    tl.store(y_pixel, total0.to(Y.dtype.element_ty), mask=inside0[:, None] & in_group)
    tl.store(y_pixel + y_w, total1.to(Y.dtype.element_ty), mask=inside1[:, None] & in_group)
    tl.store(y_pixel + 2 * y_w, total2.to(Y.dtype.element_ty), mask=inside2[:, None] & in_group)
    tl.store(y_pixel + 3 * y_w, total3.to(Y.dtype.element_ty), mask=inside3[:, None] & in_group)


@triton.jit
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
    b, z, i, j = locate(s, depth, height, (width + 3) // 4, VOLUME)
    j = j * 4
    inside0 = s < strips
    inside1 = inside0 & (j + 1 < width)
    inside2 = inside0 & (j + 2 < width)
    inside3 = inside0 & (j + 3 < width)
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_group = (c < CHANNELS)[None, :]
    channel = (g * CHANNELS + c)[None, :]
    z0, i0, j0 = z + PD, i + PH, j + PW - (KW - 1)
    y_pixel = Y + (b * y_b + z0 * y_d + i0 * y_h + j0 * Y_W)[:, None] + channel * y_c
    weight = Kernel + (b * k_b + z0 * k_d + i0 * k_h + j0 * k_w) + (g * k_g + (KW - 1) * k_v)
    total0 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total1 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total2 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    total3 = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), dtype=tl.float32)
    slant = k_w - k_v
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = inside0 & (i0 - u * DH >= 0) & (i0 - u * DH < out_height)
            if VOLUME:
                row = row & (z0 - t * DD >= 0) & (z0 - t * DD < out_depth)
            y_row = y_pixel - (t * DD * y_d + u * DH * y_h)
            w_row = weight + (t * (k_t - DD * k_d) + u * (k_u - DH * k_h))
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < out_width)
                y = tl.load(y_row + n * Y_W, mask=reads[:, None] & in_group, other=0.0).to(tl.float32)
                w = w_row + n * slant
                if n < KW:
                    total0 += tl.load(w, mask=reads, other=0.0).to(tl.float32)[:, None] * y
                if (n >= 1) and (n < KW + 1):
                    total1 += tl.load(w + k_v, mask=reads & inside1, other=0.0).to(tl.float32)[:, None] * y
                if (n >= 2) and (n < KW + 2):
                    total2 += tl.load(w + 2 * k_v, mask=reads & inside2, other=0.0).to(tl.float32)[:, None] * y
                if n >= 3:
                    total3 += tl.load(w + 3 * k_v, mask=reads & inside3, other=0.0).to(tl.float32)[:, None] * y
    x_pixel = X + (b * x_b + z * x_d + i * x_h + j * x_w)[:, None] + channel * x_c
    tl.store(x_pixel, total0.to(X.dtype.element_ty), mask=inside0[:, None] & in_group)
    tl.store(x_pixel + x_w, total1.to(X.dtype.element_ty), mask=inside1[:, None] & in_group)
    tl.store(x_pixel + 2 * x_w, total2.to(X.dtype.element_ty), mask=inside2[:, None] & in_group)
    tl.store(x_pixel + 3 * x_w, total3.to(X.dtype.element_ty), mask=inside3[:, None] & in_group)


@triton.jit
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
    b, z, i, j = locate(s, out_depth, out_height, (out_width + 3) // 4, VOLUME)
    j = j * 4
    inside0 = s < strips
    inside1 = inside0 & (j + 1 < out_width)
    inside2 = inside0 & (j + 2 < out_width)
    inside3 = inside0 & (j + 3 < out_width)
    c = tl.arange(0, BLOCK_CHANNELS)
    in_group = (c < CHANNELS)[None, :]
    channel = (g * CHANNELS + c)[None, :]
    z0, i0, j0 = z * SD - PD, i * SH - PH, j - PW
    x_pixel = X + (b * x_b + z0 * x_d + i0 * x_h + j0 * X_W)[:, None] + channel * x_c
    y_pixel = Y + (b * y_b + z * y_d + i * y_h + j * y_w)[:, None] + channel * y_c
    weight = Kernel + (b * k_b + z * k_d + i * k_h + j * k_w) + g * k_g
    y0 = tl.load(y_pixel, mask=inside0[:, None] & in_group, other=0.0).to(tl.float32)
    y1 = tl.load(y_pixel + y_w, mask=inside1[:, None] & in_group, other=0.0).to(tl.float32)
    y2 = tl.load(y_pixel + 2 * y_w, mask=inside2[:, None] & in_group, other=0.0).to(tl.float32)
    y3 = tl.load(y_pixel + 3 * y_w, mask=inside3[:, None] & in_group, other=0.0).to(tl.float32)
    slant = k_w - k_v
    for t in tl.range(KD):
        for u in tl.range(rows):
            row = inside0 & (i0 + u * DH >= 0) & (i0 + u * DH < height)
            if VOLUME:
                row = row & (z0 + t * DD >= 0) & (z0 + t * DD < depth)
            x_row = x_pixel + (t * DD * x_d + u * DH * x_h)
            w_row = weight + (t * k_t + u * k_u)
            for n in tl.static_range(KW + 3):
                reads = row & (j0 + n >= 0) & (j0 + n < width)
                x = tl.load(x_row + n * X_W, mask=reads[:, None] & in_group, other=0.0).to(tl.float32)
                w = w_row + n * k_v
                # A tap outside the map has no gradient, even where the output's is infinite.
                if n < KW:
                    tap0 = tl.where(reads, tl.sum(y0 * x, axis=1), 0.0)
                    tl.store(w, tap0.to(Kernel.dtype.element_ty), mask=inside0)
                if (n >= 1) and (n < KW + 1):
                    tap1 = tl.where(reads, tl.sum(y1 * x, axis=1), 0.0)
                    tl.store(w + slant, tap1.to(Kernel.dtype.element_ty), mask=inside1)
                if (n >= 2) and (n < KW + 2):
                    tap2 = tl.where(reads, tl.sum(y2 * x, axis=1), 0.0)
                    tl.store(w + 2 * slant, tap2.to(Kernel.dtype.element_ty), mask=inside2)
                if n >= 3:
                    tap3 = tl.where(reads, tl.sum(y3 * x, axis=1), 0.0)
                    tl.store(w + 3 * slant, tap3.to(Kernel.dtype.element_ty), mask=inside3)
