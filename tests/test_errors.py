"""Bad input gets one sentence: what was expected, what came, what to do."""

import pytest
import torch

from involution import (
    Involution2d,
    Span,
    backends,
    correlation2d,
    fold_batch_norms,
    involution1d,
    involution2d,
    involution3d,
    involution_of_span,
)
from involution.geometry import to_window
from involution.kernel_generation import (
    BottleneckKernelGenerator,
    LocalAttentionKernelGenerator,
    create_kernel_generator,
)

X = torch.zeros(2, 8, 6, 7)
H = torch.zeros(2, 2, 3, 3, 6, 7)

OPERATOR = [
    (
        lambda: involution2d(X[0], H),
        ValueError,
        r"input must have shape \(B, C, H, W\), got shape \(8, 6, 7\), float32, cpu",
    ),
    (
        lambda: involution2d(X, H[0]),
        ValueError,
        r"kernel must have shape \(B, G, K_h, K_w, H', W'\), got shape \(2, 3, 3",
    ),
    (lambda: involution1d(X, H), ValueError, r"input must have shape \(B, C, L\)"),
    (lambda: involution3d(X, H), ValueError, r"input must have shape \(B, C, D, H, W\)"),
    (lambda: involution2d([[1.0]], H), TypeError, r"input must be a tensor of shape \(B, C, H, W\), got list"),
    (lambda: involution2d(X.int(), H.int()), TypeError, r"input must be float16, .*, got .*int32, cpu; convert it"),
    (lambda: involution2d(X + 0j, H + 0j), TypeError, r"got .*complex64"),
    (lambda: involution2d(X.bool(), H), TypeError, r"got .*bool"),
    (lambda: involution2d(X, H.double()), TypeError, r"same dtype, got .*float32, cpu and .*float64, cpu; convert one"),
    (lambda: involution2d(X, H.to("meta")), ValueError, r"same device, got .* cpu and .* meta; move one"),
    (lambda: involution2d(X, H[:1]), ValueError, r"same batch size, got shape \(2, 8, 6, 7\)"),
    (lambda: involution2d(X[:, :7], H), ValueError, r"divisible by the groups, got 7 channels and 2 groups; choose"),
    (lambda: involution2d(X, H[:, :0]), ValueError, r"got 8 channels and 0 groups"),
    (lambda: involution2d(X[:, :0], H), ValueError, r"got 0 channels and 2 groups"),
    (
        lambda: involution2d(X, H[..., 1:]),
        ValueError,
        r"one kernel per output pixel, .* grid of \(6, 7\) for an input of",
    ),
    (lambda: involution2d(X, H, stride=2), ValueError, r"output grid of \(3, 4\) .* stride \(2, 2\), padding \(1, 1\)"),
    (
        lambda: involution2d(X, H[:, :, :2]),
        ValueError,
        r"padding='same' needs an odd kernel size, got \(2, 3\); use an odd",
    ),
    (lambda: involution2d(X, H[:, :, :0]), ValueError, r"at least one tap per dimension"),
    (lambda: involution2d(X[:, :, :0], H), ValueError, r"every spatial size must be at least 1, got \(0, 7\)"),
    (lambda: involution2d(X, H, stride=0), ValueError, r"stride must be at least 1, got 0"),
    (lambda: involution2d(X, H, stride=(1, -2)), ValueError, r"stride must be at least 1, got \(1, -2\)"),
    (lambda: involution2d(X, H, stride=1.0), TypeError, r"stride must be an int or a tuple of 2 ints, got 1.0"),
    (lambda: involution2d(X, H, stride=True), TypeError, r"stride must be an int"),
    (
        lambda: involution2d(X, H, dilation=(1, 1, 1)),
        ValueError,
        r"dilation must be an int or a tuple of 2 ints, .* length 3",
    ),
    (lambda: involution2d(X, H, dilation=-1), ValueError, r"dilation must be at least 1, got -1"),
    (lambda: involution2d(X, H, padding=-1), ValueError, r"padding must be at least 0, got -1"),
    (
        lambda: involution2d(X, H, padding="full"),
        ValueError,
        r"padding must be an int, a tuple, 'same' or 'valid', got 'full'",
    ),
    (lambda: involution2d(X, H, padding=None), TypeError, r"padding must be an int or a tuple of 2 ints, got None"),
    (lambda: involution2d(X, H, padding="valid", dilation=4), ValueError, r"window of \(9, 9\) pixels .* does not fit"),
    (
        lambda: involution2d(X, H, backend="cuda"),
        ValueError,
        r"unknown backend 'cuda'; expected 'auto' or one of .*'reference'",
    ),
    (lambda: correlation2d(X, X[:, :4], 3), ValueError, r"query and key need the same number of channels"),
    (lambda: correlation2d(X[..., 1:], X, 3), ValueError, r"query must lie on the output grid \(6, 7\)"),
    (lambda: correlation2d(X, X, 3, groups=3), ValueError, r"got 8 channels and 3 groups"),
    (lambda: correlation2d(X, X, 0), ValueError, r"kernel_size must be at least 1, got 0"),
]

