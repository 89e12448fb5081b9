"""Layers and nets are plain PyTorch: what watches, replaces or subclasses a part of them is heard."""

import copy

import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import Involution2d, correlation2d, involution2d, involution_of_span
from involution.kernel_generation import BottleneckKernelGenerator


def small_rednet(**arguments):
    net = timm.create_model("rednet26", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), num_classes=3, **arguments)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


@pytest.mark.parametrize("inference", [False, True])
def test_what_a_users_activation_keeps_stays_as_it_was(inference):
    kept = []

    class Keeping(nn.ReLU):
        def forward(self, x):
            y = super().forward(x)
            kept.append((y, y.clone()))
            return y

    net = small_rednet()
    for block in (net.layer1[0], net.layer2[0], net.layer3[0]):
        block.act3 = Keeping()
    with torch.inference_mode(inference):
        net.eval()(torch.randn(1, 3, 64, 64))
    assert len(kept) == 3
    for y, copied in kept:
        assert torch.equal(y, copied)


@pytest.mark.parametrize("training", [False, True])
def test_hooks_of_every_module_fire(training):
    net = small_rednet().train(training)
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    called, forward, backward = set(), set(), set()
    for name, module in net.named_modules():
        # timm's block adds the shortcut to bn3's output in place, which PyTorch forbids where a backward hook watches.
        if "." in name and not list(module.children()) and not name.endswith("bn3"):
            called.add(name)
            module.register_forward_hook(lambda *_, name=name: forward.add(name))
            module.register_full_backward_hook(lambda *_, name=name: backward.add(name))
    net(torch.randn(2, 3, 64, 64, requires_grad=True)).sum().backward()
    assert forward == called
    assert backward == called


def test_full_backward_hooks_change_no_gradient():
    layer, x = Involution2d(16, kernel_size=3), torch.randn(2, 16, 6, 6)
    watched = copy.deepcopy(layer)
    for module in watched.modules():
        module.register_full_backward_hook(lambda *_: None)
    for one, other in zip(gradients(layer, x), gradients(watched, x), strict=True):
        assert torch.equal(one, other)


def gradients(layer, x):
    return torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))


def test_batch_statistics_where_none_are_tracked():
    """track_running_stats=False: the statistics of the batch, in evaluation too."""

    def make(channels):
        return nn.BatchNorm2d(channels, track_running_stats=False)

    layer, x = Involution2d(16, kernel_size=3, norm_layer=make).eval(), torch.randn(4, 16, 6, 6)
    with torch.no_grad():
        together, alone = layer(x), torch.cat([layer(x[:1]), layer(x[1:])])
        assert not torch.allclose(together, alone, atol=1e-3)
        torch.testing.assert_close(together, layer.train()(x))


@pytest.mark.parametrize("part", ["span", "generator", "layer", "subclass"])
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_replaced_is_called(part, grad):
    layer, x = Involution2d(16, kernel_size=3).eval(), torch.randn(1, 16, 6, 6)
    generator = layer.kernel_generator
    with torch.set_grad_enabled(grad):
        expected = 2 * layer(x)
        if part == "span":
            span = generator.span
            span.forward = lambda h: type(span).forward(span, 2 * h)._replace(bias=2 * span.bias)
        elif part == "generator":
            generator.forward = lambda x: 2 * type(generator).forward(generator, x).field()
        elif part == "layer":
            layer.generate_kernel = lambda x: 2 * type(layer).generate_kernel(layer, x).field()
        else:

            class Doubled(Involution2d):
                def generate_kernel(self, input):
                    return 2 * super().generate_kernel(input).field()

            doubled = Doubled(16, kernel_size=3).eval()
            doubled.load_state_dict(layer.state_dict())
            layer = doubled
        torch.testing.assert_close(layer(x), expected)


class Tagged(torch.Tensor):
    """A tensor subclass without a rule of its own."""


