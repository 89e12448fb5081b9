"""Nets whose involutions are other people's: converted by the command, loaded, and equal to what they were."""

import pickle

import pytest
import timm
import torch
from foreign_layers import AuthorsInvolution, AuthorsRedNet26, ConvolutionNorm, ReichInvolution, with_random_statistics
from torch import nn

from involution import Involution2d
from involution.commands.main import main
from involution.kernel_generation import BottleneckKernelGenerator
from involution.models import checkpoints, layer_checkpoints
from involution.models.checkpoints import CheckpointError


def net_of(*involutions):
    """Return a net around them, as a user has one: other layers keep their names."""
    net = nn.Module()
    net.stem = nn.Conv2d(3, 32, 3, padding=1)
    net.blocks = nn.Sequential(*(nn.Sequential(layer, nn.BatchNorm2d(32)) for layer in involutions))
    net.forward = lambda x: net.blocks(net.stem(x))
    return net


AUTHORS = [
    (lambda: AuthorsInvolution(32, 5, 1), lambda: Involution2d(32, 32, kernel_size=5)),
    (lambda: AuthorsInvolution(32, 7, 2), lambda: Involution2d(32, 32, kernel_size=7, stride=2)),
]
REICH = [
    (lambda: ReichInvolution(32, 32, 3, groups=2, reduce_ratio=4), lambda: Involution2d(32, 32, 3, groups=2)),
    (
        lambda: ReichInvolution(32, 32, 3, dilation=2),
        lambda: Involution2d(32, 32, 3, dilation=2, groups=1, reduction=1),
    ),
    (
        lambda: ReichInvolution(32, 32, 5, groups=4, reduce_ratio=2, bias=True),
        lambda: Involution2d(32, 32, 5, groups=4, reduction=2),
    ),
]


