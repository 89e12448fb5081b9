"""The command ``involution visualize``: heat maps and kernels of a net's involutions for an image, as one picture."""

from __future__ import annotations

from pathlib import Path

from ..errors import CommandError, InvolutionError

__all__ = ["visualize"]


def visualize(
    image: Path,
    *,
    model: str = "rednet26_half.imagenette",
    weights: Path | None = None,
    layers: list[str] | None = None,
    pixel: list[float] | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Draw what the involutions of a classifier make of an image: heat maps, and the kernels of one pixel.

    Args:
        image: an image file.
        model: a folder that ``involution fit`` wrote, a timm name with weights, or a hub address.
        weights: a checkpoint for a net given by name.
        layers: names of involutions, e.g. ``layer1.0.conv2,layer3.0.conv2``; ``all`` for every one, by default the last of
            each map size.
        pixel: whose kernels are drawn, in shares of height and width of what the net sees, e.g. ``0.3,0.5``; the middle by
            default.
        out: the picture; NAME-kernels.png in the current folder by default.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        CommandError: an argument is out of range, or the net has no involution.
        CheckpointError: the net cannot be loaded.
        DataError: the image cannot be read.
    """
    from ..data.image_folders import list_images
    from ..files import replaced
    from ..pictures.heatmaps import kernel_fields
    from ..pictures.layers import draw_layers, one_per_resolution
    from .classifiers import batches, load_classifier, visible
    from .input_images import InputImages
    from .options import find_device
    from .output_files import refuse_overwriting

    target = out or Path(f"{image.stem}-kernels.png")
    if target.suffix != ".png":
        raise CommandError(f"--out must end in .png, got {target}")
    files = list_images([image])
    if len(files) != 1:
        raise CommandError(f"{image} holds {len(files)} images; name one")
    refuse_overwriting([target], files, "choose another --out")
    place = find_device(device)
    try:
        net = load_classifier(model, weights, where="this command").to(place)
        ((_, inputs),) = batches(net, InputImages(files), 1)
        chosen = None if layers in (None, ["all"]) else layers
        fields = {name: field.cpu() for name, field in kernel_fields(net, inputs.to(place), chosen).items()}
        if layers is None:
            fields = one_per_resolution(fields)
        figure = draw_layers(visible(inputs)[0], fields, pixel or (0.5, 0.5))
    except InvolutionError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as file:
        figure.savefig(file, format="png", dpi=110)
    print(f"{target}: {', '.join(fields)}")
