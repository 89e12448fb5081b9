"""The command ``involution ablate``: kernel size, channels per group and φ, varied one at a time in a small RedNet."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from .. import __version__, records
from ..errors import CommandError
from ..studies.ablation.results import BASE, CHANNELS, PARTS, AblationResult, figure, markdown, net_key
from .compare import choice, find_device, make_writable

__all__ = ["ablate"]


def ablate(
    dataset: str = "cifar10",
    *,
    epochs: int = 4,
    seed: int = 0,
    repeats: int = 1,
    device: str = "auto",
    data_root: str | None = None,
    out: str = "runs",
    fresh: bool = False,
) -> None:
    """Train small RedNets that differ in K, C/G or φ alone, and lay their accuracies beside the paper's ablations.

    Ten nets of four blocks and an eighth of the width, all trained alike. Writes table.md, trends.png and
    record.json, anew after every seed. Interrupted, it keeps the nets that are finished and the state of the one in
    training after its last epoch; the same command goes on from there.

    Args:
        dataset: cifar10, digits, mnist or fashion_mnist.
        epochs: passes over the training images.
        seed: of weights, order and augmentation of the images.
        repeats: train every net this often, with seeds from --seed on, and report means.
        device: auto, cpu, cuda, cuda:N or mps.
        data_root: folder of the data sets; by default the variable INVOLUTION_DATA, else data.
        out: folder of the results.
        fresh: train again what is finished.

    Raises:
        CommandError: an argument is out of range, or a folder cannot be written.
        DataError: the data set is missing, incomplete or damaged.
    """
    from ..data import DATASETS, SmallImages
    from ..studies.comparison.training import Recipe

    choice("data set", dataset, DATASETS)
    for name, value, least in (("epochs", epochs, 1), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value < least:
            raise CommandError(f"--{name} must be at least {least}, got {value}")
    place = find_device(device)
    # The comparison's recipe for fair nets.
    recipe = Recipe(epochs, 128, "standard", learning_rate=5e-3, epsilon=1e-8, label_smoothing=0.1, cosine=True)
    seeds = f"seed{seed}" if repeats == 1 else f"seeds{seed}-{seed + repeats - 1}"
    folder = Path(out) / "ablate" / f"{dataset}-{epochs}epochs-{seeds}"
    make_writable(folder)
    (folder / "nets").mkdir(exist_ok=True)
    # Digits and clothes are not mirrored; photographs may be.
    augmentation: dict[str, Any] = {"shift": 4, "flip": True} if dataset == "cifar10" else {"shift": 1}
    data = SmallImages(
        dataset, data_root, batch_size=recipe.batch_size, scaling=recipe.scaling, seed=seed, **augmentation
    )
    data.prepare_data()
    settings = {"dataset": dataset, "device": str(place), "augmentation": augmentation, "recipe": asdict(recipe)}
    run = _Run(settings, data, place, folder)
    nets = {net_key(variant.arguments): variant.arguments for variants in PARTS.values() for variant in variants}
    results: list[AblationResult] = []
    for number in range(seed, seed + repeats):
        for key, arguments in nets.items():
            try:
                results.append(run.result(key, arguments, number, fresh))
            except (KeyboardInterrupt, SystemExit):
                print(
                    f"Interrupted with {len(results)} of {len(nets) * repeats} nets finished, kept in {folder}; "
                    "the same command goes on from there",
                    file=sys.stderr,
                )
                raise
        run.write(results)


@dataclass(frozen=True)
class _Run:
    """One ablation: what all its nets share."""

    settings: Mapping[str, Any]
    data: Any
    device: torch.device
    folder: Path

    def result(self, key: str, arguments: Mapping[str, Any], seed: int, fresh: bool) -> AblationResult:
        """Return the result of a net, trained now unless it is finished already."""
        # What was made by another recipe or version has another name, and is not taken for finished.
        versions = json.dumps([self.settings, arguments, __version__, torch.__version__])
        stem = f"{key}-seed{seed}-{sha256(versions.encode()).hexdigest()[:8]}"
        finished, checkpoint = (self.folder / "nets" / f"{stem}{ending}" for ending in (".json", ".ckpt"))
        if fresh:
            finished.unlink(missing_ok=True)
            checkpoint.unlink(missing_ok=True)
        if finished.exists():
            try:
                result = AblationResult(**json.loads(finished.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise CommandError(f"{finished} is damaged ({error}); delete it and run again") from error
        else:
            result = self._train(key, arguments, seed, checkpoint)
            records.write_atomically(finished, json.dumps(asdict(result), indent=1))
            checkpoint.unlink(missing_ok=True)
        print(f"  {key}, seed {seed}: {result.test_accuracy_percent:.2f} % of the test images", flush=True)
        return result

    def _train(self, key: str, arguments: Mapping[str, Any], seed: int, checkpoint: Path) -> AblationResult:
        from copy import copy

        from ..counting import count
        from ..models.rednet import RedNet
        from ..studies.comparison.training import Recipe, train
        from ..tasks import TrainingError

        # Weights and the order of the images are the seed's, whatever was trained before.
        torch.manual_seed(seed)
        data = copy(self.data)
        data.seed = seed
        shape = tuple(data.train_set.images.shape[1:])
        classes = len(data.class_names)
        net = RedNet((1, 1, 1, 1), stem="small", channels=CHANNELS, in_chans=shape[0], num_classes=classes, **arguments)
        cost = count(net, shape)
        try:
            history = train(
                net,
                data,
                Recipe(**self.settings["recipe"]),
                num_classes=classes,
                seed=seed,
                device=self.device,
                checkpoint=checkpoint,
                title=f"  {key}, seed {seed}",
            )
        except TrainingError as error:
            raise CommandError(f"the net {key}, seed {seed}: {error}") from error
        return AblationResult(
            net=key,
            seed=seed,
            test_accuracy_percent=100 * history[-1]["test_accuracy"],
            training_s=sum(row["train_s"] for row in history),
            training_cpu_s=sum(row["train_cpu_s"] for row in history),
            params=cost.params,
            macs=cost.macs,
            history=history,
            finished=records.date(),
        )

    def write(self, results: list[AblationResult]) -> None:
        """Write table, picture and record; print the table."""
        from ..pictures.plots import png

        text = markdown(results)
        records.write_atomically(self.folder / "table.md", text)
        records.write_atomically(self.folder / "trends.png", png(figure(results)))
        settings = {**self.settings, "layers": [1, 1, 1, 1], "channels": list(CHANNELS), "default": BASE}
        payload = {"seed": results[0].seed, "settings": settings, "results": [asdict(result) for result in results]}
        path = records.write("record", payload, self.folder)
        print(f"\n{text}\nrecord: {path}", flush=True)
