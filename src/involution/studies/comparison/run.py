"""One comparison from plan to report: what to train, what is finished already, what is written where."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from ... import __version__, records
from ...data import DATASETS, SmallImages
from ...errors import CommandError
from ...pictures import heatmaps
from ...pictures.plots import png
from ...tasks import TrainingError
from ...tasks.callbacks import Row
from . import plots, report
from .architecture import Layer, trace
from .nets import DESIGNS, OPERATORS, comparison_net, quirks
from .results import REPORTED, Comparison, NetResult, Samples, duration, table
from .training import RECIPES, Recipe, train

__all__ = ["Net", "Run", "write_overview"]


@dataclass(frozen=True)
class Net:
    """One net to train.

    Attributes:
        operator: ``"convolution"`` or ``"involution"``.
        seed: of weights and training.
        stem: path of its files without their endings: ``.json`` (its result; what has one is finished),
            ``.safetensors`` (its weights) and, while it is in training, ``.ckpt``.
    """

    operator: str
    seed: int
    stem: Path

    def file(self, ending: str) -> Path:
        """Return the path of one of its files."""
        return self.stem.with_name(self.stem.name + ending)

    @property
    def is_finished(self) -> bool:
        """Whether it is trained and its result is kept."""
        return self.file(".json").exists()


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
        parts = [
            dataset,
            variant,
            f"{recipe.epochs}epochs",
            f"seed{seeds[0]}" if len(seeds) == 1 else f"seeds{seeds[0]}-{seeds[-1]}",
        ]
        if device.type != "cpu":
            parts.append(device.type)
        folder = out / "compare" / "-".join(parts)
        data = SmallImages(dataset, data_root, batch_size=recipe.batch_size, scaling=recipe.scaling)
        # What was made by another recipe or version has another name, and is not taken for finished.
        settings = json.dumps([asdict(recipe), __version__, torch.__version__])
        key = sha256(settings.encode()).hexdigest()[:8]
        nets = tuple(
            Net(operator, seed, folder / "nets" / f"{operator}-seed{seed}-{key}")
            for seed in seeds
            for operator in OPERATORS
        )
        return cls(dataset, variant, recipe, device, data, folder, nets)

    def count_finished(self) -> int:
        """Return how many nets are trained and kept."""
        return sum(net.is_finished for net in self.nets)

    def forget(self) -> None:
        """Delete what is trained, to train it again."""
        for net in self.nets:
            for ending in (".json", ".safetensors", ".ckpt"):
                net.file(ending).unlink(missing_ok=True)

    def until(self, seed: int) -> Run:
        """Return the part of this comparison with the seeds up to ``seed``; it shares folder and nets."""
        return replace(self, nets=tuple(net for net in self.nets if net.seed <= seed))

    def execute(self) -> Comparison:
        """Train what is not finished, write all results, print the table."""
        (self.folder / "nets").mkdir(exist_ok=True)
        print(f"{DATASETS[self.dataset].title}, {self.variant} nets: {self.setting()}", flush=True)
        results: list[NetResult] = []
        for net in self.nets:
            results.append(self._kept(net) if net.is_finished else self._train(net, results))
        comparison = self._comparison(results)
        self._write(comparison)
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

    def _kept(self, net: Net) -> NetResult:
        try:
            result = NetResult(**json.loads(net.file(".json").read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CommandError(f"{net.file('.json')} is damaged ({error}); delete it and run again") from error
        print(
            f"  {net.operator}, seed {net.seed}: {_in_words(result)} (finished before, {result.finished})", flush=True
        )
        return result

    def _train(self, net: Net, finished: Sequence[NetResult]) -> NetResult:
        checkpoint = net.file(".ckpt")
        if checkpoint.exists():
            done = torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"] + 1
            print(f"  {net.operator}, seed {net.seed}: goes on after epoch {done} of {self.recipe.epochs}", flush=True)
        # Weights and the order of the images are the seed's, whatever was trained before.
        torch.manual_seed(net.seed)
        # The same images, but no state of another training.
        data = copy(self.data)
        data.seed = net.seed
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
                data,
                self.recipe,
                num_classes=DESIGNS[self.dataset].num_classes,
                seed=net.seed,
                device=self.device,
                checkpoint=checkpoint,
                title=f"  {net.operator}, seed {net.seed}",
                on_epoch=lambda rows: self._write_metrics([*finished, result(rows)]),
            )
        except TrainingError as error:
            raise CommandError(f"the {net.operator} net, seed {net.seed}: {error}") from error
        trained = result(history)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        records.write_atomically(net.file(".safetensors"), save(weights))
        records.write_atomically(net.file(".json"), json.dumps(asdict(trained), indent=1))
        checkpoint.unlink(missing_ok=True)
        print(f"  {net.operator}, seed {net.seed}: {_in_words(trained)}", flush=True)
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
        model.load_state_dict(load(net.file(".safetensors").read_bytes()))
        return Samples(
            images=test.images[chosen],
            labels=[DATASETS[self.dataset].classes[label] for label in labels],
            heat_maps=heatmaps.kernel_heat_maps(model, images),
            kernels=heatmaps.kernel_fields(model, images),
        )

    def _write(self, comparison: Comparison) -> None:
        """Write metrics, pictures, record and report; print the table."""
        self._write_metrics(comparison.results)
        rows = table(comparison)
        path = records.write(
            "record",
            {
                "seed": self.nets[0].seed,
                "settings": {
                    "dataset": self.dataset,
                    "variant": self.variant,
                    "device": str(self.device),
                    "recipe": asdict(self.recipe),
                },
                "table": {row.label: row.values for row in rows if not row.detail},
                "results": [asdict(result) for result in comparison.results],
            },
            self.folder,
        )
        for name, figure in (
            ("summary", plots.summary(comparison)),
            ("curves", plots.curves(comparison)),
            ("heatmaps", plots.heat_maps(comparison)),
        ):
            records.write_atomically(self.folder / f"{name}.png", png(figure))
        records.write_atomically(self.folder / "report.html", report.render(comparison, records.read(path)))
        print(f"\n{_as_text(comparison)}\n\nreport: {self.folder / 'report.html'}", flush=True)

    def _write_metrics(self, results: Sequence[NetResult]) -> None:
        """Write the learning curves, a row per net and epoch."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for index, result in enumerate(results):
            if index == 0:
                writer.writerow(["operator", "seed", *result.history[0]])
            writer.writerows([result.operator, result.seed, *row.values()] for row in result.history)
        records.write_atomically(self.folder / "metrics.csv", text.getvalue())


