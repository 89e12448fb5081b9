"""What the kernels are measured against: the usual plain CUDA kernel, unfold, shifts, cuDNN's convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_TYPES = {
    torch.float32: ("float", "return v;", "return v;"),
    torch.bfloat16: (
        "unsigned short",
        "return __uint_as_float((unsigned)v << 16);",
        "unsigned u = __float_as_uint(v); return (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);",
    ),
    torch.float16: (
        "unsigned short",
        'float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v)); return f;',
        'unsigned short h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v)); return h;',
    ),
}
_SOURCE = """
__device__ __forceinline__ float load({type} v) {{ {load} }}
__device__ __forceinline__ {type} store(float v) {{ {store} }}

extern "C" __global__ void involution({type}* y, const {type}* x, const {type}* h, int n) {{
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= n) return;
  int column = index % {width}, row = (index / {width}) % {height};
  int channel = (index / {width} / {height}) % {channels}, image = index / {width} / {height} / {channels};
  int group = channel / {group_channels};
  float sum = 0.f;
  for (int u = 0; u < {taps}; ++u)
    for (int v = 0; v < {taps}; ++v) {{
      int i = row + u - {taps} / 2, j = column + v - {taps} / 2;
      if (i >= 0 && i < {height} && j >= 0 && j < {width}) {{
        int weight = (((image * {groups} + group) * {taps} + u) * {taps} + v) * {height} * {width};
        sum += load(h[weight + row * {width} + column])
             * load(x[((image * {channels} + channel) * {height} + i) * {width} + j]);
      }}
    }}
  y[index] = store(sum);
}}
"""


def plain_source(x: Tensor, h: Tensor) -> str:
    """Return the source of one thread per output for contiguous (B, C, H, W), stride 1, "same" padding."""
    type_, load, store = _TYPES[x.dtype]
    return _SOURCE.format(
        type=type_, load=load, store=store, width=x.shape[3], height=x.shape[2], channels=x.shape[1],
        groups=h.shape[1], group_channels=x.shape[1] // h.shape[1], taps=h.shape[2],
    )  # fmt: skip


def plain_cuda(x: Tensor, h: Tensor) -> Callable[[], Tensor]:
    """Return a call of the plain kernel: one thread per output, as the public implementations do it."""
    y = torch.empty_like(x)
    blocks = -(-x.numel() // 256)

    @lru_cache(maxsize=1)
    def kernel() -> Callable[[], None]:
        return _compiled(plain_source(x, h), (blocks, 1, 1), y, x, h)

    def call() -> Tensor:
        kernel()()
        return y

    return call


def _compiled(source: str, grid: tuple[int, int, int], y: Tensor, x: Tensor, h: Tensor) -> Callable[[], None]:
    """Compile by PyTorch's NVRTC, which looks for CUDA's headers; where it finds none, by CuPy's."""
    block, count = (256, 1, 1), x.numel()
    try:
        ours = torch.cuda._compile_kernel(source, "involution")
        return lambda: ours(grid=grid, block=block, args=[y, x, h, count])
    except Exception as error:
        try:
            import cupy
        except ImportError:
            raise error from None
        theirs = cupy.RawKernel(source, "involution")

        def call() -> None:
            with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
                theirs(grid, block, (y.data_ptr(), x.data_ptr(), h.data_ptr(), cupy.int32(count)))

        return call


def unfold(x: Tensor, h: Tensor) -> Tensor:
    """Return the involution by im2col, as most implementations do it."""
    batch, channels, height, width = x.shape
    groups, taps = h.shape[1], h.shape[2]
    columns = F.unfold(x, taps, padding=taps // 2).view(batch, groups, channels // groups, taps * taps, height, width)
    return (columns * h.flatten(2, 3).unsqueeze(2)).sum(3).view(batch, channels, height, width)


def shifts(x: Tensor, h: Tensor) -> Tensor:
    """Return the involution as a sum over shifted maps: what a compiler can fuse into one kernel."""
    groups, taps, (height, width) = h.shape[1], h.shape[2], x.shape[2:]
    padded = F.pad(x, (taps // 2,) * 4).unflatten(1, (groups, -1))
    total = torch.zeros_like(x, dtype=torch.float32).unflatten(1, (groups, -1))
    for u in range(taps):
        for v in range(taps):
            total = total + padded[..., u : u + height, v : v + width].float() * h[:, :, None, u, v].float()
    return total.flatten(1, 2).to(x.dtype)
