"""Involution in a configuration of Ultralytics' YOLO."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import yaml

from involution import Involution2d
from involution.errors import MissingPackageError
from involution.models.in_ultralytics import InvolutionBlock, register

CONFIGURATION = Path(__file__).parent.parent / "examples" / "ultralytics" / "yolo_involution.yaml"


def test_the_block_is_a_residual():
    block = InvolutionBlock(32, kernel_size=5, group_channels=8)
    layer = block.involution[0]
    assert isinstance(layer, Involution2d) and layer.groups == 2 and layer.kernel_size == (5, 5)
    torch.nn.init.zeros_(block.expand[1].weight)
    x = torch.randn(2, 32, 7, 9)
    assert torch.equal(block(x), x)


def test_without_the_package_its_licence_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingPackageError, match=r"pip install ultralytics \(its licence is AGPL-3.0\)"):
        register()


def test_the_configuration_is_a_detector_that_learns():
    tasks = pytest.importorskip(
        "ultralytics.nn.tasks", reason="ultralytics is not installed; it is under AGPL-3.0, no part of the extras"
    )
    from ultralytics.cfg import get_cfg

    register()
    torch.manual_seed(0)
    net = tasks.DetectionModel(yaml.safe_load(CONFIGURATION.read_text("utf-8")), nc=2, verbose=False)
    blocks = [module for module in net.modules() if isinstance(module, InvolutionBlock)]
    assert len(blocks) == 10 and net.stride.tolist() == [8, 16, 32]
    net.args = get_cfg()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.5, 0.3]]),
    }
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses, of_classes = [], []
    for _ in range(60):
        loss, parts = net(copy.copy(batch))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.sum().item())
        of_classes.append(float(parts["cls_loss"]))
    # The loss of the boxes begins near zero: a box weighs as much as its class is believed.
    assert losses[-1] < 0.5 * max(losses) and of_classes[-1] < 0.5 * of_classes[0]
    assert all(parameter.grad is not None for block in blocks for parameter in block.parameters())
    net.eval()
    assert net(batch["img"])[0].shape == (2, 4 + 2, 64 + 16 + 4)
