"""Write the record of a finished classifier of ``involution fit``, and let its weights come with the library.

    python -m tools.training_record RUN NAME.TAG [--results results] [--weights src/involution/weights]

The record, ``results/TAG/NAME.json``, holds the configuration, what every epoch logged and what the net costs. The
weights folder NAME.TAG holds the weights after the last epoch (nothing is chosen by the images that judge them), their
description and a card; it is found by ``timm.create_model("NAME.TAG", pretrained=True)``. Weights of more than 20 MiB are
not taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch

from involution import records
from involution.counting import count
from involution.files import read_json, replaced_files
from involution.models import checkpoints, trained
from involution.runs import RunFolder

from .model_cards import card, description

LIMIT_MIB = 20


def last_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return the weights of a run's net after its last epoch."""
    state = checkpoints.read_training(run.checkpoint)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", metavar="NAME.TAG")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--weights", type=Path, default=trained.FOLDER)
    arguments = parser.parse_args()
    run, (name, _, tag) = RunFolder(arguments.run), arguments.name.partition(".")
    configuration = run.configuration()
    if configuration is None or not tag:
        raise SystemExit("expected the folder of a run of involution fit, and a name such as rednet26_half.imagenette")
    epochs = configuration["trainer"]["max_epochs"]
    if not run.is_finished(epochs):
        raise SystemExit(f"{run.path} has {len(run.history())} of {epochs} epochs; go on with --ckpt_path last")
    net = timm.create_model(f"local-dir:{run.model}", pretrained=True)
    net.load_state_dict(last_weights(run))
    cost = count(net, net.pretrained_cfg["input_size"])
    # Where the data lay is nobody's concern.
    data = {key: value for key, value in configuration["data"]["init_args"].items() if key not in ("data_root", "root")}
    starts = run.environments()
    payload = {
        "seed": configuration["seed_everything"],
        "settings": {"model": configuration["model"]["init_args"], "data": data, "epochs": epochs},
        # Those of the training, where it kept them; the record's own are those of this command.
        "starts": [{key: start[key] for key in ("date", "commit", "modified", "machine")} for start in starts],
        "weights": "last epoch",
        "results": {"params": cost.params, "macs": cost.macs, "history": run.history()},
    }
    path = records.write(name, payload, arguments.results / tag)
    print(path)
    with replaced_files(arguments.weights / arguments.name) as partial:
        config = read_json(run.model / "config.json")
        (partial / "config.json").write_text(description(arguments.name, config), encoding="utf-8")
        checkpoints.write(net.state_dict(), partial / "model.safetensors", {"architecture": name})
        size = (partial / "model.safetensors").stat().st_size / 2**20
        if size > LIMIT_MIB:
            raise SystemExit(f"the weights have {size:.1f} MiB, more than {LIMIT_MIB}; only the record is kept")
        (partial / "README.md").write_text(card(arguments.name, records.read(path), size), encoding="utf-8")
    print(arguments.weights / arguments.name)


if __name__ == "__main__":
    main()
