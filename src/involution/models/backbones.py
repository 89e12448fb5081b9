"""Any network of timm as the backbone of a detector or a segmentation net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from ..surgery.norms import is_batch_norm
from . import checkpoints, trained  # checkpoints registers RedNet

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A timm network that returns its maps at several strides; a part of it can be kept as it is while training.

    Args:
        name: of the network in timm, e.g. ``"rednet50"`` or ``"resnet50"``.
        out_indices: which of its feature levels are returned; in a ResNet, 0 is the stem (stride 2) and 1 to 4 are the
            stages (strides 4 to 32).
        weights: to start from: the name of weights that come with the library, such as ``rednet26_half.imagenette``, a
            file (``.safetensors``, ``.pth``, ``.pdparams``; the layouts of `checkpoints`), or a folder with a
            ``model.safetensors``, such as ``involution fit`` and timm write. None, or the word ``none``, for random ones.
        frozen_levels: how many feature levels, counted from the image, keep their weights and running statistics, with
            all layers before them: in a ResNet, 1 freezes the stem, 2 the stem and the first stage.
        norm_eval: whether every batch norm keeps its running statistics in training; its weights still train where
            they are not frozen.
        **arguments: of ``timm.create_model``.

    Attributes:
        channels: channels of the returned maps.
        strides: pixels of the image per pixel of each returned map.

    Raises:
        ValueError: timm knows no such network, or it cannot return or freeze these levels.
        involution.models.checkpoints.CheckpointError: the weights cannot be read or are another network's.

    Example:
        >>> import torch
        >>> from involution.models.backbones import Backbone
        >>> backbone = Backbone("rednet26", frozen_levels=2).eval()
        >>> backbone.channels, [tuple(m.shape[2:]) for m in backbone(torch.randn(1, 3, 64, 96))]
        ([256, 512, 1024, 2048], [(16, 24), (8, 12), (4, 6), (2, 3)])
    """

    def __init__(
        self,
        name: str,
        *,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        weights: str | Path | None = None,
        frozen_levels: int = 0,
        norm_eval: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__()
        try:
            self.net: Any = timm.create_model(name, features_only=True, out_indices=tuple(out_indices), **arguments)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError) as error:
            if "nknown model" in str(error):
                raise ValueError(
                    f"unknown backbone {name!r}; expected rednet26, 38, 50, 101, 152 or another name of "
                    "timm.list_models()"
                ) from error
            raise ValueError(
                f"{name} cannot be a backbone with out_indices={tuple(out_indices)} and {arguments}: "
                f"{error or type(error).__name__}"
            ) from error
        info = self.net.feature_info
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        place = trained.place(weights)
        if place is not None:
            self._load(place, name)
        self.norm_eval = norm_eval
        self._frozen = self._first_levels(name, frozen_levels)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of ``images`` ``(B, C, H, W)``, from the finest to the coarsest."""
        return self.net(images)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of training; what is frozen stays in evaluation, as do all batch norms with ``norm_eval``."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.norm_eval:
            for module in self.net.modules():
                if is_batch_norm(module):
                    module.eval()
        return self

    def _first_levels(self, name: str, count: int) -> list[nn.Module]:
        """Return the modules up to the end of the first ``count`` feature levels."""
        levels = [level["module"].replace(".", "_") for level in self.net.feature_info.info]
        if not 0 <= count <= len(levels):
            raise ValueError(f"frozen_levels must be between 0 and the {len(levels)} levels of {name}, got {count}")
        if not count:
            return []
        # timm rebuilds a network that returns its levels as a dictionary of the modules that follow one another.
        parts = dict(self.net.items()) if isinstance(self.net, nn.ModuleDict) else {}
        names = [part.replace(".", "_") for part in parts]
        if levels[count - 1] not in names:
            raise ValueError(f"the levels of {name} cannot be frozen one by one; use frozen_levels=0")
        return list(parts.values())[: names.index(levels[count - 1]) + 1]

    def _load(self, path: Path, name: str) -> None:
        file = path / "model.safetensors" if path.is_dir() else path
        if not file.exists():
            raise checkpoints.CheckpointError(
                f"there is no checkpoint at {file}; name a file, a folder, or what comes with the library: "
                f"{', '.join(trained.names())}"
            )
        state = checkpoints.under_our_names(checkpoints.read(file))
        expected = self.net.state_dict()
        flat = {key.replace(".", "_"): value for key, value in state.items()}
        # timm writes "stages_0.weight" where the whole network has "stages.0.weight".
        candidates = {key: state.get(key, flat.get(key.replace(".", "_"))) for key in expected}
        found = {key: value for key, value in candidates.items() if value is not None}
        # Of the whole network levels and the classifier may be cut off; of what is there nothing may be left over.
        matched = {key.replace(".", "_") for key in found}
        parts = {key.partition(".")[0] for key in expected}
        left = {
            k: v for k, v in state.items() if k.replace(".", "_") not in matched and not parts.isdisjoint(_above(k))
        }
        problems = checkpoints.misfit({**found, **left}, expected, listed=5)
        if problems:
            raise checkpoints.CheckpointError(f"the weights in {file} do not fit the backbone {name}: {problems}")
        self.net.load_state_dict(found)


def _above(key: str) -> set[str]:
    """Return the modules that hold a tensor, named as timm names parts: ``stages``, ``stages_0``, ``stages_0_blocks``, …."""
    names = key.split(".")[:-1]
    return {"_".join(names[: i + 1]) for i in range(len(names))}
