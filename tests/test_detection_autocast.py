"""Detectors under autocast: finite losses, and boxes that are no coarser than without."""

import pytest
import torch
from detectors import batch, detector

from involution.models.detection import ARCHITECTURES


@pytest.mark.parametrize("architecture", ["retinanet", "mask_rcnn"])
def test_a_whole_detector_runs_under_autocast(architecture):
    net = detector(architecture, neck="involution", head="involution").to(memory_format=torch.channels_last)
    images, targets = batch((64, 64), (60, 70))
    with torch.autocast("cpu", torch.bfloat16):
        losses = net(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert len(net.eval()(images)) == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_boxes_are_no_coarser_under_autocast(architecture):
    net, (images, targets) = detector(architecture), batch((64, 64))
    kinds = set()

    def look(module, inputs, output):
        kinds.update(part.dtype for part in output)

    anchors = net.anchor_generator if architecture == "retinanet" else net.rpn.anchor_generator
    expected = anchors.cell_anchors[0].clone()
    anchors.register_forward_hook(look)
    if architecture != "retinanet":
        net.rpn.register_forward_hook(lambda module, inputs, output: look(module, inputs, output[0]))
        net.roi_heads.box_predictor.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        net(images, targets)
        for objects in net.eval()(images):
            kinds.update(value.dtype for name, value in objects.items() if name != "labels")
    assert kinds == {torch.float32}
    # torchvision replaces them by what they were rounded to, for every later image.
    assert torch.equal(anchors.cell_anchors[0], expected) and expected.dtype == torch.float32
