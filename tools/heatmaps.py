"""Draw the heat maps of a classifier's kernels over test images, one image of each class a row, one layer a column.

python -m tools.heatmaps MODEL [--dataset cifar10] [--layers NAME …] [--classes 6] [--output docs/images/heatmaps.png]

MODEL is a folder that ``involution fit`` wrote, or the name of weights that come with the library. A pixel's colour is the sum of the weights of the
kernel that it made, the mean of all groups, as in the paper's visualisation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from involution.data import load
from involution.models import named
from involution.pictures.heatmaps import enlarge, kernel_heat_maps, overlay

from .markdown import write_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data_root")
    parser.add_argument("--layers", nargs="+", default=[f"layer{i}.0.conv2" for i in range(1, 5)])
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("docs/images/heatmaps.png"))
    arguments = parser.parse_args()
    from matplotlib.figure import Figure

    net: Any = named.classifier(arguments.model).eval()
    names = net.pretrained_cfg.get("label_names") or [str(i) for i in range(net.num_classes)]
    data = load(arguments.dataset, arguments.data_root)
    chosen = [int((data.test_labels == label).nonzero()[0]) for label in range(arguments.classes)]
    images = data.test_images[chosen]
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    inputs = (images.float() / 255 - mean) / std
    with torch.no_grad():
        probabilities = net(inputs).softmax(1)
    maps = kernel_heat_maps(net, inputs, arguments.layers)
    columns = 1 + len(maps)
    figure = Figure(figsize=(1.7 * columns, 1.95 * len(chosen)))
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    large = enlarge(images)
    for row, image, label, values in zip(grid, large, data.test_labels[chosen].tolist(), probabilities, strict=True):
        guess = int(values.argmax())
        row[0].imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
        wrong = "" if guess == label else f", taken for {names[guess]}"
        row[0].set_title(f"{names[label]} {100 * values[label]:.0f} %{wrong}", fontsize=8)
    for i, row in enumerate(grid):
        for axes, (name, fields) in zip(row[1:], maps.items(), strict=True):
            axes.imshow(overlay(large[i], fields[i].mean(0)).numpy())
            if not i:
                axes.set_title(name, fontsize=8)
        for axes in row:
            axes.axis("off")
    # A title stands nearer to its own image than to the one above.
    figure.tight_layout(pad=0.4, h_pad=1.2)
    write_picture(arguments.output, figure)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