VALUE, HIDDEN, WEIGHT = torch.zeros(1, 8, 5, 5), torch.zeros(1, 4, 5, 5), torch.zeros(18, 4, 1, 1)


def of_span(*tensors, **more):
    return involution_of_span(*tensors, groups=2, kernel_size=3, **more)


SPAN = [
    (
        lambda: of_span(VALUE, HIDDEN, None),
        TypeError,
        r"weight must be a tensor of shape \(18, 4, 1, 1\), got NoneType",
    ),
    (lambda: of_span(VALUE, None, WEIGHT), TypeError, r"hidden must be a tensor of shape .*, got NoneType"),
    (lambda: of_span(VALUE, HIDDEN, WEIGHT[..., 0]), ValueError, r"weight must have shape \(18, 4, 1, 1\), got shape"),
    (lambda: of_span(VALUE, HIDDEN, WEIGHT[:9]), ValueError, r"4 channels to 2 groups .*, \(18, 4, 1, 1\), got shape"),
    (lambda: of_span(VALUE, HIDDEN, WEIGHT, 2.0), TypeError, r"bias must be a tensor of shape \(18,\), got float"),
    (
        lambda: of_span(VALUE, HIDDEN, WEIGHT, scale=2.0),
        TypeError,
        r"scale must be a tensor of shape \(8,\), got float",
    ),
    (
        lambda: of_span(VALUE, HIDDEN, WEIGHT, offset=[0.0]),
        TypeError,
        r"offset must be a tensor of shape \(8,\), got list",
    ),
    (
        lambda: of_span(VALUE, HIDDEN, WEIGHT, scale=torch.ones(1)),
        ValueError,
        r"scale must have shape \(8,\), got shape \(1,\)",
    ),
    (
        lambda: of_span(VALUE, HIDDEN, WEIGHT, offset=torch.ones(8, 1, 1)),
        ValueError,
        r"offset must have shape \(8,\), got shape \(8, 1, 1\)",
    ),
    (
        lambda: of_span(VALUE.bfloat16(), HIDDEN.bfloat16(), WEIGHT.bfloat16(), scale=torch.ones(8)),
        TypeError,
        r"scale and value must have the same dtype and device, got .*float32, cpu and .*bfloat16, cpu",
    ),
    (lambda: involution2d(X, (X, H)), TypeError, r"a tensor or a Span of hidden, .* got a tuple of \(Tensor, Tensor\)"),
    (
        lambda: involution2d(X, Span(HIDDEN, WEIGHT, None, 2, 3)),
        TypeError,
        r"the last a tuple with one number per dimension, got a tuple of \(Tensor, Tensor, NoneType, int, int\)",
    ),
    (
        lambda: Involution2d(8, kernel_generator=lambda x: (x, x))(X),
        TypeError,
        r"kernel must be a tensor or a Span .* got a tuple of \(Tensor, Tensor\)",
    ),
]


