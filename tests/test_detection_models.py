"""Detectors: every combination of parts trains, frozen parts stay, saved ones come back, refusals are sentences."""

import json

import pytest
import timm
import torch
from detectors import NARROW, SMALL, batch, detector
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from involution import Involution2d
from involution.models import saved
from involution.models.backbones import Backbone
from involution.models.checkpoints import CheckpointError
from involution.models.detection import ARCHITECTURES, create
from involution.models.detection_parts import PlainL1
from involution.models.necks import PyramidBackbone, feature_pyramid
from involution.upsampling import CARAFE

PARTS = [("convolution", "convolution"), ("involution", "convolution"), ("involution", "involution")]


def train_step(net, images, targets):
    losses = net.train()(images, targets)
    loss = sum(losses.values())
    loss.backward()
    assert torch.isfinite(loss)
    return losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("neck", "head"), PARTS, ids=lambda part: part[:3])
def test_every_part_of_every_detector_trains(architecture, neck, head):
    net = detector(architecture, neck=neck, head=head)
    train_step(net, *batch((64, 80), (80, 64)))
    without = [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
    kinds = {"neck": net.backbone.fpn.layer_blocks, "head": net.head if architecture == "retinanet" else net.rpn.head}
    for part, kind in (("neck", neck), ("head", head)):
        held = any(isinstance(module, Involution2d) for module in kinds[part].modules())
        assert held == (kind == "involution"), part
    if architecture == "mask_rcnn":
        layers = [module for module in net.roi_heads.mask_head.modules() if isinstance(module, Involution2d)]
        assert len(layers) == (4 if head == "involution" else 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_found_is_in_the_image_and_labelled_from_zero(architecture):
    threshold = {"score_thresh" if architecture == "retinanet" else "box_score_thresh": 0.0}
    net = detector(architecture, **threshold).eval()
    images, _ = batch((50, 90), (71, 33))
    with torch.inference_mode():
        found = net(images)
    for image, objects in zip(images, found, strict=True):
        height, width = image.shape[1:]
        assert len(objects["boxes"]) > 0
        assert (objects["boxes"] >= 0).all() and (objects["boxes"] <= torch.tensor([width, height] * 2) + 1e-3).all()
        assert objects["labels"].min() >= 0 and objects["labels"].max() <= 2
        if architecture == "mask_rcnn":
            assert objects["masks"].shape[1:] == (1, height, width)


def test_background_is_torchvisions_label_zero_and_never_ours(monkeypatch):
    net = detector()
    seen = []
    monkeypatch.setattr(net.roi_heads, "check_targets", lambda targets: seen.extend(targets))
    train_step(net, *batch((64, 64)))
    assert seen[0]["labels"].tolist() == [1, 3]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_images_without_objects_train(architecture):
    images, targets = batch((64, 64), (64, 80), objects=0)
    train_step(detector(architecture, head="involution"), images, targets)


def test_no_proposals_at_all():
    images, targets = batch((64, 64), objects=0)
    net = detector("mask_rcnn", neck="involution", head="involution", rpn_score_thresh=1.0)
    train_step(net, images, targets)
    with torch.inference_mode():
        (found,) = net.eval()(images)
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 1, 64, 64)


@pytest.mark.parametrize("architecture", ["retinanet", "faster_rcnn"])
def test_maps_of_one_pixel_train_at_batch_one(architecture):
    # P6 of a 64-pixel image, and P6 and P7 of RetinaNet; φ of one pixel has no batch statistics.
    net = detector(architecture, neck="involution", head="involution")
    images, targets = batch((64, 64))
    levels = net.backbone(torch.stack(images))
    assert list(levels.values())[-1].shape[2:] == (1, 1)
    train_step(net, images, targets)


def test_the_l1_loss_is_the_l1_loss():
    a, b = torch.randn(7, 4), torch.randn(7, 4)
    with PlainL1():
        assert torch.equal(F.smooth_l1_loss(a, b, beta=1 / 9, reduction="sum"), F.l1_loss(a, b, reduction="sum"))
    losses = {}
    for kind in ("l1", "smooth_l1"):
        torch.manual_seed(0)
        losses[kind] = train_step(detector(box_loss=kind), *batch((64, 64)))
    for name in ("loss_box_reg", "loss_rpn_box_reg"):
        # |x| is at least the smooth loss, and at most half of beta above it per coordinate.
        assert losses["l1"][name] > losses["smooth_l1"][name]
    assert losses["l1"]["loss_objectness"] == losses["smooth_l1"]["loss_objectness"]


def test_several_sizes_in_training():
    net = detector(min_size=[48, 64, 96], max_size=128).train()
    sizes = {tuple(net.transform([torch.rand(3, 60, 60)])[0].tensors.shape[2:]) for _ in range(20)}
    assert sizes == {(64, 64), (96, 96)}
    assert net.eval().transform([torch.rand(3, 60, 60)])[0].image_sizes == [(96, 96)]


# Backbones and necks


def test_frozen_levels_stay_as_they_are():
    net = detector(frozen_levels=2)
    body = net.backbone.body.net
    frozen = [body.conv1, body.bn1, body.layer1]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    train_step(net, *batch((64, 64), (64, 64)))
    optimizer.step()
    assert not any(module.training for part in frozen for module in part.modules())
    assert body.layer2.training
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    prefix = "backbone.body.net."
    assert not any(name.startswith((f"{prefix}conv1.", f"{prefix}bn1.", f"{prefix}layer1.")) for name in changed)
    # The last norm of a block starts at zero and lets no gradient through at first.
    assert f"{prefix}layer2.0.bn3.weight" in changed and f"{prefix}layer2.0.bn1.running_mean" in changed


def test_norms_in_evaluation_still_train_their_weights():
    backbone = Backbone("rednet26", norm_eval=True, **NARROW).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert backbone.net.layer1.training and all(norm.weight.requires_grad for norm in norms)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_backbones_of_timm(name):
    levels = {"resnet18": (1, 2, 3, 4), "convnext_atto": (0, 1, 2, 3)}[name]
    backbone = Backbone(name, out_indices=levels, frozen_levels=levels[0] + 1)
    assert backbone.strides == [4, 8, 16, 32]
    fpn = feature_pyramid(backbone.channels, 32, spatial_layer="involution")
    maps = PyramidBackbone(backbone, fpn, 32)(torch.randn(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps.values()] == [(2, 32, n, n) for n in (16, 8, 4, 2)]
    assert any(not p.requires_grad for p in backbone.parameters())


def test_weights_of_a_classifier_start_a_backbone(tmp_path):
    classifier = timm.create_model("rednet26", num_classes=4, **NARROW)
    file = tmp_path / "model.safetensors"
    save_file(classifier.state_dict(), file)
    for place in (file, tmp_path):
        backbone = Backbone("rednet26", weights=place, **NARROW)
        assert torch.equal(backbone.net.layer3[0].conv1.weight, classifier.layer3[0].conv1.weight)
    # timm flattens the containers of some networks.
    save_file(timm.create_model("convnext_atto").state_dict(), file)
    Backbone("convnext_atto", out_indices=(0, 1, 2, 3), weights=file)
    # Levels that are cut off have weights in the file, and need none.
    Backbone("convnext_atto", out_indices=(0, 1), weights=file)
    with pytest.raises(CheckpointError, match=r"do not fit the backbone rednet26: missing conv1.0.weight"):
        Backbone("rednet26", weights=file)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*none.pth"):
        Backbone("rednet26", weights=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("net", "deeper", "levels", "unknown"),
    [
        (("rednet26", NARROW), ("rednet38", NARROW), (1, 2, 3, 4), "layer1.1"),
        (("convnext_atto", {}), ("convnext_atto", {"depths": (2, 2, 7, 2)}), (0, 1, 2, 3), "stages.2.blocks.6"),
    ],
    ids=["rednet", "convnext"],
)
def test_weights_of_a_deeper_net_are_refused_and_those_of_levels_that_are_cut_off_left(
    net, deeper, levels, unknown, tmp_path
):
    for file, (name, options) in (("net", net), ("deeper", deeper)):
        save_file(timm.create_model(name, **options).state_dict(), tmp_path / f"{file}.safetensors")
    name, options = net
    with pytest.raises(CheckpointError, match=f"do not fit the backbone {name}: unknown {unknown}"):
        Backbone(name, out_indices=levels, weights=tmp_path / "deeper.safetensors", **options)
    assert len(Backbone(name, out_indices=levels[:2], weights=tmp_path / "net.safetensors", **options).channels) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: create("yolo", 3), "unknown detector 'yolo'; expected one of retinanet, faster_rcnn, mask_rcnn"),
        (lambda: create("retinanet", 0), "num_classes must be at least 1, got 0"),
        (lambda: detector(backbone="rednet27"), "unknown backbone 'rednet27'; expected rednet26, 38, 50, 101, 152"),
        (lambda: detector(neck="inv"), "unknown neck 'inv'; expected 'involution', 'convolution' or a callable"),
        (
            lambda: detector(neck_upsampling="bilinear"),
            "unknown upsampling 'bilinear'; expected one of 'nearest', 'carafe'",
        ),
        (lambda: detector(head="inv"), "unknown head 'inv'; expected 'involution', 'convolution' or a callable"),
        (
            lambda: detector(bux_channels=3),
            "unknown argument 'bux_channels'; torchvision's FasterRCNN takes .*, box_batch_size",
        ),
        *(
            (
                lambda part=part: detector("mask_rcnn", **{part: nn.Identity()}),
                f"{part} is made here, by {argument}; give that instead, or replace the part in the net",
            )
            for part, argument in (
                ("rpn_anchor_generator", "anchor_sizes"),
                ("rpn_head", "head"),
                ("box_roi_pool", "roi_sampling_ratio"),
                ("box_head", "box_channels"),
                ("box_predictor", "box_channels"),
                ("mask_roi_pool", "roi_sampling_ratio"),
                ("mask_head", "head"),
                ("mask_predictor", "neck_channels"),
            )
        ),
        (
            lambda: detector("retinanet", anchor_generator=3),
            "anchor_generator is made here, by anchor_sizes; give that",
        ),
        (
            lambda: detector(mask_head=3),
            "unknown argument 'mask_head'; torchvision's FasterRCNN takes bbox_reg_weights, box_",
        ),
        (lambda: detector(channels=64), r"channels are those of a backbone's stages .* feature pyramid neck_channels"),
        (lambda: detector(box_loss="l2"), "unknown box_loss 'l2'; expected 'l1' or 'smooth_l1'"),
        (lambda: detector(anchor_sizes=[8]), "anchor_sizes needs one value for each of the 5 levels, got 1"),
        (lambda: detector(frozen_levels=9), "frozen_levels must be between 0 and the 5 levels of rednet26, got 9"),
        (
            lambda: Backbone("vit_tiny_patch16_224", out_indices=(0, 1), frozen_levels=1),
            "the levels of vit_tiny_patch16_224 cannot be frozen one by one; use frozen_levels=0",
        ),
        (lambda: Backbone("resnet18", out_indices=(1, 9)), r"resnet18 cannot be a backbone with out_indices=\(1, 9\)"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_neck_of_carafes_trains_on_odd_maps(architecture):
    net = detector(architecture, neck="involution", neck_upsampling="carafe")
    # A CARAFE for every map but the coarsest of the backbone's, the added levels are no enlargements.
    assert sum(isinstance(m, CARAFE) for m in net.modules()) == len(net.backbone.body.channels) - 1
    net.transform.size_divisible = 1
    train_step(net, *batch((71, 83)))
    grads = [p.grad for m in net.backbone.fpn.upsamplers for p in m.parameters()]
    # The backbone is untrained, so that all pixels of a window nearly agree and the gradient is small, but there.
    assert grads and all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)


def test_carafe_stands_where_pixels_were_copied():
    """With kernels that take the middle pixel alone, it is the neck that copies."""
    torch.manual_seed(0)
    plain, carafe = (feature_pyramid([8, 12, 16], 8, upsampling=kind) for kind in ("nearest", "carafe"))
    carafe.load_state_dict(plain.state_dict(), strict=False)
    for upsampler in carafe.upsamplers:
        nn.init.zeros_(upsampler.content_encoder.weight)
        # The logits of the middle of 5×5, for each of the four places that a pixel becomes.
        upsampler.content_encoder.bias.data.view(25, 4)[12] = 100.0
    maps = {str(i): torch.randn(2, c, -(-13 // 2**i), -(-10 // 2**i)) for i, c in enumerate((8, 12, 16))}
    for name, level in plain(maps).items():
        torch.testing.assert_close(carafe(maps)[name], level)


def test_a_neck_of_carafes_is_exported_for_any_size():
    class TwoLevels(nn.Module):
        def __init__(self):
            super().__init__()
            self.finer, self.coarser = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.neck = feature_pyramid([8, 16], 8, upsampling="carafe")

        def forward(self, x):
            finer = self.finer(x)
            return self.neck({"0": finer, "1": self.coarser(finer)})

    net = TwoLevels().eval()
    sizes = {2: torch.export.Dim("height", min=8, max=256), 3: torch.export.Dim("width", min=8, max=256)}
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(1, 3, 30, 37),), dynamic_shapes=(sizes,)).module()
        for size in ((30, 37), (33, 40), (16, 19)):
            x = torch.randn(1, 3, *size)
            for name, level in net(x).items():
                torch.testing.assert_close(program(x)[name], level, rtol=1e-4, atol=1e-5)


# Saved nets


def description(net, **arguments):
    return saved.Description("detection", "faster_rcnn", arguments, ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3)


def test_a_saved_net_comes_back_and_misfits_are_named(tmp_path):
    net = detector(neck="involution").eval()
    arguments = {**SMALL, "box_channels": 32, "neck": "involution"}
    saved.save(tmp_path / "model", net, description(net, **arguments))
    again, described = saved.load(tmp_path / "model")
    assert described == description(net, **arguments) and not again.training
    images, _ = batch((64, 64))
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(net(images)[0].values(), again(images)[0].values(), strict=True))
    config = tmp_path / "model" / "config.json"
    content = json.loads(config.read_text())
    for change, words in (
        ({"arguments": {**arguments, "neck": "convolution"}}, "does not fit its description: missing backbone.fpn"),
        ({"arguments": {**arguments, "neck_channels": 32}}, "has shape"),
        ({"architecture": "yolo"}, "describes a net that cannot be built: unknown detector 'yolo'"),
        ({"task": "depth"}, "unknown task 'depth'; expected detection, segmentation"),
        ({"shape": 3}, "is no description of this version's"),
    ):
        config.write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=words):
            saved.load(tmp_path / "model")
    config.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        saved.describe(tmp_path / "model")
    config.write_text('{"architecture": "rednet26"}')
    assert saved.describe(tmp_path / "model") is None and saved.describe(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no saved net"):
        saved.load(tmp_path)


# Layouts, precisions, compilers


def test_channels_last_computes_the_same():
    net = detector("mask_rcnn", neck="involution", head="involution", box_score_thresh=0.0).eval()
    images, _ = batch((64, 64))
    with torch.inference_mode():
        expected = net.backbone(images[0][None])
        actual = net.to(memory_format=torch.channels_last).backbone(images[0][None])
        for name, level in expected.items():
            torch.testing.assert_close(actual[name], level, rtol=1e-4, atol=1e-5)
        assert net(images)[0]["masks"].shape[1:] == (1, 64, 64)


def test_backbone_and_neck_compile_and_export():
    backbone = detector(neck="involution").eval().backbone
    # No level of one pixel: an exported size of one is fixed.
    x = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        expected = backbone(x)
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)(x)
        dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
        program = torch.export.export(backbone, (x,), dynamic_shapes=(dynamic,))
        exported = program.module()(x)
        other = torch.randn(1, 3, 192, 128)
        larger = program.module()(other)
        for name, level in expected.items():
            torch.testing.assert_close(compiled[name], level, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(exported[name], level, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(larger[name], backbone(other)[name], rtol=1e-4, atol=1e-5)
