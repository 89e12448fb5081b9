"""The geometries every backend is tested on, and tensors made for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from involution import functional
from involution.geometry import IntOrTuple, Padding, Window, to_tuple, to_window
from involution.memory_layout import empty_field, empty_map


@dataclass(frozen=True)
class Case:
    """One geometry of the operator; ``size`` has one entry per spatial dimension."""

    size: tuple[int, ...]
    kernel: IntOrTuple = 3
    stride: IntOrTuple = 1
    padding: Padding = "same"
    dilation: IntOrTuple = 1
    channels: int = 8
    groups: int = 2
    batch: int = 2

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return to_tuple(self.kernel, self.dims, "kernel")

    @property
    def window(self) -> Window:
        return to_window(self.kernel, self.stride, self.padding, self.dilation, self.dims)

    @property
    def output_size(self) -> tuple[int, ...]:
        return self.window.output_size(self.size)

    @property
    def parameters(self) -> dict:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def __str__(self) -> str:
        sizes = ["x".join(map(str, s)) if isinstance(s, tuple) else str(s) for s in (self.size, self.kernel)]
        return (
            f"{sizes[0]}-k{sizes[1]}-s{self.stride}-p{self.padding}-d{self.dilation}"
            f"-c{self.channels}-g{self.groups}-b{self.batch}"
        ).replace(" ", "")

    def tensors(self, dtype: torch.dtype = torch.float64, channels_last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return random input, kernel and output gradient."""
        x = torch.randn(self.batch, self.channels, *self.size, dtype=torch.float64)
        h = torch.randn(self.batch, self.groups, *self.kernel_size, *self.output_size, dtype=torch.float64)
        dy = torch.randn(self.batch, self.channels, *self.output_size, dtype=torch.float64)
        x, h, dy = x.to(dtype), h.to(dtype), dy.to(dtype)
        if channels_last:
            x = empty_map(x, x.shape, True).copy_(x)
            dy = empty_map(dy, dy.shape, True).copy_(dy)
            h = empty_field(h, h.shape, True).copy_(h)
        return x, h, dy

    def involution(self, x: Tensor, h: Tensor, backend: str = "auto") -> Tensor:
        return getattr(functional, f"involution{self.dims}d")(x, h, **self.parameters, backend=backend)

    def with_(self, **changes) -> Case:
        return replace(self, **changes)


CASES = [
    Case((6, 7)),
    Case((7, 5), kernel=1),
    Case((7, 11), kernel=5),
    Case((9, 8), kernel=7, channels=32),
    Case((7, 7), kernel=7, channels=48, groups=3, batch=1),
    Case((13, 17), kernel=7, stride=2, channels=16, groups=1),
    Case((8, 8), kernel=7, stride=2, channels=6, groups=2),
    Case((7, 9), kernel=3, stride=3),
    Case((11, 11), kernel=3, stride=(2, 1), dilation=(1, 2)),
    Case((9, 10), kernel=(3, 5)),
    Case((9, 10), kernel=(1, 7), stride=(1, 2)),
    Case((12, 13), kernel=3, dilation=2),
    Case((10, 9), kernel=5, dilation=3, stride=2),
    Case((8, 9), kernel=4, padding=2),
    Case((8, 9), kernel=2, padding=(0, 1), stride=2),
    Case((9, 8), kernel=3, padding="valid"),
    Case((5, 6), kernel=3, padding=4),
    Case((2, 3), kernel=7),
    Case((1, 1), kernel=7, channels=32),
    Case((1, 1), kernel=5, stride=2),
    Case((1, 17), kernel=5),
    Case((6, 7), channels=4, groups=4),
    Case((6, 7), channels=5, groups=1),
    Case((6, 7), channels=1, groups=1, kernel=5),
    Case((6, 19), channels=12, groups=4, kernel=5),
    Case((6, 7), channels=21, groups=3),
    Case((6, 7), channels=32, groups=1),
    Case((6, 7), batch=0),
    Case((11,), kernel=5),
    Case((12,), kernel=7, stride=2, channels=32),
    Case((9,), kernel=3, dilation=2, padding=1),
    Case((5, 6, 7)),
    Case((4, 5, 5), kernel=(3, 1, 5), stride=(1, 2, 2), channels=32),
    Case((3, 4, 4), kernel=3, dilation=(1, 1, 2), padding=(1, 0, 2)),
]

# The layouts of the operator's tensors: NCHW and channels_last.
LAYOUTS = [False, True]


def cases(*chosen: Case):
    import pytest

    return pytest.mark.parametrize("case", chosen or CASES, ids=str)


def layouts():
    import pytest

    return pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "channels_last"])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ‖actual − expected‖ / ‖expected‖ in float64; NaN anywhere gives NaN."""
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-300)).item() if expected.numel() else 0.0
