"""Weights in the layout of the code that SAN's authors released."""

import family_definitions as definitions
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import involution.models
from involution.commands.main import main
from involution.models import checkpoints
from involution.models.checkpoints import CheckpointError
from involution.models.san import SAN

FORMS = ("pairwise", "patchwise")


class TheirLayer(nn.Module):
    """Modules of the authors' attention, by their names."""

    def __init__(self, form, channels, kernel_size):
        super().__init__()
        relation, width, groups = channels // 16, channels // 4, channels // 32
        self.conv1, self.conv2 = nn.Conv2d(channels, relation, 1), nn.Conv2d(channels, relation, 1)
        self.conv3 = nn.Conv2d(channels, width, 1)
        if form == "pairwise":
            first, hidden, last = relation + 2, relation, groups
            self.conv_p = nn.Conv2d(2, 2, 1)
        else:
            first, hidden, last = relation * (kernel_size**2 + 1), groups, kernel_size**2 * groups
        self.conv_w = nn.Sequential(
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, last, 1),
        )


class TheirBlock(nn.Module):
    def __init__(self, form, channels, kernel_size):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels // 4)
        self.sam = TheirLayer(form, channels, kernel_size)
        self.conv = nn.Conv2d(channels // 4, channels, 1)


class TheirNet(nn.Module):
    """Modules of the authors' net, by their names."""

    def __init__(self, form, layers, classes, kernel_sizes=(3, 7, 7, 7, 7), widths=(64, 64, 256, 512, 1024, 2048)):
        super().__init__()
        self.conv_in, self.bn_in = nn.Conv2d(3, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0])
        for n, (blocks, kernel_size) in enumerate(zip(layers, kernel_sizes, strict=True)):
            width = widths[n + 1]
            self.add_module(f"conv{n}", nn.Conv2d(widths[n], width, 1, bias=False))
            self.add_module(f"bn{n}", nn.BatchNorm2d(width))
            stage = nn.Sequential(*(TheirBlock(form, width, kernel_size) for _ in range(blocks)))
            self.add_module(f"layer{n}", stage)
        self.fc = nn.Linear(widths[-1], classes)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_theirs_converts_through_the_command_and_back(form, tmp_path, capsys):
    torch.manual_seed(0)
    theirs = TheirNet(form, (2, 1, 2, 4, 1), 7).state_dict()
    # As their training code writes it: a checkpoint of DataParallel.
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in theirs.items()}}, tmp_path / "model_best.pth")
    assert main(["convert", str(tmp_path / "model_best.pth"), str(tmp_path / "ours.safetensors")]) == 0
    output = capsys.readouterr().out
    assert f'timm.create_model("san10_{form}", num_classes=7, checkpoint_path=' in output
    timm.create_model(f"san10_{form}", num_classes=7, checkpoint_path=str(tmp_path / "ours.safetensors"))
    assert main(["convert", str(tmp_path / "ours.safetensors"), str(tmp_path / "back.pth"), "--layout", "san"]) == 0
    back = checkpoints.read(tmp_path / "back.pth")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("form", FORMS)
def test_converted_weights_compute_what_theirs_do(form):
    """A net of two blocks from the formulas, kernels shared by channels c mod G, against ours after conversion."""
    torch.manual_seed(0)
    sizes = {"kernel_sizes": (3,), "widths": (8, 64)}
    theirs = definitions.with_statistics(TheirNet(form, (2,), 3, **sizes))
    ours = SAN(form, (2,), sizes["kernel_sizes"], sizes["widths"], num_classes=3).double().eval()
    state, _ = checkpoints.san_checkpoints.to_ours(theirs.state_dict())
    ours.load_state_dict(state)
    image = torch.randn(1, 3, 6, 8, dtype=torch.float64)
    x = theirs.conv0(F.max_pool2d(theirs.bn_in(theirs.conv_in(image)).relu(), 2))
    for block in theirs.layer0:
        y = block.bn1(x).relu()
        weights = getattr(definitions, f"san_{form}")(as_phi(block.sam, form), y)
        y = definitions.san_aggregation(block.sam.conv3(y), weights, groups=2)
        x = x + block.conv(block.bn2(y).relu())
    scores = theirs.fc(theirs.bn0(x).relu().mean((2, 3)))
    torch.testing.assert_close(ours(image), scores)
    # Without the permutation they would be others.
    state["stage0.blocks.0.attention.value.weight"] = theirs.layer0[0].sam.conv3.weight
    ours.load_state_dict(state)
    assert not torch.allclose(ours(image), scores)


def as_phi(layer, form):
    """Give the formulas the modules of theirs by the names they look for."""

    class Phi:
        groups = layer.conv3.out_channels // 8
        window = involution.models.san.SANLayer(16, 8, 3, "pairwise").kernel_generator.window
        query, key = layer.conv1, layer.conv2
        act = nn.ReLU()

    if form == "pairwise":
        Phi.position, Phi.relation = layer.conv_p, layer.conv_w
    else:
        Phi.patch_norm, _, Phi.reduce, Phi.norm, _, Phi.span = layer.conv_w
    return Phi


def test_what_does_not_fit_is_named():
    theirs = TheirNet("pairwise", (2, 1, 2, 4, 1), 7).state_dict()
    with pytest.raises(CheckpointError, match=r"unknown key 'layer9\.conv\.weight' in the weights of a SAN"):
        checkpoints.to_timm({**theirs, "layer9.conv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"do not fit san10_pairwise: missing fc.weight"):
        checkpoints.to_timm({key: value for key, value in theirs.items() if key != "fc.weight"})
    few = {key: value for key, value in theirs.items() if not key.startswith("layer0.1.")}
    with pytest.raises(
        CheckpointError, match=r"no SAN has \(1, 1, 2, 4, 1\) blocks; expected one of \(2, 1, 2, 4, 1\)"
    ):
        checkpoints.to_timm(few)
    ours = checkpoints.to_timm(theirs).state
    with pytest.raises(CheckpointError, match=r"the layout 'paddle' has no names for this net; RedNets are written as"):
        checkpoints.from_timm(ours, "paddle")
    with torch.device("meta"):
        rednet = timm.create_model("rednet26").state_dict()
    with pytest.raises(CheckpointError, match=r"the layout 'san' has no names for this net"):
        checkpoints.from_timm(rednet, "san")
