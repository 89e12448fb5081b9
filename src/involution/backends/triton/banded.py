"""Kernel generation and multiply-add in one kernel, both on tensor cores, for half precision at stride 1.

Pixels of an image are numbered through and taken in blocks of 16. For one row of taps, the weights of a block form a
banded 16×32 matrix: pixel m meets input n of the 32 around it through tap n − m. The matrix comes from a product
(hidden pixels times the row's eight padded columns of the span) whose columns are rotated by m modulo 8; what lies
outside the band, or in another row of the map, is multiplied by zero. The field is never in memory.

So an infinite or undefined value reaches all pixels of the 16-pixel blocks whose 32 inputs hold it, where the other
kernels confine it to the windows that hold it.

Kept until a GPU decides; so far its worth is counted, not timed. *For it*: the field, by far the most of the bytes, is
neither written nor read. For RedNet-50's sixteen involutions (batch 64, bfloat16) the bytes take 92 µs instead of 344 at
4.3 TB/s, and the instructions, which then decide, about 350 µs instead of 560, since tensor cores do the products.
*Against it*: it serves no float32, stride 1 and 16 channels a group alone, spreads NaN, and saves nothing in training,
where the backward pass makes the field in any case. *What decides*: ``make gpu``, section "operators": the rows "fused
forward" beside "generation and strips" of the same stage, batch and dtype. Where it is faster by three percent or more it
serves without being asked; where it nowhere is, this file, banded_launch.py and ``INVOLUTION_TRITON_FUSED`` go.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

from .tiles import widen

# The interpreter computes with bfloat16's bits as if they were integers.
INTERPRETED: tl.constexpr = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def add_product(total, a, b):
    """Return ``total`` plus the matrix product of two half-precision tiles, in float32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def forward(
    X, Hidden, Span, Bias, Y,
    height, width,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, BLOCKS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write ``Y = involution(X, Span · Hidden + Bias)`` for maps (B, H, W, C) whose channels lie together.

    ``Span`` is (G, KH, 8, C_hidden) and ``Bias`` (G, KH, 8), each row of taps padded to eight. A program takes
    ``BLOCKS`` blocks of 16 pixels and one of ``PARTS`` shares of the groups. ``WIDE`` is whether offsets within one
    image need 64 bits.
    """
    pixels = height * width
    tiles = (pixels + BLOCKS * 16 - 1) // (BLOCKS * 16)
    part = tl.program_id(0) % PARTS
    tile = widen((tl.program_id(0) // PARTS) % tiles, WIDE)
    b = (tl.program_id(0) // PARTS // tiles).to(tl.int64)
    X += b * pixels * (GROUPS * CHANNELS)
    Y += b * pixels * (GROUPS * CHANNELS)
    Hidden += b * pixels * HIDDEN
    local = tl.arange(0, BLOCKS * 16)
    p = tile * (BLOCKS * 16) + local
    hidden = tl.arange(0, BLOCK_HIDDEN)
    eight = tl.arange(0, 8)
    c = tl.arange(0, CHANNELS)[None, None, :]
    block = tile * (BLOCKS * 16) + tl.arange(0, BLOCKS)[:, None] * 16
    m = tl.arange(0, 16)
    n = tl.arange(0, 32)
    r = tl.load(
        Hidden + p[:, None] * HIDDEN + hidden[None, :],
        mask=(p < pixels)[:, None] & (hidden < HIDDEN)[None, :],
        other=0.0,
    )
    # Column n of pixel m holds tap (n − m) mod 8.
    rotation = (eight[None, :] - local[:, None]) & 7
    y_pixel = (block + m[None, :])[:, :, None]
    tap = tl.broadcast_to(n[None, None, :] - m[None, :, None], (BLOCKS, 16, 32))
    column = y_pixel % width + tap - KW // 2
    band = tl.where((tap >= 0) & (tap < KW) & (column >= 0) & (column < width), 1.0, 0.0)
    x_pixel = (block + n[None, :] - KW // 2)[:, :, None]
    for index in tl.range(GROUPS // PARTS):
        g = part * (GROUPS // PARTS) + index
        total = tl.zeros((BLOCKS, 16, CHANNELS), dtype=tl.float32)
        for u in tl.range(KH):
            row = (g * KH + u) * 8 + eight
            span = tl.load(Span + row[None, :] * HIDDEN + hidden[:, None], mask=(hidden < HIDDEN)[:, None], other=0.0)
            weights = add_product(tl.zeros((BLOCKS * 16, 8), dtype=tl.float32), r, span)
            weights += tl.load(Bias + row).to(tl.float32)[None, :]
            weights = tl.reshape(tl.gather(weights, rotation, axis=1), (BLOCKS, 16, 1, 8))
            weights = tl.reshape(tl.broadcast_to(weights, (BLOCKS, 16, 4, 8)), (BLOCKS, 16, 32))
            # Rows above and below the map are masked here: their pixels have no number.
            q = x_pixel + (u - KH // 2) * width
            x = tl.load(X + q * (GROUPS * CHANNELS) + g * CHANNELS + c, mask=(q >= 0) & (q < pixels), other=0.0)
            total = add_product(total, (weights * band).to(X.dtype.element_ty), x)
        y = Y + y_pixel * (GROUPS * CHANNELS) + g * CHANNELS + c
        tl.store(y, total.to(Y.dtype.element_ty), mask=y_pixel < pixels)
