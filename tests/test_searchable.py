"""Nets with a layer of their own in every block: the notation, every layer of the space, exact counts, export."""

import math
import re
from random import Random

import pytest
import timm
import torch

import involution.models  # noqa: F401
from involution.counting import count
from involution.export import to_onnx
from involution.models.searchable import REDNET26, Blocks, Layer
from involution.studies.search.space import SPACES, Space, active

TOKENS = [
    *(token for token in SPACES["mixed"] if token[0] != "i"),
    *(f"i{k}g{g}{phi}" for k in (3, 5, 7, 9) for g in (4, 8, 16) for phi in ("l", "r2", "r4", "r8")),
]
SIZE, CLASSES = 16, 10


def spatial_counts(token, channels, stride, side):
    """Return parameters and multiply-adds of a block's spatial layer on a map of this side, written out from the definitions."""
    layer = Layer.parse(token)
    out, taps = math.ceil(side / stride) ** 2, layer.kernel_size**2
    if layer.kind == "convolution":
        return taps * channels**2, out * taps * channels**2
    if layer.kind == "depthwise":
        return taps * channels, out * taps * channels
    if layer.kind == "attention":
        # Queries, keys of the whole map, products, products with the embeddings, sums of the values.
        params = 2 * channels**2 + taps * channels
        return params, channels**2 * (out + side**2) + 3 * out * taps * channels
    groups = channels // layer.group_channels
    if not layer.reduction:
        rows = taps * groups
        return rows * channels + rows, out * (rows * channels + taps * channels)
    hidden, rows = max(1, channels // layer.reduction), taps * groups
    params = channels * hidden + 2 * hidden + hidden * rows + rows
    return params, out * (channels * hidden + hidden * rows + taps * channels)


def counts(text, images=3):
    """Return parameters and multiply-adds of a net with the small stem, written out block by block."""
    stages = [part.split() for part in text.split("/")]
    width, side = int(stages[0][0]), SIZE
    params, macs = 9 * images * width + 2 * width, 9 * images * width * side**2
    for number, (channels, *tokens) in enumerate(stages):
        channels = int(channels)
        for place, token in enumerate(tokens):
            stride = 2 if number and not place else 1
            after = math.ceil(side / stride)
            own, work = spatial_counts(token, channels, stride, side)
            params += width * channels + own + 4 * channels**2 + (2 + 2 + 8) * channels
            macs += side**2 * width * channels + work + after**2 * 4 * channels**2
            if not place:
                params += 4 * width * channels + 8 * channels
                macs += after**2 * 4 * width * channels
            width, side = 4 * channels, after
    return params + width * CLASSES + CLASSES, macs + width * CLASSES


def create(text, **arguments):
    return timm.create_model("searchable_rednet", blocks=text, stem="small", num_classes=CLASSES, **arguments)


def test_the_space_has_53_layers():
    assert len(TOKENS) == len(set(TOKENS)) == 53


@pytest.mark.parametrize("token", TOKENS)
def test_every_layer_has_the_parameters_and_multiply_adds_of_its_definition_and_trains(token):
    text = f"8 c3 / 16 {token} {token} / 32 {token} / 16 d3"
    with torch.device("meta"):
        cost = count(create(text), (3, SIZE, SIZE))
    assert (cost.params, cost.macs) == counts(text) and not cost.uncounted
    net = create(text).train()
    before = {name: value.clone() for name, value in net.named_parameters() if "conv2" in name}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    # The last norm of a block starts at zero, so that gradients reach what is inside with the second step.
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.randn(4, 3, SIZE, SIZE)), torch.arange(4)).backward()
        optimizer.step()
    changed = [
        name for name, value in net.named_parameters() if name in before and not torch.equal(value, before[name])
    ]
    assert any(name.startswith("layer2.1.conv2") for name in changed)
    assert all(torch.isfinite(value).all() for value in net.parameters())


def test_the_default_is_rednet_26():
    with torch.device("meta"):
        ours, paper = (timm.create_model(name) for name in ("searchable_rednet", "rednet26"))
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (ours, paper)]
    assert shapes[0] == shapes[1] and str(ours.blocks) == REDNET26