@pytest.mark.parametrize("call_under_autocast", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("call", "error", "words"), SPAN)
def test_sentences_of_spans_whatever_the_modes(call, error, words, grad, call_under_autocast):
    if call_under_autocast and "same dtype" in words:
        pytest.skip("there, autocast casts both")
    with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=call_under_autocast):
        with pytest.raises(error, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_autocast_lets_through_what_is_taken_without(dtype):
    with torch.autocast("cpu"):
        with pytest.raises(TypeError, match="input must be float16, bfloat16, float32 or float64, got"):
            involution2d(X.to(dtype), H.to(dtype))
        with pytest.raises(TypeError, match="key must be float16, bfloat16, float32 or float64, got"):
            correlation2d(X, X.to(dtype), 3)


MODULES = [
    (lambda: Involution2d(24, 24), ValueError, r"divisible by group_channels, got 24 channels in groups of 16; choose"),
    (lambda: Involution2d(16, 16, groups=3), ValueError, r"divisible by groups, got 16 channels and 3 groups"),
    (lambda: Involution2d(16, 16, 4), ValueError, r"padding='same' needs an odd kernel size, got \(4, 4\)"),
    (lambda: Involution2d(0), ValueError, r"in_channels must be at least 1, got 0"),
    (lambda: Involution2d(16, -1), ValueError, r"out_channels must be at least 1, got -1"),
    (lambda: Involution2d(16, 16, 0), ValueError, r"kernel_size must be at least 1, got 0"),
    (lambda: Involution2d(16, 16, stride=0), ValueError, r"stride must be at least 1, got 0"),
    (lambda: Involution2d(16, 16, reduction=0), ValueError, r"reduction must be at least 1, got 0"),
    (lambda: Involution2d(16, 16, group_channels=0), ValueError, r"group_channels must be at least 1, got 0"),
    (lambda: Involution2d(16.5), TypeError, r"in_channels must be an int"),
    (
        lambda: Involution2d(16, kernel_generator="mlp"),
        ValueError,
        r"unknown kernel generator 'mlp'; expected one of 'bottleneck'",
    ),
    (
        lambda: Involution2d(16, kernel_generator=3),
        TypeError,
        r"a name or a callable from \(B, C, H, W\) to the kernel field",
    ),
    (
        lambda: Involution2d(16, kernel_generator=BottleneckKernelGenerator),
        TypeError,
        r"made already, not its class\), got <class",
    ),
    (
        lambda: Involution2d(8, 8, 3, groups=2, kernel_generator=BottleneckKernelGenerator(8, 3, 4))(X),
        ValueError,
        r"makes 4 kernels of \(3, 3\) per pixel, the layer was made for 2 of \(3, 3\); pass groups=4, kernel_size=\(3, 3\)",
    ),
    (
        lambda: Involution2d(8, 8, 5, groups=2, kernel_generator=lambda x: H)(X),
        ValueError,
        r"makes 2 kernels of \(3, 3\) per pixel, the layer was made for 2 of \(5, 5\)",
    ),
    (
        lambda: Involution2d(16, norm_layer=torch.nn.BatchNorm2d(4)),
        TypeError,
        r"norm_layer must be a class .* BatchNorm2d\(4",
    ),
    (
        lambda: Involution2d(16, norm_layer="batch"),
        TypeError,
        r"norm_layer must be .* takes a number of channels .* 'batch'",
    ),
    (
        lambda: Involution2d(16, norm_layer=lambda n: n),
        TypeError,
        r"norm_layer must be .* returns a module, got <function",
    ),
    (lambda: Involution2d(16, act_layer=torch.nn.ReLU()), TypeError, r"act_layer must be a class or .* got ReLU\(\)"),
    (
        lambda: Involution2d(16, padding_mode="mirror"),
        ValueError,
        r"padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', got 'mirror'",
    ),
    (
        lambda: Involution2d(16, padding_mode="reflect", kernel_generator="attention"),
        ValueError,
        r"for a φ that sees single pixels, and for SAN's; LocalAttentionKernelGenerator leaves out what lies outside",
    ),
    (
        lambda: Involution2d(8, padding_mode="reflect")(X[..., :3]),
        ValueError,
        r"padding_mode='reflect' by \(3, 3\) pixels needs a map of at least \(4, 4\), got \(6, 3\); use larger images",
    ),
    (lambda: Involution2d(16, backend="cuda"), ValueError, r"unknown backend 'cuda'; expected 'auto' or one of"),
    (
        lambda: torch.jit.script(torch.nn.Sequential(Involution2d(16))),
        TypeError,
        r"cannot compile Involution2d; use torch.c",
    ),
    (lambda: fold_batch_norms(3), TypeError, r"model must be a torch.nn.Module, got int"),
    (lambda: Involution2d(16)(X), ValueError, r"4 dimensions, 16 channels in the second, got shape \(2, 8, 6, 7\)"),
    (lambda: Involution2d(8)(X[0]), ValueError, r"4 dimensions, 8 channels in the second, got shape \(8, 6, 7\)"),
    (
        lambda: Involution2d(8, kernel_generator=lambda x: x)(X),
        ValueError,
        r"kernel must have shape \(B, G, K_h, K_w, H', W'\)",
    ),
    (lambda: create_kernel_generator("softmax"), ValueError, r"unknown kernel generator 'softmax'"),
    (lambda: LocalAttentionKernelGenerator(8, 3, 2, head_channels=-1), ValueError, r"head_channels must be at least 1"),
]


@pytest.mark.parametrize(("call", "error", "words"), OPERATOR + MODULES)
def test_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_backend_that_cannot_serve_says_why(monkeypatch):
    class Picky:
        name = "picky"

        @staticmethod
        def unsupported(request):
            return "it serves nothing on Fridays"

    monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))
    backends.register(Picky)
    assert backends.available()[0] == "picky"
    assert backends.explain()["picky"] == "it serves nothing on Fridays"
    assert backends.explain(dtype=torch.float16, kernel_size=(3, 5))["reference"] is None
    with pytest.raises(
        RuntimeError, match="the picky backend cannot serve this call: it serves nothing on Fridays; use"
    ):
        involution2d(X, H, backend="picky")
    assert involution2d(X, H).shape == X.shape
    with pytest.raises(ValueError, match="already registered"):
        backends.register(Picky)


def test_use_prefers_a_backend_for_a_while():
    request = backends.Request(torch.device("cpu"), torch.float32, 16, to_window(7, 1, "same", 1, 2))
    before = backends.choose("auto", request).name
    with backends.use("reference"):
        assert backends.choose("auto", request).name == "reference"
    assert backends.choose("auto", request).name == before
    with pytest.raises(ValueError, match="unknown backend 'fast'"), backends.use("fast"):
        pass


def test_backend_from_the_environment():
    import os
    import subprocess
    import sys

    code = "import torch; from involution import involution2d; involution2d(torch.zeros(1,1,3,3), torch.zeros(1,1,3,3,3,3))"
    environment = {**os.environ, "INVOLUTION_BACKEND": "fastest"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "INVOLUTION_BACKEND names an unknown backend 'fastest'" in result.stderr
