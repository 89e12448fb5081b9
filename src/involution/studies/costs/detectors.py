"""The detectors of the paper as rows of the cost tables: built for counting, and run as their published counts were."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["create_detector", "dense_and_regions"]

REGIONS, MASK_REGIONS = 1000, 100


def create_detector(name: str, **options: Any) -> nn.Module:
    """Build a detector as the published recipes train it: stem and first stage frozen, 80 classes."""
    from ...models.detection import create

    return create(name, 80, frozen_levels=2, norm_eval=True, **options)


def dense_and_regions(net: Any, images: Tensor, *, mask_predictor: bool = True) -> None:
    """Run what the published counts count: the layers on whole maps, and those on a fixed number of regions.

    The boxes that a detector finds depend on the image, so mmdetection counts the box head on 1,000 regions and the
    mask head on the first 100 of them; anchors, RoIAlign and the suppression of overlaps count nothing.

    Args:
        net: a detector of `involution.models.detection`.
        images: ``(B, 3, H, W)``, as the backbone takes them.
        mask_predictor: whether the deconvolution and the logits after the mask head run, too.
    """
    levels = list(net.backbone(images).values())
    if hasattr(net, "head"):
        net.head(levels)
        return
    net.rpn.head(levels)
    heads = net.roi_heads
    channels = net.backbone.out_channels

    def regions(count: int, pool: Any) -> Tensor:
        return images.new_zeros(count, channels, *pool.output_size)

    heads.box_predictor(heads.box_head(regions(REGIONS, heads.box_roi_pool)))
    if heads.has_mask():
        masks = heads.mask_head(regions(MASK_REGIONS, heads.mask_roi_pool))
        if mask_predictor:
            heads.mask_predictor(masks)