def _in_words(result: NetResult) -> str:
    epochs = len(result.history)
    return (
        f"{result.test_accuracy_percent:.2f} % of the test images after {epochs} epoch{'s' if epochs > 1 else ''}, "
        f"{duration(result.training_s)}"
    )


def _as_text(comparison: Comparison) -> str:
    """Return the table for a terminal."""
    lines = [("", *comparison.layers)]
    lines += [("  " * row.detail + row.label, *row.texts.values()) for row in table(comparison)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )


def write_overview(comparisons: Sequence[Comparison], folder: Path) -> Path:
    """Write the table of several comparisons, beside the report's figures, as Markdown and as a record.

    Returns:
        The path of the Markdown file; the record lies beside it.
    """
    header = ["data set", "nets", "operator", "accuracy", "in the report", "parameters", "multiply-adds", "training"]
    lines = [header, ["---"] * len(header)]
    figures: list[dict[str, Any]] = []
    for comparison in comparisons:
        rows = {row.label: row for row in table(comparison) if not row.detail}
        for operator in comparison.layers:
            reported = REPORTED.get((comparison.dataset, operator))
            lines.append(
                [
                    comparison.title,
                    comparison.variant,
                    operator,
                    rows["test accuracy"].texts[operator],
                    f"{reported.test_accuracy_percent:.2f} %" if reported and comparison.variant == "published" else "",
                    *(rows[label].texts[operator] for label in ("parameters", "multiply-adds", "training time")),
                ]
            )
        figures += [
            {"dataset": comparison.dataset, "variant": comparison.variant, **asdict(result)}
            for result in comparison.results
        ]
    records.write("overview", {"seed": comparisons[0].results[0].seed, "results": figures}, folder)
    path = folder / "overview.md"
    records.write_atomically(path, "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    return path
