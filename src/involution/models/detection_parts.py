"""What torchvision's detectors get in the place of their own: another loss, float32 for boxes, a proposal where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torchvision.models.detection.anchor_utils import AnchorGenerator

__all__ = ["Anchors", "PlainL1", "at_least_the_image", "in_float32"]


class PlainL1(TorchFunctionMode):
    """Inside, a smooth L1 loss is the L1 loss: torchvision writes the former out where it computes its losses."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.smooth_l1_loss:
            return F.l1_loss(args[0], args[1], reduction=kwargs.get("reduction", "mean"))
        return func(*args, **kwargs)


class Anchors(AnchorGenerator):
    """torchvision's anchors, in float32 at least: in the dtype of autocast's maps they would be off by whole pixels."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Put the anchors of a cell onto a device; torchvision keeps what it rounded."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


def in_float32(module: nn.Module, inputs: tuple, output: Any) -> Any:
    """Let boxes, scores and masks be computed in float32 from what a head says under autocast.

    bfloat16 has 8 bits: of a coordinate of 600 pixels it keeps multiples of 4.
    """
    if isinstance(output, Mapping):
        return {name: in_float32(module, inputs, part) for name, part in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(in_float32(module, inputs, part) for part in output)
    device = output.device.type
    # Of a net that is in half precision itself, all parts stay in one dtype. The meta device knows no autocast.
    has_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return output.float() if has_autocast else output


def at_least_the_image(rpn: nn.Module, inputs: tuple, output: Any) -> Any:
    """Propose the whole image in training where nothing is proposed: the losses are means over the proposals."""
    proposals, losses = output
    if not rpn.training or all(len(boxes) for boxes in proposals):
        return output
    whole = [boxes.new_tensor([[0, 0, w, h]]) for boxes, (h, w) in zip(proposals, inputs[0].image_sizes, strict=True)]
    return [boxes if len(boxes) else image for boxes, image in zip(proposals, whole, strict=True)], losses
