"""Write the cards of all weights that come with the library, from their records: results/TAG/NAME.json for NAME.TAG.

python -m tools.model_cards [--results results]

The licence that a card states is written into the description beside it, ``config.json``, where timm reads it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from involution import records
from involution.files import read_json, write_atomically
from involution.models import trained

from . import trainings


class Data(NamedTuple):
    """What a card says of the images that weights were trained on."""

    words: str
    licence: str
    validation: str


LICENCE = "Apache-2.0, as the library, as far as the data's terms allow"

# By what stands before the first "_" of a tag: imagenette_seed1 is imagenette.
DATA = {
    "cifar10": Data(
        "CIFAR-10: 50,000 photographs of 32×32 pixels in 10 classes",
        "none is stated for the data set",
        "its 10,000 test images; there are no others, so that validation sees the test images",
    ),
    "imagenette": Data(
        "Imagenette: 9,469 photographs of 10 ImageNet classes, scaled to 112×112 by who trained",
        "photographs under ImageNet's terms: non-commercial research and education; use these weights accordingly",
        "its 3,925 validation images",
    ),
}


def commits(record: dict[str, Any]) -> str:
    """Return at which commits a training began and went on; where it kept none, when and at which one it was recorded."""
    (starts,) = trainings.starts_of(record)
    places = [f"{trainings.commit(start)}, {start['date'][:10]}" for start in starts or [record]]
    return "; continued at ".join(places) if starts else f"that of the training was not kept; recorded at {places[0]}"


def data_of(tag: str) -> Data:
    """Return what is said of the images behind a tag."""
    return DATA[tag.partition("_")[0]]


def chosen(record: dict[str, Any]) -> str:
    """Return which epoch's weights these are, and their accuracy."""
    history = record["results"]["history"]
    last, best = history[-1], max(history, key=lambda row: row["val_accuracy"])
    after = f"{100 * last['val_accuracy']:.2f} % after the last of {len(history)} epochs"
    if record.get("weights") == "last epoch" or best["epoch"] == last["epoch"]:
        return f"{after}; these are the weights of that epoch, so that nothing was chosen by these images"
    return (
        f"{after}. These are the weights of epoch {best['epoch']}, {100 * best['val_accuracy']:.2f} %, the best by the same "
        "images: quote the figure after the last epoch"
    )


def card(name: str, record: dict[str, Any], size_mib: float) -> str:
    """Return the card of weights.

    Args:
        name: ``NAME.TAG``.
        record: of `tools.training_record`.
        size_mib: of the file.
    """
    net, _, tag = name.partition(".")
    data = data_of(tag)
    results, settings = record["results"], record["settings"]
    rows = [
        ("trained on", data.words),
        ("licence of the data", data.licence),
        ("licence of the weights", LICENCE),
        ("parameters", f"{results['params']:,} ({size_mib:.1f} MiB)"),
        ("multiply-adds", f"{results['macs'] / 1e6:.1f} M an image"),
        ("recipe", f"`recipes/{tag.partition('_')[0]}/{net}.yaml`, {settings['epochs']} epochs, seed {record['seed']}"),
        ("judged on", data.validation),
        ("accuracy", chosen(record)),
        ("commit", commits(record)),
        ("record", f"`results/{tag}/{net}.json`"),
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "```python",
            "import timm",
            "import involution.models",
            "",
            f'net = timm.create_model("{name}", pretrained=True)',
            "```",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {key} | {value} |" for key, value in rows),
            "",
            "One small net of one seed, to start from and to try things with. It knows the ten classes of its data, sees",
            "images of their size, and is no substitute for weights of ImageNet.",
            "",
        ]
    )


def description(name: str, config: dict[str, Any]) -> str:
    """Return the ``config.json`` of weights: with their tag and the licence that their card states, and without a foreign origin.

    Args:
        name: ``NAME.TAG``.
        config: as ``involution fit`` wrote it, or this function before.
    """
    tag = name.partition(".")[2]
    kept = {
        key: value for key, value in config["pretrained_cfg"].items() if key not in ("tag", "license", "origin_url")
    }
    own = {"tag": tag, "license": f"{LICENCE} ({data_of(tag).licence})"}
    return json.dumps({**config, "pretrained_cfg": {**kept, **own}}, indent=2)


def cards(results: Path) -> dict[Path, str]:
    """Return every card, and every description with its licence, by its path."""
    found = {}
    for name in trained.names():
        net, _, tag = name.partition(".")
        folder = trained.FOLDER / name
        size = (folder / "model.safetensors").stat().st_size / 2**20
        found[folder / "README.md"] = card(name, records.read(results / tag / f"{net}.json"), size)
        found[folder / "config.json"] = description(name, read_json(folder / "config.json"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    for path, text in cards(arguments.results).items():
        write_atomically(path, text)
        print(path)


if __name__ == "__main__":
    main()
