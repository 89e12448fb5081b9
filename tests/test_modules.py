"""Involution layers against the algorithm in the paper, written with unfold."""

import copy

import pytest
import torch
from cases import layouts
from torch import nn
from torch.nn import functional as F

import involution
from involution import Involution1d, Involution2d, Involution3d
from involution.kernel_generation import BottleneckKernelGenerator, LinearKernelGenerator

LAYERS = {1: Involution1d, 2: Involution2d, 3: Involution3d}


def pseudo_code(layer: Involution2d, x):
    """The paper's pseudo-code: average pool, reduce, span, unfold, multiply-add (sizes divisible by the stride)."""
    generator, k, s = layer.kernel_generator, layer.kernel_size[0], layer.stride[0]
    batch, channels, height, width = x.shape
    pooled = F.avg_pool2d(x, s, s) if s > 1 else x
    reduced = F.relu(generator.norm(F.conv2d(pooled, generator.reduce.weight)))
    kernel = F.conv2d(reduced, generator.span.weight, generator.span.bias)
    unfolded = F.unfold(x, k, dilation=layer.dilation, padding=layer.padding, stride=s)
    height, width = height // s, width // s
    unfolded = unfolded.view(batch, layer.groups, channels // layer.groups, k * k, height, width)
    kernel = kernel.view(batch, layer.groups, k * k, height, width).unsqueeze(2)
    return (kernel * unfolded).sum(3).view(batch, channels, height, width)


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(7, 1, 1), (3, 1, 2), (7, 2, 1), (5, 2, 2), (1, 1, 1)])
@layouts()
def test_equals_the_papers_algorithm_with_gradients(kernel_size, stride, dilation, channels_last):
    layer = Involution2d(32, 32, kernel_size, stride, dilation=dilation).double()
    twin = copy.deepcopy(layer)
    x = torch.randn(3, 32, 8, 12, dtype=torch.float64)
    if channels_last:
        x, layer = x.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    x.requires_grad_()
    y = layer(x)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
    y.backward(dy)
    expected_x = x.detach().clone().requires_grad_()
    expected = pseudo_code(twin, expected_x)
    expected.backward(dy)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(dx, expected_x.grad)
    for (name, p), q in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")
    for p, q in zip(layer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("channels", "kernel_size", "groups", "reduction"), [(64, 7, 4, 4), (64, 3, 64, 1), (32, 5, 1, 16)]
)
def test_parameter_count_is_the_papers(channels, kernel_size, groups, reduction):
    layer = Involution2d(channels, channels, kernel_size, groups=groups, reduction=reduction)
    hidden = channels // reduction
    weights = (channels**2 + kernel_size**2 * groups * channels) // reduction
    norm, biases = 2 * hidden, kernel_size**2 * groups
    assert sum(p.numel() for p in layer.parameters()) == weights + norm + biases


