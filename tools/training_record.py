"""Write the record of a finished training of ``involution fit``, and publish its net.

    python -m tools.training_record RUN NAME [--results results/cifar10] [--weights weights/cifar10]

The record holds the configuration, what every epoch logged and the parameters of the net; the weights folder is the
run's ``model`` (safetensors and its description), for ``involution predict --model``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import timm
import yaml

import involution.models  # noqa: F401
from involution import records
from involution.counting import count
from involution.files import replaced_files

LIMIT_MIB = 20


def history(run: Path) -> list[dict[str, float]]:
    """Return what every epoch logged, from all logs of a run: a resumed training has several."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(run.glob("logs/version_*/metrics.csv"), key=lambda p: int(p.parent.name.partition("_")[2])):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("epoch"):
                    values = {key: float(value) for key, value in row.items() if value and key not in ("epoch", "step")}
                    rows.setdefault(int(row["epoch"]) + 1, {}).update(values)
    return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--results", type=Path, default=Path("results/cifar10"))
    parser.add_argument("--weights", type=Path, default=Path("weights/cifar10"))
    arguments = parser.parse_args()
    run, name = arguments.run, arguments.name
    configuration = yaml.safe_load(max((run / "logs").glob("version_*/config.yaml")).read_text(encoding="utf-8"))
    rows = history(run)
    epochs = configuration["trainer"]["max_epochs"]
    if len(rows) < epochs:
        raise SystemExit(f"{run} has {len(rows)} of {epochs} epochs; go on with --ckpt_path last")
    net = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    cost = count(net, net.pretrained_cfg["input_size"])
    # Where the data lay is nobody's concern.
    data = {key: value for key, value in configuration["data"]["init_args"].items() if key not in ("data_root", "root")}
    payload = {
        "seed": configuration["seed_everything"],
        "settings": {"model": configuration["model"]["init_args"], "data": data, "epochs": epochs},
        "results": {"params": cost.params, "macs": cost.macs, "history": rows},
    }
    size = sum(file.stat().st_size for file in (run / "model").iterdir()) / 2**20
    if size <= LIMIT_MIB:
        with replaced_files(arguments.weights / name) as partial:
            shutil.copytree(run / "model", partial, dirs_exist_ok=True)
    print(records.write(name, payload, arguments.results))


if __name__ == "__main__":
    main()