def test_drawn_nets_are_read_as_they_are_written_and_build():
    for name in SPACES:
        space, generator = Space(name), Random(1)
        for _ in range(20):
            choices = space.draw(generator)
            blocks = space.net(choices)
            assert Blocks.parse(str(blocks)) == blocks
            assert {layer.kind for layer in blocks.layers} <= {
                "mixed": {"convolution", "depthwise", "involution", "attention"},
                "convolution": {"convolution", "depthwise"},
                "involution": {"involution"},
            }[name]
            assert all(width in (4, 8, 12, 16, 24, 32, 48, 64) for width in blocks.channels)
            # What a net does not show changes nothing; what it shows is enough to find it again.
            assert space.net({**space.draw(generator), **active(choices)}) == blocks
        with torch.device("meta"):
            assert count(create(str(blocks)), (3, SIZE, SIZE)).macs == counts(str(blocks))[1]


def test_choices_of_a_smaller_space_are_choices_of_the_mixed_one():
    small, mixed = Space("convolution"), Space()
    choices = small.draw(Random(0))
    assert mixed.net(mixed.completed(choices)) == small.net(choices)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8 c3 / 16 x3 / 32 c3 / 64 c3", "'x3' is no layer"),
        ("8 c3 / 16 i7g8 / 32 c3 / 64 c3", "'i7g8' is no layer"),
        ("8 c5 / 16 c3 / 32 c3 / 64 c3", "'c5' is a convolution of 5×5"),
        ("8 d4 / 16 c3 / 32 c3 / 64 c3", "'d4' has the kernel size 4"),
        ("8 i7g0l / 16 c3 / 32 c3 / 64 c3", "'i7g0l' has a group or a reduction of 0"),
        ("8 i7g8r0 / 16 c3 / 32 c3 / 64 c3", "'i7g8r0' has a group or a reduction of 0"),
        (
            "12 i7g8r4 / 16 c3 / 32 c3 / 64 c3",
            "'i7g8r4' has groups of 8 channels, which do not divide the 12 of stage 1",
        ),
        ("8 c3 / c3 / 32 c3 / 64 c3", "stage 2 begins with 'c3'"),
        ("8 c3 / / 32 c3 / 64 c3", "stage 2 begins with ''"),
        ("8 c3 / 16 / 32 c3 / 64 c3", "stage 2 has no block"),
        ("8 c3 / 16 c3", "must have 4 stages divided by slashes, got 2"),
        ("", "must have 4 stages"),
        (7, "must be a line"),
    ],
)
def test_a_line_that_is_no_net_is_refused_by_its_token(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        create(text)


@pytest.mark.parametrize(
    "name", ["layers", "channels", "base_width", "spatial_layer", "kernel_size", "kernel_generator", "cardinality"]
)
def test_what_the_line_says_is_refused_elsewhere(name):
    words = f"SearchableRedNet takes no {name}: blocks says it of every block; leave it out"
    with pytest.raises(ValueError, match=words):
        create("8 c3 / 16 c3 / 32 c3 / 64 c3", **{name: 1})


@pytest.mark.parametrize("arguments", [{"name": "all"}, {"widths": (8, 16, 32)}, {"widths": (8, 16, 32, 62)}])
def test_a_space_that_is_none_is_refused(arguments):
    with pytest.raises(ValueError, match=r"unknown space|multiples of 4"):
        Space(**arguments)


def test_choices_of_another_space_are_refused():
    choices = Space("convolution").draw(Random(0))
    with pytest.raises(ValueError, match="the choice kernel"):
        Space("involution").net({**choices, **{name: "i3" for name in choices if name.startswith("layer")}})


def test_features_and_norms_are_those_of_every_rednet():
    text = "8 i3g8r4 / 16 c3 / 32 d7 / 64 a3"
    net = create(text, features_only=True).eval()
    assert [tuple(level.shape[1:3]) for level in net(torch.randn(1, 3, 32, 32))][1:] == [
        (32, 32),
        (64, 16),
        (128, 8),
        (256, 4),
    ]
    groups = create(text, norm_layer="groupnorm1")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in groups.modules())


def test_a_net_of_every_kind_runs_in_onnx_runtime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = create("8 i7g8r4 c3 / 16 d7 i5g16l / 32 a3 i3g4r2 / 32 a7").eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    to_onnx(net, (x,), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(x).detach(), rtol=1e-4, atol=1e-5)
