"""Semantic FPN and UPerNet, whole-image and tiled inference."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="the backbones are timm's")

from involution import Involution2d
from involution.models import saved
from involution.models.segmentation import SemanticFPNHead, create, semantic_fpn, upernet
from involution.models.segmentation_inference import segment, windows

NARROW = {"channels": [16, 16, 32, 32]}


def small(neck="involution", **options):
    return semantic_fpn(
        5, "rednet26", neck=neck, neck_channels=16, head_channels=16, backbone_args=NARROW, **options
    ).eval()


@pytest.mark.parametrize("size", [(65, 97), (64, 64), (33, 50), (1, 7)])
@pytest.mark.parametrize(
    ("neck", "upsampling"), [("convolution", "nearest"), ("involution", "nearest"), ("involution", "carafe")]
)
def test_any_size_gives_logits_of_its_size(neck, upsampling, size):
    with torch.no_grad():
        assert small(neck, neck_upsampling=upsampling)(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_the_neck_is_what_it_is_said_to_be():
    def spatial(net):
        return [type(m) for m in net.decoder.pyramid.layer_blocks.modules() if isinstance(m, (Involution2d, nn.Conv2d))]

    assert spatial(small("involution")).count(Involution2d) == 4
    assert spatial(small("convolution")) == [nn.Conv2d] * 4


def test_any_backbone_of_timm_serves():
    net = semantic_fpn(3, "resnet18", neck="involution", neck_channels=32, head_channels=16).eval()
    assert net(torch.randn(1, 3, 40, 70)).shape == (1, 3, 40, 70)


def test_upernet_has_an_auxiliary_head_for_training_only():
    pytest.importorskip("transformers", reason="UPerNet's heads are transformers'")
    net = upernet(4, "rednet26", head_channels=16, auxiliary_channels=8, backbone_args=NARROW)
    logits, auxiliary = net(torch.randn(2, 3, 70, 45)), net.with_auxiliary(torch.randn(2, 3, 70, 45))[1]
    assert logits.shape == auxiliary.shape == (2, 4, 70, 45)
    assert [type(head.classifier[0]) for head in (net.decoder, net.auxiliary)] == [nn.Dropout2d] * 2
    without = upernet(4, "rednet26", head_channels=16, auxiliary_channels=0, backbone_args=NARROW)
    assert without.with_auxiliary(torch.randn(2, 3, 64, 64))[1] is None


def test_every_weight_of_a_net_learns():
    pytest.importorskip("transformers", reason="UPerNet's heads are transformers'")
    for net in (small().train(), upernet(5, "rednet26", head_channels=16, auxiliary_channels=8, backbone_args=NARROW)):
        logits, auxiliary = net.with_auxiliary(torch.randn(2, 3, 64, 64))
        (logits.square().mean() + (0 if auxiliary is None else auxiliary.square().mean())).backward()
        # The last norm of a block begins at zero, which holds back the gradients of what is before it in the block.
        idle = [n for n, p in net.named_parameters() if p.grad is None]
        assert idle == []


def test_group_norm_knows_no_batch():
    head = SemanticFPNHead(16, 24, 5, (4, 8, 16, 32), norm="group", dropout=0.0)
    assert {m.num_groups for m in head.modules() if isinstance(m, nn.GroupNorm)} == {8}
    levels = [torch.randn(3, 16, 32 >> i, 24 >> i) for i in range(4)]
    together = head(levels)
    torch.testing.assert_close(together[1:2], head([level[1:2] for level in levels]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: create("segformer", 3),
            r"unknown segmentation net 'segformer'; expected one of 'semantic_fpn', 'upernet'",
        ),
        (lambda: create("semantic_fpn", 0), r"num_classes must be at least 1, got 0"),
        (
            lambda: create("semantic_fpn", 3, nek="involution"),
            r"semantic_fpn cannot be built with {'nek': 'involution'}",
        ),
        (lambda: create("semantic_fpn", 3, backbone="rednet27"), r"unknown backbone 'rednet27'"),
        (lambda: small("attention"), r"unknown neck 'attention'; expected 'involution', 'convolution'"),
        (lambda: small(norm="layer"), r"unknown norm 'layer'; expected 'batch' or 'group'"),
    ],
)
def test_refusals_are_sentences(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_saved_net_gives_the_same_logits(tmp_path):
    arguments = {"backbone": "rednet26", "neck": "involution", "neck_channels": 16, "backbone_args": NARROW}
    net = create("semantic_fpn", 3, **arguments).eval()
    description = saved.Description("segmentation", "semantic_fpn", arguments, ("a", "b", "c"), (0, 0, 0), (1, 1, 1))
    saved.save(tmp_path / "model", net, description)
    loaded, found = saved.load(tmp_path / "model")
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    assert found == description


def test_nets_export_with_dynamic_sizes():
    net = small()
    dim = torch.export.Dim
    program = torch.export.export(
        net,
        (torch.randn(2, 3, 64, 96),),
        dynamic_shapes=({2: 32 * dim("h", min=2, max=8), 3: 32 * dim("w", min=2, max=8)},),
    )
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_level_of_the_head_is_enlarged_smoothly():
    head = SemanticFPNHead(1, 1, 1, (4, 16), dropout=0.0).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        for conv in (head.branches[1][0], head.branches[1][4]):
            conv.weight[0, 0, 1, 1] = 1
        for norm in (head.branches[1][1], head.branches[1][5]):
            norm.weight.fill_((1 + norm.eps) ** 0.5)
        head.classifier.weight.fill_(1)
        coarse = torch.rand(1, 1, 4, 6)
        found = head([torch.zeros(1, 1, 16, 24), coarse])
    smooth = coarse
    for _ in range(2):
        smooth = nn.functional.interpolate(smooth, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, smooth)


def test_classifiers_start_small_and_without_a_bias():
    pytest.importorskip("transformers", reason="UPerNet's heads are transformers'")
    torch.manual_seed(0)
    net = upernet(100, "rednet26", head_channels=48, auxiliary_channels=48, backbone_args=NARROW)
    head = SemanticFPNHead(16, 48, 100, (4, 8, 16, 32))
    for classifier in (net.decoder.classifier[1], net.auxiliary.classifier[1], head.classifier):
        assert classifier.weight.numel() == 4800
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not classifier.bias.any()


# Inference by windows


def local_net(reach=5):
    """Return a net whose logits depend on the pixels up to ``reach`` away."""
    layers = [nn.Conv2d(3, 4, 2 * reach + 1, padding=reach), nn.ReLU(), nn.Conv2d(4, 6, 1)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("size", [(40, 64), (97, 53), (64, 64)])
def test_windows_agree_with_the_whole_image_where_their_context_does(size):
    reach, window, stride = 5, (40, 48), (20, 24)
    net, images = local_net(reach), torch.randn(2, 3, *size)
    with torch.no_grad():
        whole = segment(net, images)
        tiled = segment(net, images, window=window, stride=stride)
    agree = torch.ones(size, dtype=torch.bool)
    for rows, columns in windows(size, window, stride):
        # What is nearer than the reach to an edge of a window that is no edge of the image lacks context.
        bottom, right = min(rows.stop, size[0]), min(columns.stop, size[1])
        lacking = torch.ones(bottom - rows.start, right - columns.start, dtype=torch.bool)
        top, left = reach * (rows.start > 0), reach * (columns.start > 0)
        lower, righter = reach * (bottom < size[0]), reach * (right < size[1])
        lacking[top : lacking.shape[0] - lower, left : lacking.shape[1] - righter] = False
        agree[rows.start : bottom, columns.start : right] &= ~lacking
    assert agree.float().mean() > 0.2
    torch.testing.assert_close(tiled[..., agree], whole[..., agree])
    if size != (40, 64):
        assert not torch.allclose(tiled, whole)


def test_a_window_as_large_as_the_image_changes_nothing():
    net, images = small(), torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        torch.testing.assert_close(segment(net, images, window=(64, 64)), segment(net, images), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(10, 10), (31, 64), (33, 65), (100, 47)])
def test_windows_cover_every_pixel(size):
    covered = torch.zeros(size)
    for rows, columns in windows(size, (32, 32), (21, 32)):
        assert rows.start >= 0 and columns.start >= 0
        assert covered[rows, columns].shape == tuple(min(32, side) for side in size)
        covered[rows, columns] += 1
    assert covered.min() >= 1


def test_probabilities_sum_up_to_one_over_scales_and_flips():
    net, images = small(), torch.randn(1, 3, 45, 52)
    with torch.no_grad():
        result = segment(net, images, size=(90, 104), scales=(0.75, 1.0, 1.5), flip=True, window=(32, 32))
    assert result.shape == (1, 5, 90, 104)
    torch.testing.assert_close(result.sum(1), torch.ones(1, 90, 104))


def test_flips_make_a_result_that_does_not_know_left_from_right():
    net, images = small(), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        result, mirrored = segment(net, images, flip=True), segment(net, images.flip(3), flip=True)
        torch.testing.assert_close(result, mirrored.flip(3), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(segment(net, images), segment(net, images.flip(3)).flip(3), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": ()}, r"scales must be factors from 0.1 to 10, one at least, got \(\)"),
        ({"scales": (1.0, 0.0)}, r"scales must be factors from 0.1 to 10, one at least, got \(1.0, 0.0\)"),
        ({"stride": (8, 8)}, r"stride belongs to a window"),
        ({"window": (8, 8), "stride": (9, 8)}, r"so that there are no gaps, got \(9, 8\) and \(8, 8\)"),
        ({"window": (0, 8)}, r"window and stride must be a height and a width, got \(0, 8\)"),
    ],
)
def test_views_refuse_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        segment(local_net(), torch.randn(1, 3, 16, 16), **options)