@pytest.mark.parametrize("grad", [False, True])
def test_tensor_subclasses(grad):
    layer, x = Involution2d(16, kernel_size=3).eval(), torch.randn(1, 16, 6, 6)
    with torch.set_grad_enabled(grad):
        expected = layer(x)
        y = layer(x.as_subclass(Tagged))
        assert type(y) is Tagged
        torch.testing.assert_close(y.as_subclass(torch.Tensor), expected)
        span = layer.kernel_generator.span
        span.weight = nn.Parameter(span.weight.detach().as_subclass(Tagged))
        torch.testing.assert_close(layer(x).as_subclass(torch.Tensor), expected)
    assert type(involution2d(x.as_subclass(Tagged), torch.randn(1, 1, 3, 3, 6, 6))) is Tagged
    assert type(correlation2d(x, x.as_subclass(Tagged), 3)) is Tagged


def test_negative_and_conjugate_tensors():
    """The imaginary part of a conjugate is a view whose sign is a bit."""
    x = torch.randn(1, 4, 5, 5, dtype=torch.cfloat).conj().imag
    kernel = torch.randn(1, 2, 3, 3, 5, 5, dtype=torch.cfloat).conj().imag
    hidden = torch.randn(1, 3, 5, 5, dtype=torch.cfloat).conj().imag
    weight = torch.randn(18, 3, 1, 1, dtype=torch.cfloat).conj().imag
    assert x.is_neg() and kernel.is_neg()
    plain = [t.resolve_neg().clone() for t in (x, kernel, hidden, weight)]
    assert not plain[0].is_neg()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(involution2d(x, kernel), involution2d(*plain[:2]))
            torch.testing.assert_close(correlation2d(x, x, 3), correlation2d(plain[0], plain[0], 3))
            arguments = {"groups": 2, "kernel_size": 3}
            expected = involution_of_span(plain[0], *plain[2:], **arguments)
            torch.testing.assert_close(involution_of_span(x, hidden, weight, **arguments), expected)


def test_zero_tensors():
    """Tensors without memory, as autograd makes them for gradients that are zero."""
    zero = torch._efficientzerotensor(1, 4, 5, 5)
    kernel = torch.randn(1, 2, 3, 3, 5, 5)
    assert not involution2d(zero, kernel).count_nonzero()
    assert not involution2d(torch.randn(1, 4, 5, 5), torch._efficientzerotensor(1, 2, 3, 3, 5, 5)).count_nonzero()


@pytest.mark.parametrize("layout", ["sparse", "mkldnn"])
def test_other_memory_layouts_get_a_sentence(layout):
    x, kernel = torch.randn(1, 4, 5, 5), torch.randn(1, 2, 3, 3, 5, 5)
    other = x.to_sparse() if layout == "sparse" else x.to_mkldnn()
    with pytest.raises(TypeError, match=r"input must be a dense tensor, got .* convert it with \.to_dense\(\)"):
        involution2d(other, kernel)


def test_one_value_per_channel_takes_the_running_statistics():
    """PyTorch refuses the statistics of one value; a φ on the coarsest map of one image meets it."""
    layer = Involution2d(16, kernel_size=3)
    for _ in range(3):
        layer(torch.randn(4, 16, 5, 5))
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(1, 16, 1, 1, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, copy.deepcopy(layer).eval()(x))
    y.sum().backward()
    assert x.grad is not None
    assert layer(torch.randn(0, 16, 4, 4)).shape == (0, 16, 4, 4)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_generator_of_ones_own_returns_a_field_or_what_makes_it():
    class Softmaxed(BottleneckKernelGenerator):
        def forward(self, x):
            return super().forward(x).field().flatten(2, 3).softmax(2).unflatten(2, (3, 3))

    layer = Involution2d(16, kernel_size=3, padding="valid", kernel_generator=Softmaxed(16, 3, 1))
    torch.testing.assert_close(layer(torch.ones(1, 16, 5, 5)), torch.ones(1, 16, 3, 3))
