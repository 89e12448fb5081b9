"""The operator on the CPU against its peers, at the four stage shapes of RedNet-50.

Every function is timed once per round, so that all of them meet the same disturbances; the figure is the median over
the rounds. A shape is only timed after its results were found equal to the definition's within rounding. The roofline
is the larger of two times: all tensors moved once at the copy bandwidth, all multiply-adds at the rate of a large
matrix product, both measured in the same run.

    python -m benchmarks.operator [--threads 2] [--batch 1 8] [--rounds 50] [--compile] [--name NAME] [--run N]
                                  [--output results]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from involution import Involution2d, involution2d
from involution.geometry import Window
from involution.memory_layout import empty_field
from involution.operators import contraction

from . import commands
from .gpu.baselines import unfold
from .shapes import GROUP_CHANNELS, KERNEL, SHAPES
from .timing import medians

WINDOW = Window((KERNEL, KERNEL), (1, 1), (3, 3), (1, 1))


def shift_form(x: Tensor, h: Tensor) -> Tensor:
    """Add one shifted copy of the padded map after the other."""
    c, height, width = x.shape[1:]
    g = h.shape[1]
    padded = F.pad(x, [KERNEL // 2] * 4).unflatten(1, (g, c // g))
    total = torch.zeros((), dtype=x.dtype)
    for u in range(KERNEL):
        for v in range(KERNEL):
            total = total + padded[..., u : u + height, v : v + width] * h[:, :, u, v].unsqueeze(2)
    return total.flatten(1, 2)


def roofline_rates() -> dict[str, float]:
    """Return copy bandwidth (bytes read and written) and the multiply-adds per second of a matrix product."""
    source, matrix = torch.randn(32 << 20), torch.randn(1024, 1024)
    target, product = torch.empty_like(source), torch.empty_like(matrix)
    best = medians({"copy": lambda: target.copy_(source), "mm": lambda: torch.mm(matrix, matrix, out=product)}, 15)
    return {
        "copy_gb_per_s": 2 * source.nbytes / best["copy"]["quartile_1_ms"] / 1e6,
        "gmacs_per_s": 1024**3 / best["mm"]["quartile_1_ms"] / 1e6,
    }


def check_parity(x: Tensor, h: Tensor, dy: Tensor) -> float:
    """Return the largest relative error of output and gradients against the definition in float64.

    Raises:
        RuntimeError: it is beyond rounding.
    """
    exact = [tensor.double().requires_grad_() for tensor in (x, h)]
    y = shift_form(*exact)
    y.backward(dy.double())
    ours = [
        involution2d(x, h),
        contraction.input_gradient(dy, h, x.shape[2:], WINDOW, "auto"),
        contraction.kernel_gradient(dy, x, h.shape[1], WINDOW, "auto"),
    ]
    pairs = zip(ours, [y.detach(), exact[0].grad, exact[1].grad], strict=True)
    error = max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs if b is not None)
    if error > 1e-6:
        raise RuntimeError(f"the results differ from the definition by {error:.1e}; nothing was timed")
    return error


class FieldKept(Involution2d):
    """An involution that makes its field whole and keeps it for the backward pass."""

    def generate_kernel(self, input: Tensor) -> Tensor:
        return super().generate_kernel(input).field()


def backward_of(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], None]:
    """Return a function that runs only the backward pass of ``function``."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        y = function(*leaves)
    dy = torch.randn_like(y)
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []

    def run() -> None:
        torch.autograd.grad(y, [*leaves, *parameters], dy, retain_graph=True)

    return run


