"""The φ of other papers against their formulas, and what all of them hold."""

import family_definitions as definitions
import pytest
import torch
from torch.nn import functional as F

from involution import Involution2d, involution2d
from involution.functional import as_field
from involution.kernel_generation import (
    LocalRelationKernelGenerator,
    SANPairwiseKernelGenerator,
    SANPatchwiseKernelGenerator,
    StandAloneKernelGenerator,
)

NAMES = ("sasa", "san_pairwise", "san_patchwise", "local_relation")
GENERATORS = {
    "sasa": StandAloneKernelGenerator,
    "san_pairwise": SANPairwiseKernelGenerator,
    "san_patchwise": SANPatchwiseKernelGenerator,
    "local_relation": LocalRelationKernelGenerator,
}


def image(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1), **options)


def test_stand_alone_attention_is_its_formula():
    phi = definitions.with_statistics(StandAloneKernelGenerator(8, 3, 2, head_channels=4))
    for table in phi.offsets:
        torch.nn.init.normal_(table)
    x = image(2, 8, 3, 4)
    torch.testing.assert_close(phi(x), definitions.stand_alone(phi, x))


def test_stand_alone_attention_equals_scaled_dot_product_attention_under_a_window_mask():
    heads, d, height, width = 2, 4, 5, 4
    phi = definitions.with_statistics(StandAloneKernelGenerator(8, 3, heads, head_channels=d))
    x = image(1, 8, height, width, requires_grad=True)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row = rows.flatten()[None] - rows.flatten()[:, None]
    column = columns.flatten()[None] - columns.flatten()[:, None]
    q, k, v = (t.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3) for t in (phi.query(x), phi.key(x), x))
    of_row, of_column = (
        table[:, (offset + 1).clamp(0, 2)] for table, offset in zip(phi.offsets, (row, column), strict=True)
    )
    bias = torch.einsum("bgnc,cnm->bgnm", q[..., : d // 2], of_row)
    bias = bias + torch.einsum("bgnc,cnm->bgnm", q[..., d // 2 :], of_column)
    bias = bias.masked_fill((row.abs() > 1) | (column.abs() > 1), -torch.inf)
    expected = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0).transpose(2, 3).reshape(x.shape)
    y = involution2d(x, phi(x))
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for a, e in zip(
        torch.autograd.grad(y, (x, phi.query.weight, *phi.offsets), dy),
        torch.autograd.grad(expected, (x, phi.query.weight, *phi.offsets), dy),
        strict=True,
    ):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("appearance", ["squared_difference", "absolute_difference", "product"])
def test_local_relation_is_its_formula(appearance):
    phi = definitions.with_statistics(LocalRelationKernelGenerator(6, 3, 2, appearance=appearance, border=0.7))
    x = image(2, 6, 3, 4)
    torch.testing.assert_close(phi(x), definitions.local_relation(phi, x))


@pytest.mark.parametrize("name", ["san_pairwise", "san_patchwise"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_san_is_its_formula(name, kernel_size):
    phi = GENERATORS[name](6, kernel_size, 2, relation_channels=3, padding_mode="reflect")
    phi = definitions.with_statistics(phi)
    x = image(2, 6, 3, 4)
    torch.testing.assert_close(as_field(phi(x)), getattr(definitions, name)(phi, x))


def test_pairwise_san_over_zeros_leaves_out_what_is_outside():
    phi = definitions.with_statistics(SANPairwiseKernelGenerator(6, 3, 2, relation_channels=3))
    reflecting = definitions.with_statistics(
        SANPairwiseKernelGenerator(6, 3, 2, relation_channels=3, padding_mode="reflect")
    )
    reflecting.load_state_dict(phi.state_dict())
    x = image(1, 6, 4, 4)
    field = phi(x)
    torch.testing.assert_close(field[..., 1:-1, 1:-1], reflecting(x)[..., 1:-1, 1:-1])
    assert (field[:, :, 0, :, 0, :] == 0).all()
    torch.testing.assert_close(field.sum((2, 3)), torch.ones_like(field[:, :, 0, 0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_in_every_dimension_odd_sizes_and_strides(name, dims):
    x = torch.randn(1, 12, *(5, 4, 3)[:dims], requires_grad=True)
    field = as_field(GENERATORS[name](12, 3, 2, stride=2, dims=dims)(x))
    assert field.shape == (1, 2, *(3,) * dims, *(3, 2, 2)[:dims])
    field.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_as_a_layer_by_name(name):
    layer = Involution2d(16, 16, 3, stride=2, dilation=2, groups=2, kernel_generator=name)
    assert type(layer.kernel_generator) is GENERATORS[name]
    x = torch.randn(2, 16, 7, 6)
    y = layer(x)
    assert y.shape == (2, 16, 4, 3)
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_differences(name):
    layer = definitions.with_statistics(Involution2d(4, 4, 3, groups=2, kernel_generator=name))
    assert torch.autograd.gradcheck(layer, image(1, 4, 3, 2, requires_grad=True))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near(name):
    layer = Involution2d(16, 16, 3, groups=2, kernel_generator=name).eval()
    x = torch.randn(2, 16, 5, 6)
    with torch.no_grad():
        expected = layer(x)
        y = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_exported_for_any_size(name):
    layer = Involution2d(16, 16, 3, groups=2, kernel_generator=name).eval()
    x = torch.randn(2, 16, 6, 7)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, layer(x), atol=1e-5, rtol=1e-4)
        size = {2: torch.export.Dim("height", min=4, max=64), 3: torch.export.Dim("width", min=4, max=64)}
        exported = torch.export.export(layer, (x,), dynamic_shapes=(size,)).module()
        other = torch.randn(2, 16, 9, 5)
        torch.testing.assert_close(exported(other), layer(other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_traced_by_fx(name):
    layer = Involution2d(16, 16, 3, groups=2, kernel_generator=name).eval()
    x = torch.randn(1, 16, 5, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_one_pixel_in_training():
    """PyTorch refuses the batch statistics of one value."""
    layer = Involution2d(16, 16, 3, groups=2, kernel_generator="san_patchwise")
    assert torch.isfinite(layer(torch.randn(1, 16, 1, 1))).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: StandAloneKernelGenerator(6, 3, 2),
            r"head_channels must be divisible by 2, one part per axis, got 3; choose another",
        ),
        (
            lambda: LocalRelationKernelGenerator(8, 3, 2, appearance="sum"),
            r"unknown appearance 'sum'; expected one of 'squared_difference', 'absolute_difference', 'product'",
        ),
        (
            lambda: SANPairwiseKernelGenerator(8, 3, 2, padding_mode="circular"),
            r"padding_mode must be 'zeros' or 'reflect', got 'circular'",
        ),
        (lambda: SANPatchwiseKernelGenerator(8, 4, 2), r"padding='same' needs an odd kernel size"),
        (
            lambda: SANPatchwiseKernelGenerator(8, 7, 2, padding_mode="reflect")(torch.zeros(1, 8, 3, 9)),
            r"reflecting \(3, 3\) pixels needs a map of at least \(4, 4\), got \(3, 9\); use larger images",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
