"""Self-attention as an instance of involution, and the generators' own behaviour."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from involution import (
    Involution1d,
    Involution2d,
    Involution3d,
    correlation1d,
    correlation2d,
    correlation3d,
    involution2d,
)
from involution.kernel_generation import (
    BottleneckKernelGenerator,
    LinearKernelGenerator,
    LocalAttentionKernelGenerator,
)
from involution.span import as_field


def window_mask(height, width, kernel_size, dilation=1):
    """Return which pixel (column) lies in the window around which pixel (row)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([rows.flatten(), columns.flatten()], 1)
    offset = position[None] - position[:, None]
    reach = dilation * (kernel_size - 1) // 2
    return ((offset.abs() <= reach) & (offset % dilation == 0)).all(-1)


@pytest.mark.parametrize("dilation", [1, 2])
def test_attention_equals_scaled_dot_product_attention_under_a_window_mask(dilation):
    heads, kernel_size, height, width = 3, 5, 9, 8
    generator = LocalAttentionKernelGenerator(
        24, kernel_size, heads, relative_position=False, dilation=dilation
    ).double()
    layer = Involution2d(24, 24, kernel_size, dilation=dilation, groups=heads, kernel_generator=generator)
    x = torch.randn(2, 24, height, width, dtype=torch.float64, requires_grad=True)

    def heads_last(tensor):
        return tensor.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3)

    attention = F.scaled_dot_product_attention(
        heads_last(generator.query(x)),
        heads_last(generator.key(x)),
        heads_last(x),
        attn_mask=window_mask(height, width, kernel_size, dilation),
    )
    expected = attention.transpose(2, 3).reshape(x.shape)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for a, e in zip(
        torch.autograd.grad(y, (x, generator.query.weight, generator.key.weight), dy),
        torch.autograd.grad(expected, (x, generator.query.weight, generator.key.weight), dy),
        strict=True,
    ):
        torch.testing.assert_close(a, e)


def test_attention_over_the_whole_map_is_global_self_attention():
    """Ψ = Ω: a window that covers the map from every pixel."""
    generator = LocalAttentionKernelGenerator(16, 9, 2, relative_position=False).double()
    x = torch.randn(1, 16, 5, 4, dtype=torch.float64)
    q, k, v = (t.unflatten(1, (2, -1)).flatten(3).transpose(2, 3) for t in (generator.query(x), generator.key(x), x))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
    torch.testing.assert_close(involution2d(x, generator(x)), expected)


def test_relative_position_adds_the_query_times_the_embedding_of_the_offset():
    generator = LocalAttentionKernelGenerator(8, 3, 2, softmax=False).double()
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64)
    with_position = generator(x)
    embedding = generator.relative_position
    query = generator.query(x) * 4**-0.5
    generator.relative_position = None
    difference = with_position - generator(x)
    for g in range(2):
        expected = torch.einsum("cuv,chw->uvhw", embedding[g], query[0, 4 * g : 4 * g + 4])
        torch.testing.assert_close(difference[0, g], expected)


def test_attention_field_is_a_distribution_over_the_pixels_inside():
    field = LocalAttentionKernelGenerator(8, 5, 2, stride=2)(torch.randn(2, 8, 7, 6))
    torch.testing.assert_close(field.sum((2, 3)), torch.ones(2, 2, 4, 3))
    assert (field[:, :, :2, :, 0, :] == 0).all()


def test_attention_with_a_stride_compares_pooled_queries_with_all_keys():
    generator = LocalAttentionKernelGenerator(8, 3, 1, stride=2, softmax=False, relative_position=False).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    query, key = generator.query(F.avg_pool2d(x, 2)) * 8**-0.5, F.pad(generator.key(x), (1, 1, 1, 1))
    field = generator(x)
    for i, j, u, v in ((0, 0, 1, 1), (1, 2, 0, 2), (2, 1, 2, 0)):
        expected = (query[0, :, i, j] * key[0, :, 2 * i + u, 2 * j + v]).sum()
        torch.testing.assert_close(field[0, 0, u, v, i, j], expected)


@pytest.mark.parametrize("correlation", [correlation1d, correlation2d, correlation3d])
def test_correlation_is_the_adjoint_of_involution(correlation):
    import involution

    dims = int(correlation.__name__[-2])
    size, out = (5, 6, 7)[:dims], (3, 3, 4)[:dims]
    query, key = torch.randn(2, 8, *out).double(), torch.randn(2, 8, *size).double()
    field = torch.randn(2, 2, *(3,) * dims, *out).double()
    multiply_add = getattr(involution, f"involution{dims}d")
    left = (correlation(query, key, 3, groups=2, stride=2) * field).sum()
    right = (query * multiply_add(key, field, stride=2)).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_generators_work_in_every_dimension(dims):
    x = torch.randn(2, 16, *(5, 4, 3)[:dims])
    for generator in (
        BottleneckKernelGenerator(16, 3, 2, dims=dims),
        LinearKernelGenerator(16, 3, 2, dims=dims),
        LocalAttentionKernelGenerator(16, 3, 2, dims=dims),
    ):
        assert as_field(generator(x)).shape == (2, 2, *(3,) * dims, *x.shape[2:])


def test_the_field_is_ordered_by_group_then_tap():
    generator = LinearKernelGenerator(4, 3, 2)
    x = torch.randn(1, 4, 2, 2)
    flat = F.conv2d(x, generator.span.weight, generator.span.bias)
    torch.testing.assert_close(generator(x).field()[0, 1, 2, 0], flat[0, 9 + 2 * 3 + 0])


def test_hidden_width_is_at_least_one():
    assert BottleneckKernelGenerator(3, 3, 1, reduction=16).reduce.out_channels == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stride", [2, (1, 2, 3)])
def test_volumes_in_half_precision_with_a_stride(dtype, stride):
    """PyTorch pools none of them on a CPU."""
    layer = Involution3d(8, 8, 3, stride=stride, group_channels=4).eval()
    x = torch.randn(2, 8, 5, 6, 7)
    expected = layer(x)
    x = x.to(dtype).requires_grad_()
    y = layer.to(dtype)(x)
    assert y.dtype == dtype and y.shape == expected.shape
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_a_window_that_does_not_fit_is_refused_before_the_kernel_is_made():
    for layer, size in (
        (Involution1d(8, 8, 5, padding="valid"), (3,)),
        (Involution2d(8, 8, 5, padding=1, stride=2), (4, 2)),
    ):
        with pytest.raises(ValueError, match=r"a window of .* does not fit into a map of"):
            layer(torch.randn(1, 8, *size))


def test_a_larger_map_between_leaves_the_gradients_of_one_pixel_as_they_are():
    layer, pixel = Involution2d(16), torch.randn(1, 16, 1, 1)
    expected = torch.autograd.grad(layer(pixel).sum(), layer.parameters())
    of_pixel = layer(pixel)
    layer(torch.randn(2, 16, 5, 4))
    gradients = torch.autograd.grad(of_pixel.sum(), layer.parameters())
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients, expected)


def test_a_norm_without_running_statistics_refuses_one_pixel_as_pytorch_does():
    layer = Involution2d(16, norm_layer=partial(nn.BatchNorm2d, track_running_stats=False))
    assert layer(torch.randn(2, 16, 5, 4)).isfinite().all()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(torch.randn(1, 16, 1, 1))