def measure(channels: int, size: int, batch: int, rounds: int, compiled: bool, rates: dict[str, float]) -> dict:
    """Return the record of one shape."""
    groups = channels // GROUP_CHANNELS
    x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)
    dy = torch.randn_like(x)
    h = empty_field(x, (batch, groups, KERNEL, KERNEL, size, size), True)
    h.copy_(torch.randn(h.shape))
    error = check_parity(x, h, dy)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    depthwise = nn.Conv2d(channels, channels, KERNEL, padding=3, groups=channels, bias=False)
    depthwise = depthwise.to(memory_format=torch.channels_last)
    module = Involution2d(channels).eval()
    field_kept = FieldKept(channels).eval()
    field_kept.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), field_kept(x), rtol=1e-4, atol=1e-4)
    functions = {
        "involution": partial(involution2d, x, h),
        "depthwise 7×7": partial(depthwise, x),
        "convolution 3×3": partial(convolution, x),
        "module": partial(module, x),
        "module, field kept": partial(field_kept, x),
    }
    with torch.no_grad():
        forward = medians(functions, rounds)
        slow = {
            "unfold": partial(unfold, x, h),
            "shift": partial(shift_form, x, h),
            "reference": partial(involution2d, x, h, backend="reference"),
        }
        if compiled:
            slow |= {f"{name}, compiled": partial(torch.compile(slow[name].func), x, h) for name in ("unfold", "shift")}
        forward |= medians(slow, max(5, rounds // 5))
    gradients = {
        "input gradient": lambda: contraction.input_gradient(dy, h, x.shape[2:], WINDOW, "auto"),
        "kernel gradient": lambda: contraction.kernel_gradient(dy, x, groups, WINDOW, "auto"),
        "involution forward": functions["involution"],
        "convolution 3×3": backward_of(convolution, x),
        "depthwise 7×7": backward_of(depthwise, x),
        "module": backward_of(module, x),
        "module, field kept": backward_of(field_kept, x),
    }
    with torch.no_grad():
        backward = medians(gradients, rounds)
    reference = partial(involution2d, backend="reference")
    slow_backward = {"unfold": backward_of(unfold, x, h), "reference": backward_of(reference, x, h)}
    backward |= medians(slow_backward, max(5, rounds // 10))
    macs = KERNEL**2 * x.numel()
    moved = x.nbytes + h.numel() * h.element_size() + x.nbytes
    roof_ms = max(moved / rates["copy_gb_per_s"], macs / rates["gmacs_per_s"]) / 1e6
    fwd = {name: value["median_ms"] for name, value in forward.items()}
    bwd = {name: value["median_ms"] for name, value in backward.items()}
    both = bwd["input gradient"] + bwd["kernel gradient"]
    return {
        "channels": channels,
        "size": size,
        "batch": batch,
        "relative_error": error,
        "forward": forward,
        "backward": backward,
        "roofline_ms": roof_ms,
        "ratios": {
            "unfold / involution": fwd["unfold"] / fwd["involution"],
            "unfold / reference": fwd["unfold"] / fwd["reference"],
            "involution / depthwise 7×7": fwd["involution"] / fwd["depthwise 7×7"],
            "involution / convolution 3×3": fwd["involution"] / fwd["convolution 3×3"],
            "roofline / involution": roof_ms / fwd["involution"],
            "both gradients / forward": both / bwd["involution forward"],
            "unfold backward / both gradients": bwd["unfold"] / both,
            "module / convolution 3×3": fwd["module"] / fwd["convolution 3×3"],
        },
    }


def main() -> None:
    parser = commands.parser(__doc__, rounds=50)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile of the unfold and the shift form too"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rates = roofline_rates()
    print(f"copy {rates['copy_gb_per_s']:.1f} GB/s, matrix product {rates['gmacs_per_s']:.1f} G multiply-adds/s")
    rows = []
    for batch in arguments.batch:
        for channels, size in SHAPES:
            row = measure(channels, size, batch, arguments.rounds, arguments.compile, rates)
            rows.append(row)
            print(f"\n{batch}×{channels}×{size}×{size}")
            for part in ("forward", "backward"):
                print(f"  {part}: " + ", ".join(f"{k} {v['median_ms']:.3f}" for k, v in row[part].items()) + " ms")
            print("  " + ", ".join(f"{name} {value:.2f}" for name, value in row["ratios"].items()))
    commands.write("operator", arguments, rates=rates, results=rows)


if __name__ == "__main__":
    main()
