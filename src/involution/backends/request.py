"""What a backend is asked to serve, and what it has to provide."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..geometry import Window


class Request(NamedTuple):
    """One call as backends see it when they say whether they can serve it.

    Attributes:
        device: where the tensors live.
        dtype: their common dtype.
        group_channels: channels that share one kernel, C / G.
        window: kernel size, stride, padding and dilation, one number each per spatial dimension.
    """

    device: torch.device
    dtype: torch.dtype
    group_channels: int
    window: Window


class Epilogue(NamedTuple):
    """What happens to a result before it is written: ``relu(scale · y + offset)``.

    Attributes:
        scale: one value per channel, contiguous, or None.
        offset: likewise.
        relu: whether negative values become zero.
    """

    scale: Tensor | None = None
    offset: Tensor | None = None
    relu: bool = False

    def apply_(self, y: Tensor) -> None:
        """Change ``y`` ``(B, C, ...)`` in place."""
        ones = [1] * (y.ndim - 2)
        if self.scale is not None:
            y.mul_(self.scale.view(-1, *ones))
        if self.offset is not None:
            y.add_(self.offset.view(-1, *ones))
        if self.relu:
            y.relu_()


class Fault(str):
    """A reason that lies in the machine, not in the request, and that somebody can repair.

    Where it keeps ``"auto"`` from a backend, a warning says so once.
    """


class Backend(Protocol):
    """The three contractions of one implementation: arithmetic only, its arguments were checked before.

    A backend is a module or an object with these members. ``out`` is allocated by the caller, in the layout that the
    operator promises; every element of it has to be written.
    """

    name: str

    def unsupported(self, request: Request) -> str | None:
        """Return in one sentence why ``request`` cannot be served (a `Fault` if it could be repaired), None if it can."""

    def forward(self, out: Tensor, input: Tensor, kernel: Tensor, window: Window) -> None:
        """Write ``Y[b, g, c, i, j] = Σ_{u,v} H[b, g, u, v, i, j] · X[b, g, c, s·i + d·u − p, s·j + d·v − p]``."""

    def input_gradient(self, out: Tensor, grad_output: Tensor, kernel: Tensor, window: Window) -> None:
        """Write ``dX[b, g, c, h, w] = Σ H[b, g, u, v, i, j] · dY[b, g, c, i, j]`` over all windows reading (h, w)."""

    def kernel_gradient(self, out: Tensor, grad_output: Tensor, input: Tensor, window: Window) -> None:
        """Write ``dH[b, g, u, v, i, j] = Σ_c dY[b, g, c, i, j] · X[b, g, c, s·i + d·u − p, s·j + d·v − p]``."""


class SpanBackend(Backend, Protocol):
    """A backend that can also make the kernel field itself, from a φ whose last step is one matrix.

    Both are optional; without them the field is made and the three contractions serve (`involution.backends.spans`).
    """

    def span_and_contract(
        self,
        out: Tensor,
        input: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        window: Window,
        epilogue: Epilogue,
    ) -> bool:
        """Write ``epilogue`` of `forward` of ``input`` and the field ``weight · hidden + bias``, which is never whole.

        ``hidden`` is ``(B, C_hidden, H', W')``, ``weight`` ``(G, K, K, C_hidden)``, ``bias`` ``(G·K·K,)``. Return
        whether it was done; if not, the field is made and `forward` called.
        """

    def span_gradients(
        self,
        grad_input: Tensor,
        grad_hidden: Tensor,
        grad_weight: Tensor,
        grad_bias: Tensor,
        grad_output: Tensor,
        input: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        window: Window,
    ) -> None:
        """Write the four gradients of that, without an epilogue; neither the field nor its gradient is ever whole."""