@pytest.mark.parametrize("pairs", [AUTHORS, REICH], ids=["authors", "reich"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_net_converted_by_the_command_computes_the_same(pairs, suffix, tmp_path, capsys):
    theirs = with_random_statistics(net_of(*(make() for make, _ in pairs)))
    ours = net_of(*(make() for _, make in pairs)).eval()
    checkpoints.write(theirs.state_dict(), tmp_path / f"theirs{suffix}")
    command = ["convert", str(tmp_path / f"theirs{suffix}"), str(tmp_path / "ours.safetensors"), "--layout", "layers"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{len(pairs)} involutions renamed" in printed
    assert "blocks.0.0: 32 to 32 channels, 8 hidden, K²·G = " in printed
    ours.load_state_dict(checkpoints.read(tmp_path / "ours.safetensors"))
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["openmmlab", "paddle"])
def test_a_whole_rednet_converted_by_the_command_computes_the_same(layout, tmp_path):
    theirs = with_random_statistics(AuthorsRedNet26(5))
    file = tmp_path / "rednet26.pth"
    torch.save({"state_dict": theirs.state_dict(), "meta": {"epoch": 130}}, file)
    if layout == "paddle":
        # The same net under Paddle's names, by hand: no prefix, other statistics, the transposed classifier.
        names = {"running_mean": "_mean", "running_var": "_variance", "head.fc": "fc", "backbone.": ""}
        arrays = {}
        for key, value in theirs.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                for old, new in names.items():
                    key = key.replace(old, new)
                arrays[key] = (value.t() if key == "fc.weight" else value).numpy().copy()
        file = tmp_path / "RedNet26_pretrained.pdparams"
        file.write_bytes(pickle.dumps(arrays, protocol=2))
    assert main(["convert", str(file), str(tmp_path / "ours.safetensors"), "--quiet"]) == 0
    ours = timm.create_model("rednet26", num_classes=5, checkpoint_path=str(tmp_path / "ours.safetensors")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, output = theirs(x), ours(x)
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_training_goes_on_as_it_would_have():
    """Outputs of batch statistics and gradients, too: a bias before a norm has no effect on either."""
    theirs = with_random_statistics(ReichInvolution(16, 16, 3, groups=2, reduce_ratio=2, bias=True))
    ours = Involution2d(16, 16, 3, groups=2, reduction=2)
    ours.load_state_dict(layer_checkpoints.to_ours(theirs.state_dict()).state)
    x = torch.randn(4, 16, 5, 5)
    results = []
    for layer, last in ((theirs.train(), theirs.span_mapping), (ours.train(), ours.kernel_generator.span)):
        images = x.clone().requires_grad_()
        output = layer(images)
        gradients = torch.autograd.grad(output.square().sum(), [images, last.weight, last.bias])
        results.append([output, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_what_our_layer_needs_beside_its_arguments_is_said_and_is_enough(tmp_path, capsys):
    theirs = with_random_statistics(ReichInvolution(16, 32, 3, groups=2, bias=True))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    assert (
        main(["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth"), "--layout=layers", "--quiet"]) == 0
    )
    printed = capsys.readouterr().out
    assert "BottleneckKernelGenerator(16, kernel_size, groups, hidden_channels=32)" in printed
    assert "set its value to nn.Conv2d(16, 32, 1)" in printed
    generator = BottleneckKernelGenerator(16, 3, 2, hidden_channels=32)
    ours = Involution2d(16, 32, 3, groups=2, kernel_generator=generator)
    ours.value = nn.Conv2d(16, 32, 1)
    ours.load_state_dict(checkpoints.read(tmp_path / "ours.pth"))
    x = torch.randn(1, 16, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_weights_without_such_layers_are_refused_and_those_with_are_pointed_on():
    plain = nn.Sequential(nn.Conv2d(3, 8, 1)).state_dict()
    with pytest.raises(CheckpointError, match="there is no involution in these weights: expected keys that end in"):
        layer_checkpoints.to_ours(plain)
    # Convolutions of these names are no involution's where they are not 1×1.
    spatial = {
        key: value.expand(-1, -1, 3, 3)
        for key, value in AuthorsInvolution(16, 3, 1).state_dict().items()
        if value.ndim == 4
    }
    with pytest.raises(CheckpointError, match="there is no involution"):
        layer_checkpoints.to_ours({**AuthorsInvolution(16, 3, 1).state_dict(), **spatial})
    with pytest.raises(CheckpointError, match="there is no involution"):
        layer_checkpoints.to_ours(
            {**AuthorsInvolution(16, 3, 1).state_dict(), "conv1.conv.weight": torch.ones(5, 16, 1, 1)}
        )
    with pytest.raises(CheckpointError, match="it holds involutions, whose names --layout layers converts"):
        checkpoints.to_timm(ReichInvolution(16, 16).state_dict())
    with pytest.raises(CheckpointError) as refused:
        checkpoints.to_timm(plain)
    assert "--layout layers" not in str(refused.value)


class Block(nn.Module):
    """Two 1×1 convolutions by mmcv's names, each with a norm or the second with a bias, too: no involution."""

    def __init__(self, bias):
        super().__init__()
        self.conv1, self.conv2 = ConvolutionNorm(16, 4, norm=True), ConvolutionNorm(4, 9, norm=True)
        if bias:
            self.conv2.conv.bias = nn.Parameter(torch.zeros(9))


@pytest.mark.parametrize("bias", [False, True])
def test_blocks_of_the_same_names_are_left(bias):
    state = nn.ModuleDict({"block": Block(bias), "layer": AuthorsInvolution(16, 3, 1)}).state_dict()
    converted = layer_checkpoints.to_ours(state)
    assert [layer.name for layer in converted.layers] == ["layer"]
    assert {key for key in state if key.startswith("block")} == {
        key for key in converted.state if key.startswith("block")
    }
    with pytest.raises(CheckpointError, match="there is no involution in these weights"):
        layer_checkpoints.to_ours(Block(bias).state_dict())


@pytest.mark.parametrize("hidden", [0, 1.5])
def test_a_hidden_width_that_is_none_is_refused(hidden):
    with pytest.raises((TypeError, ValueError), match="hidden_channels must be"):
        BottleneckKernelGenerator(16, 3, 1, hidden_channels=hidden)
