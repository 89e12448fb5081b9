"""The φ of other papers against their formulas, and what all of them hold."""

import family_definitions as definitions
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from involution import Involution1d, Involution2d, Involution3d, involution2d
from involution.kernel_generation import (
    LocalAttentionKernelGenerator,
    LocalRelationKernelGenerator,
    OutlookKernelGenerator,
    SANPairwiseKernelGenerator,
    SANPatchwiseKernelGenerator,
    StandAloneKernelGenerator,
    create_kernel_generator,
)
from involution.memory_layout import is_field_channels_last
from involution.span import as_field

# Outlook attention has no stride and no dilation.
STRIDING = ("sasa", "san_pairwise", "san_patchwise", "local_relation")
NAMES = (*STRIDING, "outlook")
GENERATORS = {
    "sasa": StandAloneKernelGenerator,
    "san_pairwise": SANPairwiseKernelGenerator,
    "san_patchwise": SANPatchwiseKernelGenerator,
    "local_relation": LocalRelationKernelGenerator,
    "outlook": OutlookKernelGenerator,
}
# The least window of each that sees neighbours.
TAPS = {name: 5 if name == "outlook" else 3 for name in NAMES}


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
@pytest.mark.parametrize("dilation", [1, 2])
def test_local_relation_is_its_formula(appearance, dilation):
    phi = LocalRelationKernelGenerator(6, 3, 2, appearance=appearance, border=0.7, dilation=dilation)
    phi = definitions.with_statistics(phi)
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


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (3, 3), (5, 2), (1, 1)])
def test_outlook_attention_is_its_formula(window, stride):
    phi = OutlookKernelGenerator(6, 2 * window - 1, 2, window_stride=stride, scale=0.7).double()
    torch.nn.init.normal_(phi.attention.weight)
    torch.nn.init.normal_(phi.attention.bias)
    x, values = image(2, 6, 5, 4), image(2, 4, 5, 4)
    expected = definitions.outlook(phi.attention, x, values, 2, window, stride, 0.7)
    torch.testing.assert_close(involution2d(values, phi(x)), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_outlook_attention_takes_the_weights_of_timms(stride):
    """The whole attention: a value projection, the involution, an output projection."""
    from timm.models.volo import OutlookAttention

    torch.manual_seed(0)
    theirs = OutlookAttention(12, 3, stride=stride).double()
    torch.nn.init.normal_(theirs.attn.weight)
    phi = OutlookKernelGenerator(12, 5, 3, window_stride=stride).double()
    phi.load_state_dict({"attention.weight": theirs.attn.weight[:, :, None, None], "attention.bias": theirs.attn.bias})
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    last = x.movedim(1, 3)
    y = theirs.proj(involution2d(theirs.v(last).movedim(3, 1), phi(x)).movedim(1, 3))
    torch.testing.assert_close(y, theirs(last))


@pytest.mark.parametrize(("dims", "layer"), [(1, Involution1d), (3, Involution3d)])
def test_outlook_attention_in_other_dimensions_is_that_of_a_flat_map(dims, layer):
    torch.manual_seed(0)
    flat = OutlookKernelGenerator(4, 5, 2, window_stride=2, dims=1).double()
    if dims == 1:
        wide = OutlookKernelGenerator(4, (1, 5), 2, window_stride=(1, 2)).double()
        shape = (2, 4, 1, 6)
    else:
        wide = OutlookKernelGenerator(4, (1, 5, 1), 2, window_stride=(1, 2, 1), dims=3).double()
        shape = (2, 4, 1, 6, 1)
    wide.load_state_dict(
        {key: value.view(getattr(wide.attention, key[10:]).shape) for key, value in flat.state_dict().items()}
    )
    x = image(2, 4, 6)
    torch.testing.assert_close(wide(x.view(shape)).flatten(), flat(x).flatten())


@pytest.mark.parametrize("name", STRIDING)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_in_every_dimension_odd_sizes_and_strides(name, dims):
    x = torch.randn(1, 12, *(5, 4, 3)[:dims], requires_grad=True)
    field = as_field(GENERATORS[name](12, 3, 2, stride=2, dims=dims)(x))
    assert field.shape == (1, 2, *(3,) * dims, *(3, 2, 2)[:dims])
    field.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_as_a_layer_by_name(name):
    steps = {"stride": 2, "dilation": 2} if name in STRIDING else {}
    layer = Involution2d(16, 16, TAPS[name], groups=2, kernel_generator=name, **steps)
    assert type(layer.kernel_generator) is GENERATORS[name]
    x = torch.randn(2, 16, 7, 6)
    y = layer(x)
    assert y.shape == (2, 16, 4, 3) if steps else x.shape
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["attention", "sasa", "local_relation", "san_pairwise"])
def test_a_softmax_of_a_channels_last_map_is_the_same_and_lies_as_the_map(name, groups):
    generator = LocalAttentionKernelGenerator if name == "attention" else GENERATORS[name]
    options = {"padding_mode": "zeros"} if name == "san_pairwise" else {}
    phi = definitions.with_statistics(generator(8, 3, groups, **options))
    x = image(2, 8, 3, 4)
    field = phi(x)
    lies = phi(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(lies, field)
    # Where no map of pairs lies between.
    assert name == "san_pairwise" or (is_field_channels_last(lies) and not is_field_channels_last(field))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_differences(name):
    layer = definitions.with_statistics(Involution2d(4, 4, TAPS[name], groups=2, kernel_generator=name))
    assert torch.autograd.gradcheck(layer, image(1, 4, 3, 2, requires_grad=True))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near(name):
    layer = Involution2d(16, 16, TAPS[name], groups=2, kernel_generator=name).eval()
    x = torch.randn(2, 16, 5, 6)
    with torch.no_grad():
        expected = layer(x)
        y = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", [*NAMES, "outlook, every other window"])
def test_compiled_and_exported_for_any_size(name):
    # Dynamo counts compilations of a layer's code, of which there are more here than it allows.
    torch.compiler.reset()
    if name in NAMES:
        layer = Involution2d(16, 16, TAPS[name], groups=2, kernel_generator=name).eval()
    else:
        phi = OutlookKernelGenerator(16, 5, 2, window_stride=2)
        layer = Involution2d(16, 16, 5, groups=2, kernel_generator=phi).eval()
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
    layer = Involution2d(16, 16, TAPS[name], groups=2, kernel_generator=name).eval()
    x = torch.randn(1, 16, 5, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


@pytest.mark.parametrize("name", ["bottleneck", "linear", "attention", *NAMES])
def test_built_without_memory_it_is_what_its_weights_say(name):
    """What is left of a module after ``to_empty`` are its weights, which ``load_state_dict`` brings."""
    arguments = {"kernel_size": TAPS.get(name, 3), "groups": 2, "kernel_generator": name}
    layer = Involution2d(16, 16, **arguments).eval()
    empty = Involution2d(16, 16, **arguments, device="meta").to_empty(device="cpu").eval()
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.data.fill_(77)
    empty.load_state_dict(layer.state_dict())
    x = torch.randn(1, 16, 5, 4)
    torch.testing.assert_close(empty(x), layer(x))


@pytest.mark.parametrize("name", ["bottleneck", "linear", "attention", *NAMES])
def test_no_groups_are_refused(name):
    sizes = {"in_channels": 16, "kernel_size": TAPS.get(name, 3), "groups": 0, "dims": 2}
    options = {"reduction": 4, "norm_layer": None, "act_layer": nn.ReLU, "stride": 1, "padding": "same", "dilation": 1}
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        create_kernel_generator(name, **sizes, **options)


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
        (lambda: LocalAttentionKernelGenerator(8, 3, 2, head_channels=0), r"head_channels must be at least 1, got 0"),
        (lambda: StandAloneKernelGenerator(8, 3, 2, head_channels=0), r"head_channels must be at least 1, got 0"),
        (
            lambda: LocalRelationKernelGenerator(8, 3, 2, appearance="sum"),
            r"unknown appearance 'sum'; expected one of 'squared_difference', 'absolute_difference', 'product'",
        ),
        (
            lambda: SANPairwiseKernelGenerator(8, 3, 2, padding_mode="circular"),
            r"padding_mode must be 'zeros' or 'reflect', got 'circular'",
        ),
        (
            lambda: Involution2d(8, kernel_generator="outlook"),
            r"is an involution with kernel_size 2K − 1: 5 for windows of 3, 9 for windows of 5; got \(7, 7\)",
        ),
        (
            lambda: Involution2d(8, 8, 5, stride=2, kernel_generator="outlook"),
            r"needs stride=1, padding='same' and dilation=1, got stride=\(2, 2\).* two windows are window_stride",
        ),
        (
            lambda: OutlookKernelGenerator(8, 5, 2, padding="valid"),
            r"folds its windows back .* got stride=1, padding='valid'",
        ),
        (lambda: OutlookKernelGenerator(8, 5, 2, dilation=2), r"folds its windows back .* and dilation=2"),
        (
            lambda: OutlookKernelGenerator(8, 5, 2, window_stride=4),
            r"window_stride must be at most K=\(3, 3\), got \(4, 4\): no window would hold the pixels between",
        ),
        (lambda: SANPatchwiseKernelGenerator(8, 4, 2), r"padding='same' needs an odd kernel size"),
        (
            lambda: SANPatchwiseKernelGenerator(8, 7, 2, padding_mode="reflect")(torch.zeros(1, 8, 3, 9)),
            r"padding_mode='reflect' by \(3, 3\) pixels needs a map of at least \(4, 4\), got \(3, 9\); use larger images",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
