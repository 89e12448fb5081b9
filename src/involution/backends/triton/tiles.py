"""What the contractions have in common: which pixels, group and channels a program has, and where their values lie.

Pixels of the whole batch are numbered through, so that small maps fill their tiles. Offsets are 32-bit where all of a
tensor's are; ``WIDE`` is whether they need 64 bits: numbers and coordinates of pixels, groups and channels have them
then, and everything else that is multiplied by a stride has to be widened first.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes and most of the field's strides: nothing that the compiler could make of their values (one, a multiple of 16)
# helps, and a kernel compiled for one size of map serves them all.
ANY_VALUE = (
    "pixels", "strips", "groups", "depth", "height", "width", "out_depth", "out_height", "out_width",
    "k_b", "k_g", "k_t", "k_u", "k_d", "k_h",
)  # fmt: skip


@triton.jit
def widen(value, WIDE: tl.constexpr):
    """Return ``value`` with as many bits as offsets need."""
    if WIDE:
        return tl.cast(value, tl.int64)
    else:
        return value


@triton.jit
def assignment(pixels, groups, BLOCK_PIXELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr, WIDE: tl.constexpr):
    """Return pixel numbers, group and channel block of this program; programs of one pixel tile follow each other."""
    program = tl.program_id(0)
    block = program % CHANNEL_BLOCKS
    group = widen((program // CHANNEL_BLOCKS) % groups, WIDE)
    tile = widen(program // CHANNEL_BLOCKS // groups, WIDE)
    return tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS), group, block


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
def locate_strip(strip, strips, depth, height, width, VOLUME: tl.constexpr):
    """Return batch index and coordinates of a strip's first pixel, and for each of the four whether it is in the map."""
    b, z, i, j = locate(strip, depth, height, (width + 3) // 4, VOLUME)
    j = j * 4
    inside = strip < strips
    return b, z, i, j, inside, inside & (j + 1 < width), inside & (j + 2 < width), inside & (j + 3 < width)


@triton.jit
def channels_of(group, block, CHANNELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Return numbers of the channels of a block and whether they belong to the group of ``CHANNELS``, as rows."""
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return (group * CHANNELS + c)[None, :], (c < CHANNELS)[None, :]


@triton.jit
def pixel_offset(b, z, i, j, s_b, s_d, s_h, s_w):
    """Return where a pixel lies in a tensor of these strides; coordinates may be outside the map."""
    return b * s_b + z * s_d + i * s_h + j * s_w


@triton.jit
def row_offset(t, u, s_t, s_u, WIDE: tl.constexpr):
    """Return how far the row of taps (or of pixels) ``(t, u)`` lies from the first one."""
    return widen(t, WIDE) * s_t + widen(u, WIDE) * s_u


@triton.jit
def row_inside(inside, z, i, depth, height, VOLUME: tl.constexpr):
    """Return for which pixels of ``inside`` the row of pixels ``(z, i)`` is in the map."""
    reads = inside & (i >= 0) & (i < height)
    if VOLUME:
        reads = reads & (z >= 0) & (z < depth)
    return reads


@triton.jit
def load_weights(pointer, mask):
    """Return one weight per pixel in float32, as a column."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)[:, None]


@triton.jit
def load_pixels(pointer, mask, in_group):
    """Return the channels of each pixel in float32."""
    return tl.load(pointer, mask=mask[:, None] & in_group, other=0.0).to(tl.float32)


@triton.jit
def store_pixels(pointer, value, mask, in_group):
    """Round once and store the channels of each pixel."""
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask[:, None] & in_group)
