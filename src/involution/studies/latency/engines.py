"""The engines: what each needs, the file it runs, and how it is opened. All but ``eager`` run nets whose norms are folded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ExportError
from ...export import onnx, openvino, sessions, to_pt2
from ...export.onnx import to_onnx
from ...export.openvino_model import to_openvino
from ...export.quantisation import quantise
from ...surgery import fold_batch_norms
from . import profiles

__all__ = ["DTYPES", "ENGINES", "Engine"]

# Inputs that the ranges of int8 are found on.
Calibration = Sequence[tuple[Tensor, ...]]

DTYPES = ("float32", "bfloat16", "int8")


class Engine(ABC):
    """One way to run a net on the CPU."""

    title: str
    packages: tuple[str, ...] = ()
    lacks: dict[str, str] = {}

    def missing(self, dtype: str) -> str | None:
        """Return in a few words why nothing can be measured here in ``dtype``; None where it can."""
        if dtype in self.lacks:
            return self.lacks[dtype]
        absent = [package for package in self.packages if find_spec(package) is None]
        return f"{', '.join(absent)} missing, to be installed with pip" if absent else None

    @abstractmethod
    def write(self, net: nn.Module, inputs: Tensor, dtype: str, calibration: Calibration, folder: Path) -> None:
        """Write into ``folder`` what the engine opens; a net of PyTorch's is opened as it is."""

    @abstractmethod
    def open(self, net: Callable[[], nn.Module], dtype: str, threads: int, folder: Path) -> sessions.Session:
        """Return a function that runs the net: the module that ``net`` makes, or what lies in ``folder``."""

    def profile(
        self, session: sessions.Session, inputs: Tensor, dtype: str, threads: int, folder: Path
    ) -> dict[str, float]:
        """Return how many milliseconds of a run each kind of operator takes, as the engine's own profiler says.

        Args:
            session: as `open` gave it.
            inputs: as `taken` gave them.
            dtype: of the session.
            threads: of the session.
            folder: that it was opened from.
        """
        return profiles.of_pytorch(lambda: session([inputs]))

    def taken(self, inputs: Tensor, dtype: str) -> Tensor:
        """Return images in the dtype and the layout that the engine takes."""
        return inputs


