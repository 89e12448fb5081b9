"""The page as a folder of files, which any file server serves and nothing else is needed for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import CommandError
from ..files import replaced_files
from . import nets, runtime

__all__ = ["build"]

PAGE = Path(__file__).parent / "page"
_SIDE = 480


def build(
    models: Sequence[tuple[str, Any, Sequence[str]]],
    images: Mapping[Path, str],
    folder: Path,
    *,
    web_runtime: Path | None = None,
) -> None:
    """Write the page.

    Args:
        models: of every net its name, itself (a classifier of timm in evaluation mode) and the names of its outputs; the
            page shows the kernels of those that have involutions.
        images: files that the page offers as examples, beside what the user brings, and how it calls them.
        folder: new, or one that this function filled before.
        web_runtime: see `runtime.find`.

    Raises:
        CommandError: the folder holds something else, or a net or image cannot be shown.
        ExportError: a net cannot be exported.
        MissingPackageError: ONNX's packages or npm are missing.
    """
    if folder.exists() and not (folder / "page.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} holds something else than this page; name a new folder with --out")
    served = runtime.find(web_runtime)
    with replaced_files(folder) as partial:
        for file in PAGE.iterdir():
            shutil.copyfile(file, partial / file.name)
        for name in runtime.FILES:
            shutil.copyfile(served / name, partial / name)
        content = {
            "runtime": f"onnxruntime-web {runtime.VERSION}",
            "nets": [
                nets.write(net, name, labels, partial / f"net-{number}.onnx")
                for number, (name, net, labels) in enumerate(models)
            ],
            "examples": [_write_example(*item, number, partial) for number, item in enumerate(images.items())],
            "colours": _colours(),
        }
        (partial / "page.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_example(file: Path, title: str, number: int, folder: Path) -> dict[str, str]:
    """Write an image no larger than a page shows it, without what its file says of place and camera."""
    from PIL import Image

    from ..data.images import read_image

    image = read_image(file, "RGB")
    scale = _SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    name = f"example-{number}.png" if max(image.size) <= 256 else f"example-{number}.jpg"
    image.save(folder / name, quality=90)
    return {"file": name, "name": title}


def _colours() -> dict[str, list[list[int]]]:
    """Return 256 colours of each kind of map: those of the library's own pictures."""
    from ..pictures.heatmaps import colours

    ramp = torch.arange(256.0)[None]
    return {name: colours(ramp, name)[0].tolist() for name in ("magma", "RdBu_r")}