@pytest.mark.parametrize("size", [(14, 14), (9, 13)])
def test_cost_is_the_papers(size):
    from torch.utils.flop_counter import FlopCounterMode

    channels, kernel_size, groups, reduction = 64, 7, 4, 4
    layer = Involution2d(channels, channels, kernel_size, groups=groups, reduction=reduction)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, channels, *size))
    pixels = size[0] * size[1]
    generation = pixels * (channels**2 + kernel_size**2 * groups * channels) // reduction
    assert counter.get_total_flops() == 2 * 2 * (generation + pixels * kernel_size**2 * channels)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("generator", ["bottleneck", "linear", "attention"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_size_gives_the_ceiling_of_its_stride(dims, generator, stride):
    layer = LAYERS[dims](16, 24, 3, stride, group_channels=8, kernel_generator=generator).eval()
    for size in ((1, 1, 1), (2, 3, 4), (5, 6, 7)):
        y = layer(torch.randn(2, 16, *size[:dims]))
        assert y.shape == (2, 24, *(-(-n // stride) for n in size[:dims]))
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("padding", ["valid", 0, 1, 5, (2, 0)])
@pytest.mark.parametrize("kernel_size", [3, 4])
@pytest.mark.parametrize("generator", ["bottleneck", "attention"])
def test_any_padding_fits(padding, kernel_size, generator):
    layer = Involution2d(16, 16, kernel_size, 2, padding, kernel_generator=generator)
    convolution = nn.Conv2d(16, 16, kernel_size, 2, padding)
    x = torch.randn(2, 16, 9, 12)
    assert layer(x).shape == convolution(x).shape


def test_the_kernel_is_made_from_the_pixel_in_the_middle_of_its_window():
    """With 'valid' padding the field is the inner part of the field with 'same' padding."""
    same = Involution2d(16, 16, 5).eval()
    valid = Involution2d(16, 16, 5, padding="valid").eval()
    valid.load_state_dict(same.state_dict())
    x = torch.randn(2, 16, 9, 10)
    torch.testing.assert_close(valid.generate_kernel(x).field(), same.generate_kernel(x).field()[..., 2:-2, 2:-2])
    torch.testing.assert_close(valid(x), same(x)[..., 2:-2, 2:-2])


def test_stride_pools_what_phi_sees_over_the_pixels_inside_the_map():
    layer = Involution2d(
        8, 8, 3, 2, group_channels=8, kernel_generator=lambda x: seen.append(x) or torch.ones(1, 1, 3, 3, 3, 4)
    )
    seen: list[torch.Tensor] = []
    x = torch.randn(1, 8, 5, 7)
    layer(x)
    expected = torch.empty(1, 8, 3, 4)
    for i in range(3):
        for j in range(4):
            expected[..., i, j] = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_modes_are_those_of_convolutions(dims, mode):
    """With the same kernels everywhere an involution is a convolution whose channels of a group share a kernel."""
    kind, convolution = LAYERS[dims], (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    for stride, padding, dilation in ((1, 1, 1), (2, 2, 2), (1, 0, 1)):
        options = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": mode,
            "dtype": torch.float64,
        }
        expected = convolution(4, 4, 3, groups=4, bias=False, **options)
        kernels = expected.weight.detach()[::2]
        with torch.no_grad():
            expected.weight.copy_(kernels.repeat_interleave(2, 0))

        def everywhere(x, kernels=kernels):
            return kernels.movedim(1, 0)[(..., *[None] * dims)].expand(x.shape[0], 2, *[3] * dims, *x.shape[2:])

        layer = kind(4, kernel_size=3, groups=2, kernel_generator=everywhere, **options)
        x = torch.randn(2, 4, *[6, 7, 5][:dims], dtype=torch.float64)
        torch.testing.assert_close(layer(x), expected(x))


def test_padding_modes_with_spans_and_san():
    x = torch.randn(1, 16, 6, 7, dtype=torch.float64, requires_grad=True)
    for generator in ("bottleneck", "linear", "san_pairwise", "san_patchwise"):
        layer = Involution2d(16, kernel_size=5, kernel_generator=generator, padding_mode="reflect", dtype=torch.float64)
        y = layer.eval()(x)
        wider = F.pad(layer.value(x), [2] * 4, mode="reflect")
        torch.testing.assert_close(y, involution.involution2d(wider, layer.generate_kernel(x), padding="valid"))
        assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert "padding=(2, 2), padding_mode=reflect, groups=1" in repr(layer)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_kernels_are_made_of_the_map_as_it_goes_on(mode, padding, stride):
    """Also of windows whose middle lies outside the map: a layer without padding over the continued map is the same."""
    x = torch.randn(2, 16, 9, 8, dtype=torch.float64)
    wider = F.pad(x, [padding] * 4, mode="constant" if mode == "zeros" else mode)
    for generator in ("bottleneck", "linear", *(["san_patchwise"] if mode == "reflect" else [])):
        options = {"kernel_size": 3, "stride": stride, "kernel_generator": generator, "dtype": torch.float64}
        layer = Involution2d(16, padding=padding, padding_mode=mode, **options).eval()
        over_all = Involution2d(16, padding=0, padding_mode=mode, **options).eval()
        over_all.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(x), over_all(wider))


def test_any_callable_is_a_kernel_generator():
    average = Involution2d(
        8, 8, 3, groups=1, kernel_generator=lambda x: x.new_full((len(x), 1, 3, 3, *x.shape[2:]), 1 / 9)
    )
    x = torch.randn(2, 8, 6, 7)
    torch.testing.assert_close(average(x), F.avg_pool2d(x, 3, 1, 1))
    own = Involution2d(8, 8, 3, groups=2, kernel_generator=LinearKernelGenerator(8, 3, 2))
    assert [name for name, _ in own.named_parameters()] == [
        "kernel_generator.span.weight",
        "kernel_generator.span.bias",
    ]


def test_other_output_channels_and_bias():
    layer = Involution2d(24, 48, 3, bias=True)
    assert layer.groups == 3
    assert layer.value.weight.shape == (48, 24, 1, 1)
    nn.init.constant_(layer.bias, 2.0)
    x = torch.randn(2, 24, 5, 6)
    without = copy.deepcopy(layer)
    nn.init.zeros_(without.bias)
    torch.testing.assert_close(layer(x), without(x) + 2)


def test_norm_and_activation_can_be_replaced():
    layer = Involution2d(32, 32, norm_layer=lambda channels: nn.GroupNorm(2, channels), act_layer=nn.SiLU)
    assert isinstance(layer.kernel_generator.norm, nn.GroupNorm)
    assert isinstance(layer.kernel_generator.act, nn.SiLU)
    assert layer(torch.randn(1, 32, 1, 1)).shape == (1, 32, 1, 1)


def test_trains_on_single_pixels_and_empty_batches():
    layer = Involution2d(32, 32)
    layer(torch.randn(4, 32, 1, 1)).sum().backward()
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(0, 32, 7, 7, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 32, 7, 7)
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name]), name
    layer.eval()(torch.randn(1, 32, 1, 1))


def test_a_generator_that_is_handed_in_keeps_its_device_and_dtype():
    generator = BottleneckKernelGenerator(8, 3, 2)
    layer = Involution2d(8, 16, 3, groups=2, kernel_generator=generator, bias=True, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in generator.parameters()} == {("cpu", torch.float32)}
    assert {(p.device.type, p.dtype) for p in (layer.bias, layer.value.weight)} == {("meta", torch.float64)}


def test_device_and_dtype_of_the_constructor():
    assert {p.device.type for p in Involution2d(32, 48, device="meta").parameters()} == {"meta"}
    layer = Involution2d(32, 48, bias=True, dtype=torch.bfloat16)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.randn(2, 32, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_state_survives_saving_and_copying(tmp_path):
    layer = Involution2d(32, 48, 5, 2, kernel_generator="attention").eval()
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    twin = Involution2d(32, 48, 5, 2, kernel_generator="attention").eval()
    twin.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = torch.randn(2, 32, 9, 9)
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("generator", ["bottleneck", "linear", "attention"])
def test_compile_and_export_with_stride_and_odd_sizes(generator):
    # What other tests compiled of the same functions counts against Dynamo's limit.
    torch.compiler.reset()
    layer = Involution2d(32, 32, 7, 2, kernel_generator=generator).eval()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    x, z = torch.randn(2, 32, 15, 16), torch.randn(3, 32, 22, 13)
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled(z), layer(z))
    height, width = (torch.export.Dim(name, min=8, max=1024) for name in ("height", "width"))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch, 2: height, 3: width},))
    torch.testing.assert_close(program.module()(z), layer(z))