class _InPyTorch(Engine):
    """A module, perhaps changed."""

    lacks = {"int8": "PyTorch's own quantisation is not measured here"}

    def __init__(self, title: str, change: Callable[[nn.Module], Callable[[Tensor], Any]]) -> None:
        self.title, self._change = title, change

    def write(self, net: nn.Module, inputs: Tensor, dtype: str, calibration: Calibration, folder: Path) -> None:
        pass

    def open(self, net: Callable[[], nn.Module], dtype: str, threads: int, folder: Path) -> sessions.Session:
        module: Any = net()
        run = self._change(module.to(dtype=getattr(torch, dtype), memory_format=torch.channels_last))

        def session(inputs: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return sessions.flat(run(*inputs))

        return session

    def taken(self, inputs: Tensor, dtype: str) -> Tensor:
        return inputs.to(dtype=getattr(torch, dtype), memory_format=torch.channels_last)


class _AOTInductor(Engine):
    """A package of AOTInductor."""

    title = "AOTInductor"
    lacks = _InPyTorch.lacks

    def write(self, net: nn.Module, inputs: Tensor, dtype: str, calibration: Calibration, folder: Path) -> None:
        module: Any = _folded(net).to(dtype=getattr(torch, dtype))
        module = module.to(memory_format=torch.channels_last)
        to_pt2(module, (self.taken(inputs, dtype),), folder / "net.pt2")

    def open(self, net: Callable[[], nn.Module], dtype: str, threads: int, folder: Path) -> sessions.Session:
        return sessions.open_pt2(folder / "net.pt2")

    def taken(self, inputs: Tensor, dtype: str) -> Tensor:
        return inputs.to(dtype=getattr(torch, dtype))


class _ONNXRuntime(Engine):
    """An ONNX file, of standard operators or with the custom one."""

    lacks = {"bfloat16": "ONNX Runtime has no convolutions in bfloat16 on the CPU"}

    def __init__(self, title: str, operator: str) -> None:
        self.title, self._operator = title, operator
        self.packages = ("onnx", "onnxscript", "onnxruntime")

    def missing(self, dtype: str) -> str | None:
        return super().missing(dtype) or _absent(self._library)

    def write(self, net: nn.Module, inputs: Tensor, dtype: str, calibration: Calibration, folder: Path) -> None:
        file = folder / "net.onnx"
        involutions = to_onnx(_folded(net), (inputs,), file, operator=self._operator)
        if dtype == "int8":
            quantise("onnx", file, involutions, calibration, self._library())

    def open(self, net: Callable[[], nn.Module], dtype: str, threads: int, folder: Path) -> sessions.Session:
        return sessions.open_onnx(folder / "net.onnx", threads=threads, library=self._library())

    def profile(
        self, session: sessions.Session, inputs: Tensor, dtype: str, threads: int, folder: Path
    ) -> dict[str, float]:
        # What it would have to write down of every run, no session does by default: this is another one.
        return profiles.of_onnxruntime(folder / "net.onnx", [inputs], threads=threads, library=self._library())

    def _library(self) -> Path | None:
        return onnx.library() if self._operator == "custom" else None


class _OpenVINO(Engine):
    """OpenVINO's files, of its own operators or with the extension's."""

    def __init__(self, title: str, operator: str) -> None:
        self.title, self._operator = title, operator
        self.packages = ("onnx", "onnxscript", "openvino")

    def missing(self, dtype: str) -> str | None:
        if dtype == "int8" and find_spec("nncf") is None:
            return "nncf, OpenVINO's tool for quantisation, is missing; pip install 'involution[quantisation]'"
        return super().missing(dtype) or _absent(self._extension)

    def write(self, net: nn.Module, inputs: Tensor, dtype: str, calibration: Calibration, folder: Path) -> None:
        file = folder / "net.xml"
        involutions = to_openvino(_folded(net), (inputs,), file, operator=self._operator)
        if dtype == "int8":
            quantise("openvino", file, involutions, calibration, self._extension())

    def open(self, net: Callable[[], nn.Module], dtype: str, threads: int, folder: Path) -> sessions.Session:
        return sessions.open_openvino(
            folder / "net.xml", threads=threads, precision=self._precision(dtype), extension=self._extension()
        )

    def profile(
        self, session: sessions.Session, inputs: Tensor, dtype: str, threads: int, folder: Path
    ) -> dict[str, float]:
        return profiles.of_openvino(
            folder / "net.xml",
            [inputs],
            threads=threads,
            precision=self._precision(dtype),
            extension=self._extension(),
        )

    @staticmethod
    def _precision(dtype: str) -> str:
        return "bf16" if dtype == "bfloat16" else "f32"

    def _extension(self) -> Path | None:
        return openvino.extension() if self._operator == "custom" else None


def _absent(library: Callable[[], Path | None]) -> str | None:
    try:
        library()
    except ExportError as error:
        return str(error)
    return None


def _folded(module: nn.Module) -> nn.Module:
    return fold_batch_norms(module)[0]


def _compiled(module: nn.Module) -> Callable[[Tensor], Any]:
    # For this size alone; for any size the compiler's own kernels are slower, in all nets.
    compiled = torch.compile(_folded(module), dynamic=False)
    is_compiled = False

    def run(x: Tensor) -> Any:
        nonlocal is_compiled
        if is_compiled:
            return compiled(x)
        # The first call compiles, and Dynamo looks at the setting itself: as an option of torch.compile it has no effect.
        with torch._inductor.config.patch(freezing=True):
            y = compiled(x)
        is_compiled = True
        return y

    return run


ENGINES: dict[str, Engine] = {
    "eager": _InPyTorch("PyTorch", lambda module: module),
    "folded": _InPyTorch("PyTorch, norms folded", _folded),
    "compiled": _InPyTorch("PyTorch, compiled", _compiled),
    "aotinductor": _AOTInductor(),
    "onnxruntime": _ONNXRuntime("ONNX Runtime, standard operators", "standard"),
    "onnxruntime-custom": _ONNXRuntime("ONNX Runtime, custom operator", "custom"),
    "openvino": _OpenVINO("OpenVINO, its own operators", "standard"),
    "openvino-extension": _OpenVINO("OpenVINO, extension", "custom"),
}
