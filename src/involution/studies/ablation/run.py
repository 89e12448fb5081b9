"""Small nets that differ in one thing, from plan to results: train what is not finished, write table, picture and record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import records
from ...counting import count
from ...data import SmallImages
from ...errors import CommandError
from ...files import write_atomically
from ...pictures.plots import png
from ...tasks import TrainingError
from ..comparison.training import RECIPES, Recipe, train
from ..net_files import NetFiles, name_of
from . import family, results
from .results import CHANNELS, LAYERS, AblationResult
from .summaries import summaries

__all__ = ["SETS", "NetSet", "Run"]


@dataclass(frozen=True)
class NetSet:
    """Nets that are trained alike.

    Attributes:
        nets: returns what differs, by the nets' names: JSON's types.
        build: an untrained net, from what differs, the channels of the images and the number of classes.
        markdown: the results as a table.
        figure: the results as a picture.
        whole: whether table and picture need the results of all nets.
    """

    nets: Callable[[], Mapping[str, Mapping[str, Any]]]
    build: Callable[[Mapping[str, Any], int, int], nn.Module]
    markdown: Callable[[Sequence[AblationResult]], str]
    figure: Callable[[Sequence[AblationResult]], Any]
    whole: bool


SETS = {
    "paper": NetSet(results.nets, results.build, results.markdown, results.figure, whole=True),
    "family": NetSet(lambda: family.NETS, family.build, family.markdown, family.figure, whole=False),
}


@dataclass(frozen=True)
class Run:
    """The training of one set of nets.

    Attributes:
        set: which nets.
        settings: of all its nets, JSON's types: data set, device, augmentation and recipe.
        recipe: of the training.
        device: where it trains.
        data: the images.
        folder: of the results.
        nets: what to train, by name.
    """

    set: NetSet
    settings: Mapping[str, Any]
    recipe: Recipe
    device: torch.device
    data: SmallImages
    folder: Path
    nets: Mapping[str, Mapping[str, Any]]

    @classmethod
    def plan(
        cls,
        nets: str,
        dataset: str,
        epochs: int,
        seeds: Sequence[int],
        device: torch.device,
        data_root: str | None,
        out: Path,
    ) -> Run:
        """Return the training of the nets of `SETS` with this name; nothing is written or read yet."""
        # The comparison's recipe for fair nets on photographs, whatever the data set.
        recipe = replace(RECIPES["cifar10", "fair"], epochs=epochs)
        # Digits and clothes are not mirrored; photographs may be.
        augmentation: dict[str, Any] = {"shift": 4, "flip": True} if dataset == "cifar10" else {"shift": 1}
        data = SmallImages(
            dataset, data_root, batch_size=recipe.batch_size, scaling=recipe.scaling, seed=seeds[0], **augmentation
        )
        settings = {"dataset": dataset, "device": str(device), "augmentation": augmentation, "recipe": asdict(recipe)}
        folder = out / "ablate" / f"{'' if nets == 'paper' else f'{nets}-'}{dataset}-{epochs}epochs-{name_of(seeds)}"
        return cls(SETS[nets], settings, recipe, device, data, folder, SETS[nets].nets())

    def results(self, seed: int, fresh: bool = False) -> Iterator[AblationResult]:
        """Yield the result of every net with this seed, trained now unless it is finished already.

        Args:
            seed: of weights and training.
            fresh: train again what is finished.

        Raises:
            CommandError: a kept result is damaged, or a training diverged.
        """
        (self.folder / "nets").mkdir(exist_ok=True)
        for key, arguments in self.nets.items():
            files = NetFiles.of(self.folder / "nets", f"{key}-seed{seed}", [self.settings, arguments])
            if fresh:
                files.forget()
            yield files.read(AblationResult) or self._train(key, arguments, seed, files)

    def _train(self, key: str, arguments: Mapping[str, Any], seed: int, files: NetFiles) -> AblationResult:
        # The weights are the seed's, whatever was trained before.
        torch.manual_seed(seed)
        shape = tuple(self.data.train_set.images.shape[1:])
        classes = len(self.data.class_names)
        net = self.set.build(arguments, shape[0], classes)
        cost = count(net, shape)
        try:
            history = train(
                net,
                self.data,
                self.recipe,
                num_classes=classes,
                seed=seed,
                device=self.device,
                checkpoint=files.checkpoint,
                title=f"  {key}, seed {seed}",
            )
        except TrainingError as error:
            raise CommandError(f"the net {key}, seed {seed}: {error}") from error
        result = AblationResult(
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
        files.keep(result)
        return result

    def write(self, results: Sequence[AblationResult]) -> Path:
        """Write ``table.md``, ``trends.png`` and ``record.json``; return the path of the record."""
        write_atomically(self.folder / "table.md", self.set.markdown(results))
        write_atomically(self.folder / "trends.png", png(self.set.figure(results)))
        settings = {**self.settings, "layers": list(LAYERS), "channels": list(CHANNELS), "nets": self.nets}
        payload = {
            "seed": results[0].seed,
            "settings": settings,
            "summaries": [asdict(summary) for summary in summaries(results)],
            "results": [asdict(result) for result in results],
        }
        return records.write("record", payload, self.folder)
