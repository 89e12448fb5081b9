"""Measure properties of nets that need little or no training, and write records that claims are judged by.

    python -m benchmarks.properties shifts [--pair REDNET RESNET] … [--images 2500] [--data-root DATA]
    python -m benchmarks.properties overfitting [--pair REDNET RESNET] … [--data-root DATA]
    python -m benchmarks.properties receptive [--seeds 10] [--data-root DATA]
    python -m benchmarks.properties dropout [--dataset mnist] [--epochs 10] [--seeds 3] [--data-root DATA]

A pair is two classifiers of CIFAR-10 of one seed, by timm's name, the folder of a run's model, or NAME=CHECKPOINT, a net with
the weights of its training's (last.ckpt: RUN/model has those of the epoch that the test images found best); by default those
that come with the library. Several pairs are several seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch

from involution import records
from involution.data import ImageFolders, ImageTransforms, SmallImages
from involution.models import named
from involution.studies.comparison.nets import comparison_net
from involution.studies.comparison.training import RECIPES, train
from involution.studies.declared.outcome import markdown
from involution.studies.properties import receptive, shifts

PAIR = ("rednet14_eighth.cifar10", "resnet14_eighth.cifar10")
PIXELS = range(1, 9)
# Random images wide enough for the fields, photographs (of 112 pixels) and the stage that the fields are of.
SIZE, PHOTOGRAPH, STAGE = 448, 160, 3
Row = dict[str, Any]

_INVARIANCE = "kernels that every pixel makes for itself give up convolution's translation invariance"
_RADIUS = "random weights, radius of the effective receptive field after the third stage, pixels"
# What is judged by the records, as it is declared now.
CLAIMS: dict[str, list[dict[str, Any]]] = {
    "shifts": [
        {
            "words": _INVARIANCE,
            "source": "objection to the operator",
            "of": "resnet",
            "than": "rednet",
            "metric": "reflect_percent",
            "note": "same class after shifts of 1 to 8 pixels, reflected borders, CIFAR-10; both nets were trained with "
            "shifts of up to 4 pixels, zeros at the border",
        },
        {
            "words": _INVARIANCE,
            "source": "objection to the operator",
            "of": "resnet",
            "than": "rednet",
            "metric": "constant_percent",
            "note": "same class after shifts of 1 to 8 pixels, zeros at the border as in training, CIFAR-10",
        },
    ],
    "overfitting": [
        {
            "words": "involution overfits less than convolution",
            "source": "student report",
            "of": "resnet",
            "than": "rednet",
            "note": "RedNet-14 and ResNet-14 of an eighth of the width; accuracy on the training images, as they are, less that "
            "on the test images, CIFAR-10",
        }
    ],
    "receptive": [
        {
            "words": "involution reaches further than convolution",
            "source": "paper, its argument",
            "of": "involution 7×7",
            "than": "convolution 3×3",
            "note": f"7×7 against 3×3; {_RADIUS}",
        },
        {
            "words": "a larger kernel reaches further",
            "source": "paper, its argument",
            "of": "involution 7×7",
            "than": "involution 3×3",
            "note": f"7×7 against 3×3; {_RADIUS}",
        },
        {
            "words": "involution reaches further than a kernel of its size that is the same everywhere",
            "source": "this library: is it the size?",
            "of": "involution 7×7",
            "than": "depthwise 7×7",
            "note": f"7×7; {_RADIUS}",
        },
        {
            "words": "involution reaches further than convolution",
            "source": "paper, its argument",
            "of": "rednet26_half.imagenette",
            "than": "resnet26_half.imagenette",
            "note": f"trained on Imagenette and looking at its photographs, {PHOTOGRAPH} pixels wide, radius after the third stage, "
            "pixels",
        },
    ],
}


def row(net: str, seed: int, values: dict[str, float], **more: Any) -> Row:
    return {"net": net, "data": "", "setting": "", "seed": seed, "values": values, **more}


def pairs(arguments: argparse.Namespace) -> Iterator[tuple[str, int, torch.nn.Module]]:
    """Yield every net of every pair with its side and seed."""
    for seed, pair in enumerate(arguments.pair or [PAIR]):
        for side, name in zip(("rednet", "resnet"), pair, strict=True):
            net, _, checkpoint = name.partition("=")
            yield side, seed, named.classifier(net, checkpoint or None).eval()


def measure_shifts(arguments: argparse.Namespace) -> dict[str, Any]:
    images, _ = SmallImages("cifar10", arguments.data_root, download=False).test_set.__getitems__(
        range(arguments.images)
    )
    rows = []
    for side, seed, net in pairs(arguments):
        values = {}
        for padding in shifts.PADDINGS:
            found = shifts.consistency(net, images, PIXELS, padding)
            values |= {f"{padding}_{far}px_percent": share for far, share in found.items()}
            values[f"{padding}_percent"] = sum(found.values()) / len(found)
        rows.append(row(side, seed, values))
    return {
        "title": f"Images of CIFAR-10 with the same class after a shift by 1 to 8 pixels, % ({arguments.images} test images)",
        "metric": ["reflect_percent"],
        "claims": CLAIMS["shifts"],
        "results": rows,
    }


def measure_overfitting(arguments: argparse.Namespace) -> dict[str, Any]:
    data = SmallImages("cifar10", arguments.data_root, download=False)
    rows = []
    for side, seed, net in pairs(arguments):
        train_accuracy, test_accuracy = (shifts.accuracy(net, part) for part in (data.train_set, data.test_set))
        values = {
            "train_accuracy_percent": train_accuracy,
            "test_accuracy_percent": test_accuracy,
            "gap_points": train_accuracy - test_accuracy,
        }
        rows.append(row(side, seed, values))
    title = "Accuracy on CIFAR-10's training images less that on its test images, points"
    return {"title": title, "metric": ["gap_points"], "claims": CLAIMS["overfitting"], "results": rows}


# Nets of one stem and width that differ in the spatial layers of their stages.
FIELDS: dict[str, dict[str, Any]] = {
    "involution 7×7": {"kernel_size": 7},
    "involution 3×3": {"kernel_size": 3},
    "depthwise 7×7": {"spatial_layer": "depthwise", "kernel_size": 7},
    "convolution 3×3": {"spatial_layer": "convolution"},
}


def measure_receptive(arguments: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for seed in range(arguments.seeds):
        # One set of images for all nets of a seed.
        images = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        for name, options in FIELDS.items():
            torch.manual_seed(seed)
            net = timm.create_model("rednet26_half", stem="plain", zero_init_last=False, **options)
            strength = receptive.field(receptive.calibrated(net, images), images, STAGE)
            rows.append(row(name, seed, field_values(strength)))
    images = photographs(arguments.data_root)
    for name in ("rednet26_half.imagenette", "resnet26_half.imagenette"):
        rows.append(row(name, 0, field_values(receptive.field(named.classifier(name).eval(), images, STAGE))))
    title = f"Radius of the effective receptive field after stage {STAGE} (stride 16), pixels, random images of {SIZE}×{SIZE}"
    return {"title": title, "metric": ["radius_px"], "claims": CLAIMS["receptive"], "results": rows}


def photographs(data_root: str | None, count: int = 20) -> torch.Tensor:
    """Return some of Imagenette's validation images, of all classes, as its nets see them: ``(count, 3, PHOTOGRAPH, PHOTOGRAPH)``."""
    root = str(Path(data_root) / "imagenette") if data_root else "imagenette"
    data = ImageFolders(root, transforms=ImageTransforms(image_size=PHOTOGRAPH))
    data.setup("validate")
    images = data.sets["val"]
    return torch.stack([images[i * len(images) // count][0] for i in range(count)])


def field_values(strength: torch.Tensor) -> dict[str, float]:
    sides = {f"side_{share}_percent_px": receptive.share_within(strength, share / 100) for share in (50, 95)}
    return {"radius_px": receptive.radius(strength), **sides}


def measure_dropout(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = RECIPES[arguments.dataset, "published"]
    recipe = replace(recipe, epochs=arguments.epochs or recipe.epochs)
    data = SmallImages(
        arguments.dataset, arguments.data_root, batch_size=recipe.batch_size, scaling=recipe.scaling, download=False
    )
    rows = []
    for seed in range(arguments.seeds):
        for operator in ("convolution", "involution"):
            torch.manual_seed(seed)
            net = comparison_net(arguments.dataset, "published", operator)
            with TemporaryDirectory() as folder:
                train(
                    net,
                    data,
                    recipe,
                    num_classes=len(data.class_names),
                    seed=seed,
                    device=torch.device("cpu"),
                    checkpoint=Path(folder) / "last.ckpt",
                    title=f"{operator}, seed {seed}",
                )
            rows.append(row(operator, seed, dropout_values(net, data)))
    nets = f"its {arguments.dataset} nets after {recipe.epochs} epochs, judged {{}} dropout"
    generalises = {
        "words": "the accuracy on the training images is lower than on the test images: the net generalises",
        "source": "student report",
    }
    overfits = {
        "words": "involution overfits less than convolution",
        "source": "student report",
        "of": "involution",
        "than": "convolution",
        # What a net is better on test images than on those it was trained on, where it overfits less.
        "metric": "test_less_train_without_dropout_points",
        "note": nets.format("without"),
    }
    claims = [
        {
            **generalises,
            "of": operator,
            "metric": f"test_less_train_{how}_dropout_points",
            "note": f"{operator}; {nets.format(how)}",
        }
        for operator in ("convolution", "involution")
        for how in ("with", "without")
    ]
    title = f"Test accuracy less training accuracy of the report's nets on {arguments.dataset}, points"
    return {
        "title": title,
        "settings": {"epochs": recipe.epochs},
        "metric": ["test_less_train_without_dropout_points"],
        "claims": [*claims, overfits],
        "results": rows,
    }


def dropout_values(net: torch.nn.Module, data: SmallImages) -> dict[str, float]:
    """Return a net's accuracy on the training images with and without dropout, on the test images, and the differences."""
    with_dropout = shifts.accuracy(net.train(), data.train_set)
    without, test = (shifts.accuracy(net.eval(), part) for part in (data.train_set, data.test_set))
    return {
        "train_with_dropout_percent": with_dropout,
        "train_without_dropout_percent": without,
        "test_accuracy_percent": test,
        "test_less_train_with_dropout_points": test - with_dropout,
        "test_less_train_without_dropout_points": test - without,
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "shifts": measure_shifts,
    "overfitting": measure_overfitting,
    "receptive": measure_receptive,
    "dropout": measure_dropout,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("REDNET", "RESNET"))
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--dataset", default="mnist", choices=("digits", "mnist"))
    parser.add_argument("--epochs", type=int, help="those of the report's training by default")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--data-root")
    parser.add_argument("--results", type=Path, default=Path("results/properties"))
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or {"receptive": 10}.get(arguments.what, 3)
    measured = MEASURES[arguments.what](arguments)
    nets = list(dict.fromkeys(r["net"] for r in measured["results"]))
    table = [{"net": net, "label": net, "published": None, "published_as": ""} for net in nets]
    seeds = sorted({r["seed"] for r in measured["results"]})
    path = records.write(
        arguments.what, {"seed": seeds, "published": "", "tables": {"": table}, **measured}, arguments.results
    )
    print(markdown(records.read(path)))
    print(f"record: {path}")


if __name__ == "__main__":
    main()