def test_compiled_training_step_equals_eager():
    layer = nn.Sequential(nn.Conv2d(3, 32, 1), Involution2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
    twin = copy.deepcopy(layer)
    x = torch.randn(4, 3, 9, 9)
    layer(x).square().mean().backward()
    torch.compile(twin, fullgraph=True)(x).square().mean().backward()
    for (name, p), q in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_compiled_autograd_takes_what_ran_eagerly():
    layer, x = Involution2d(32), torch.randn(2, 32, 9, 9)
    layer(x).sum().backward()
    wanted = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    loss = layer(x).sum()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: loss.backward(), backend="eager")()
    for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_whole_numbers_of_numpy_are_whole_numbers():
    numpy = pytest.importorskip("numpy")
    channels, kernel_size = numpy.int64(64), numpy.int32(5)
    layer = Involution2d(channels, channels, kernel_size, stride=numpy.uint8(2), groups=numpy.int64(4))
    assert layer(torch.randn(1, 64, 9, 9)).shape == (1, 64, 5, 5) and type(layer.groups) is int
    for wrong in (numpy.float64(64), numpy.bool_(True), torch.tensor(64)):
        with pytest.raises(TypeError, match="in_channels must be an int, got"):
            Involution2d(wrong)


def test_initialisation_keeps_the_scale_of_the_signal():
    layer = Involution2d(256, 256, 7)
    y = layer(torch.randn(4, 256, 14, 14))
    assert 0.5 < y.std() < 4
    assert torch.count_nonzero(layer.kernel_generator.span.bias) == 0


def test_repr_names_what_matters():
    assert repr(Involution2d(64, 64, 7, 2)).startswith(
        "Involution2d(\n  64, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), groups=4\n"
    )
    assert isinstance(Involution2d(64).kernel_generator, BottleneckKernelGenerator)


def test_importing_is_light():
    import subprocess
    import sys

    code = (
        "import sys, involution; heavy = {'timm', 'torchvision', 'lightning', 'matplotlib', 'sklearn', 'jsonargparse'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_version_is_the_projects():
    from pathlib import Path

    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{involution.__version__}"' in project
