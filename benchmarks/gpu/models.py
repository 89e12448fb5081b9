"""RedNet-50 and ResNet-50: images per second and peak memory, inference and training, in bfloat16."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .records import Records
from .timing import forget_peak, throughput

_SIZE = 224


def nets() -> dict[str, Callable[[], nn.Module]]:
    """Return how the two nets are made; without timm, torchvision's ResNet-50 and it with involutions put in."""
    try:
        import timm

        import involution.models  # noqa: F401  # registers RedNet with timm
    except ImportError:
        from torchvision.models import resnet50

        from involution import replace_convolutions

        def involved() -> nn.Module:
            model = resnet50()
            replace_convolutions(model, lambda name, module: name.endswith("conv2"), kernel_size=7)
            return model

        return {"resnet50 with involutions": involved, "resnet50": resnet50}
    return {name: lambda name=name: timm.create_model(name) for name in ("rednet50", "resnet50")}


def inference(model: nn.Module, batch: int, mode: str) -> Callable[[], Any]:
    """Return one inference step: weights and images in bfloat16, channels_last."""
    model = model.cuda().bfloat16().eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, _SIZE, _SIZE, device="cuda", dtype=torch.bfloat16)
    images = images.to(memory_format=torch.channels_last)
    net = torch.compile(model) if mode == "compiled" else model

    def step() -> Tensor:
        with torch.inference_mode():
            return net(images)

    return graphed(step) if mode == "graph" else step


def training(model: nn.Module, batch: int, mode: str) -> Callable[[], Any]:
    """Return one training step: float32 weights, autocast to bfloat16, channels_last, SGD with momentum."""
    model = model.cuda().train().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, _SIZE, _SIZE, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    net = torch.compile(model) if mode == "compiled" else model

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        # A graph cannot keep the casts of the weights from one step to the next.
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=mode != "graph"):
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return graphed(step) if mode == "graph" else step


def graphed(step: Callable[[], Any]) -> Callable[[], Any]:
    """Return a replay of ``step`` captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def compile_ahead(name: str) -> None:
    """Run one step of inference and one of training, so that the kernels lie in Triton's cache."""
    for make in (inference, training):
        make(nets()[name](), 64, "eager")()
    torch.cuda.synchronize()


def run(records: Records, modes: tuple[str, ...], batches: tuple[int, ...], seconds: float) -> None:
    """Measure both nets in each mode: ``"eager"``, ``"graph"`` or ``"compiled"``."""
    end = records.left() - seconds
    for mode in modes:
        for make in (inference, training):
            for batch in batches:
                for name, net in nets().items():
                    row = {"net": name, "step": make.__name__, "mode": mode, "batch": batch}
                    if records.left() < end:
                        records.add(**row, stopped="the time was over")
                        return
                    # Compiled nets and graphs refer to themselves in circles, and hold their memory until found.
                    torch.compiler.reset()
                    gc.collect()
                    forget_peak()
                    torch.manual_seed(0)
                    try:
                        records.add(**row, **throughput(make(net(), batch, mode), batch))
                    except Exception as error:
                        # One mode that does not run must not cost the others' numbers.
                        records.add(**row, failed=f"{type(error).__name__}: {str(error)[:300]}")
