"""One comparison from plan to results: what to train, what is finished already, what the trained nets show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from ... import records
from ...data import DATASETS, SmallImages
from ...errors import CheckpointError, CommandError
from ...files import write_atomically
from ...models import checkpoints
from ...pictures import heatmaps
from ...tasks import TrainingError
from ...tasks.callbacks import Row
from .architecture import Layer, trace
from .net_files import NetFiles, name_of
from .nets import DESIGNS, OPERATORS, comparison_net, quirks
from .output import write_metrics, write_results
from .results import Comparison, NetResult, Samples, duration
from .training import RECIPES, Recipe, train

__all__ = ["Net", "Run"]


@dataclass(frozen=True)
class Net:
    """One net to train.

    Attributes:
        operator: ``"convolution"`` or ``"involution"``.
        seed: of weights and training.
        files: of its result, its weights and its state in training.
    """

    operator: str
    seed: int
    files: NetFiles


@dataclass(frozen=True)
class Run:
    """One comparison.

    Attributes:
        dataset: key of the data set.
        variant: ``"published"`` or ``"fair"``.
        recipe: of the training.
        device: where it trains.
        data: the images.
        folder: of the results.
        nets: what to train, in this order: by seed.
    """

    dataset: str
    variant: str
    recipe: Recipe
    device: torch.device
    data: SmallImages
    folder: Path
    nets: tuple[Net, ...]

    @classmethod
    def plan(
        cls,
        dataset: str,
        variant: str,
        epochs: int | None,
        seeds: Sequence[int],
        device: torch.device,
        data_root: str | None,
        out: Path,
    ) -> Run:
        """Return the comparison of these settings; nothing is written or read yet."""
        recipe = RECIPES[dataset, variant]
        if epochs is not None:
            recipe = replace(recipe, epochs=epochs)
        parts = [dataset, variant, f"{recipe.epochs}epochs", name_of(seeds)]
        if device.type != "cpu":
            parts.append(device.type)
        folder = out / "compare" / "-".join(parts)
        data = SmallImages(dataset, data_root, batch_size=recipe.batch_size, scaling=recipe.scaling)
        nets = tuple(
            Net(operator, seed, NetFiles.of(folder / "nets", f"{operator}-seed{seed}", [asdict(recipe)]))
            for seed in seeds
            for operator in OPERATORS
        )
        return cls(dataset, variant, recipe, device, data, folder, nets)

    def count_finished(self) -> int:
        """Return how many nets are trained and kept."""
        return sum(net.files.result.exists() for net in self.nets)

    def forget(self) -> None:
        """Delete what is trained, to train it again."""
        for net in self.nets:
            net.files.forget()

    def until(self, seed: int) -> Run:
        """Return the part of this comparison with the seeds up to ``seed``; it shares folder and nets."""
        return replace(self, nets=tuple(net for net in self.nets if net.seed <= seed))

    def execute(self, say: Callable[[str], None]) -> Comparison:
        """Train what is not finished and write all results.

        Args:
            say: called with a line at the beginning and at every net.

        Raises:
            CommandError: a kept result is damaged, or a training diverged.
        """
        (self.folder / "nets").mkdir(exist_ok=True)
        say(f"{DATASETS[self.dataset].title}, {self.variant} nets: {self.setting()}")
        results: list[NetResult] = []
        for net in self.nets:
            title = f"  {net.operator}, seed {net.seed}"
            result = net.files.read(NetResult)
            before = f" (finished before, {result.finished})" if result else ""
            result = result or self._train(net, title, results, say)
            say(f"{title}: {_in_words(result)}{before}")
            results.append(result)
        comparison = self._comparison(results)
        write_results(comparison, self.recipe, self.device, self.folder)
        return comparison

    def setting(self) -> str:
        """Return data and recipe in words."""
        images, recipe = self.data.train_set, self.recipe
        seeds = sorted({net.seed for net in self.nets})
        return (
            f"{len(images):,} training and {len(self.data.test_set):,} test images of "
            f"{images.images.shape[2]}×{images.images.shape[3]} pixels; Adam, learning rate {recipe.learning_rate:g}"
            f"{' falling to 0 along a cosine' if recipe.cosine else ''}, "
            f"{f'label smoothing {recipe.label_smoothing:g}, ' if recipe.label_smoothing else ''}"
            f"batches of {recipe.batch_size}, "
            f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, on {self.device}"
        )

    def _train(self, net: Net, title: str, finished: Sequence[NetResult], say: Callable[[str], None]) -> NetResult:
        checkpoint = net.files.checkpoint
        if checkpoint.exists():
            done = _epochs(checkpoint)
            say(f"{title}: goes on after epoch {done} of {self.recipe.epochs}")
        # The weights are the seed's, whatever was trained before.
        torch.manual_seed(net.seed)
        model = comparison_net(self.dataset, self.variant, net.operator)
        layers = trace(model, DESIGNS[self.dataset].input_shape)

        def result(history: list[Row]) -> NetResult:
            spatial = [layer for layer in layers if layer.is_spatial]
            return NetResult(
                operator=net.operator,
                seed=net.seed,
                test_accuracy_percent=100 * history[-1]["test_accuracy"],
                training_s=sum(row["train_s"] for row in history),
                training_cpu_s=sum(row["train_cpu_s"] for row in history),
                params=sum(p.numel() for p in model.parameters() if p.requires_grad),
                spatial_params=sum(layer.params for layer in spatial),
                macs=sum(layer.macs for layer in layers),
                spatial_macs=sum(layer.macs for layer in spatial),
                history=history,
                finished=records.date(),
            )

        try:
            history = train(
                model,
                self.data,
                self.recipe,
                num_classes=DESIGNS[self.dataset].num_classes,
                seed=net.seed,
                device=self.device,
                checkpoint=checkpoint,
                title=title,
                on_epoch=lambda rows: write_metrics([*finished, result(rows)], self.folder),
            )
        except TrainingError as error:
            raise CommandError(f"the {net.operator} net, seed {net.seed}: {error}") from error
        trained = result(history)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        write_atomically(net.files.weights, save(weights))
        net.files.keep(trained)
        return trained

    def _comparison(self, results: Sequence[NetResult]) -> Comparison:
        shape = DESIGNS[self.dataset].input_shape
        layers: dict[str, list[Layer]] = {}
        for operator in OPERATORS:
            layers[operator] = trace(comparison_net(self.dataset, self.variant, operator), shape)
        return Comparison(
            dataset=self.dataset,
            title=DATASETS[self.dataset].title,
            variant=self.variant,
            setting=self.setting(),
            results=results,
            layers=layers,
            samples=self._samples(),
            quirks={o: quirks(self.dataset, o) if self.variant == "published" else [] for o in OPERATORS},
        )

    def _samples(self) -> Samples:
        """Return the first test image of every class, with the kernels that the first involution net makes of it."""
        test = self.data.test_set
        chosen = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()]
        images, labels = test.__getitems__(chosen)
        net = next(net for net in self.nets if net.operator == "involution")
        model: nn.Module = comparison_net(self.dataset, self.variant, net.operator)
        model.load_state_dict(load(net.files.weights.read_bytes()))
        return Samples(
            images=test.images[chosen],
            labels=[DATASETS[self.dataset].classes[label] for label in labels],
            heat_maps=heatmaps.kernel_heat_maps(model, images),
            kernels=heatmaps.kernel_fields(model, images),
        )


def _in_words(result: NetResult) -> str:
    epochs = len(result.history)
    return (
        f"{result.test_accuracy_percent:.2f} % of the test images after {epochs} epoch{'s' if epochs > 1 else ''}, "
        f"{duration(result.training_s)}"
    )


def _epochs(checkpoint: Path) -> int:
    """Return how many epochs a training has behind it that was interrupted.

    Raises:
        CommandError: the file is damaged.
    """
    try:
        return checkpoints.read_training(checkpoint)["epoch"] + 1
    except CheckpointError as error:
        raise CommandError(f"{error}, or remove it: the training of this net begins anew then") from error
