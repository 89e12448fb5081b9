"""The command ``involution compare``: train convolution against involution on the same data, and report."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ..errors import CommandError
from . import screen
from .options import (
    check_training,
    choice,
    find_device,
    kept_for_this_command,
    make_writable,
    told_when_interrupted,
)

__all__ = ["compare"]


def compare(
    dataset: str | None = None,
    variant: str | None = None,
    *,
    epochs: int | None = None,
    seed: int = 0,
    repeats: int = 1,
    device: str = "auto",
    data_root: str | None = None,
    out: str = "runs",
    all: bool = False,
    fresh: bool = False,
    open: bool = False,
) -> None:
    """Train a convolution net and an involution net on the same data with the same recipe, and report.

    Writes report.html, metrics.csv, pictures and record.json. An interrupted comparison keeps the nets that are
    finished and the state of the one in training after its last epoch; the same command goes on from there.

    Args:
        dataset: digits (inside scikit-learn, the default), mnist, fashion_mnist or cifar10 (downloaded where there is
            a network).
        variant: fair, for nets that differ in the spatial operator alone, or published, for those of a student report
            with all their peculiarities; fair by default, both with --all.
        epochs: passes over the training images; the recipe's number by default.
        seed: of weights, order of images and dropout; on a CPU the same seed gives the same figures.
        repeats: train every net this often, with seeds from --seed on, and report means; every net has its first
            seed before one gets its second.
        device: auto, cpu, cuda, cuda:N or mps.
        data_root: folder of the data sets; by default the variable INVOLUTION_DATA, else data.
        out: folder of the results; every comparison gets its own below it.
        all: compare on all four data sets, and write one table of them all.
        fresh: train again what is finished.
        open: show the report in the browser.

    Raises:
        CommandError: an argument is out of range, or a folder cannot be written.
        DataError: a data set is missing, incomplete or damaged.
    """
    from ..studies.comparison.nets import DESIGNS, VARIANTS
    from ..studies.comparison.output import as_text, write_overview
    from ..studies.comparison.run import Run

    if all and (dataset is not None or open):
        raise CommandError("--all covers every data set and shows no single report; leave out the data set and --open")
    dataset = choice("data set", dataset or "digits", DESIGNS)
    variants = list(VARIANTS) if all and variant is None else [choice("variant", variant or "fair", VARIANTS)]
    check_training(epochs=epochs, repeats=repeats, seed=seed)
    chosen_device, seeds = find_device(device), range(seed, seed + repeats)
    runs = [
        Run.plan(name, chosen_variant, epochs, seeds, chosen_device, data_root, Path(out))
        for name in (DESIGNS if all else [dataset])
        for chosen_variant in variants
    ]
    with ExitStack() as folders:
        # Whatever can be refused is refused before hours of training.
        for run in runs:
            make_writable(run.folder)
            folders.enter_context(kept_for_this_command(run.folder))
            run.data.prepare_data()
        if fresh:
            for run in runs:
                run.forget()
        # Seed after seed, so that the first results are there early and every further one adds to them.
        for last_seed in seeds:
            comparisons = []
            for run in runs:
                with told_when_interrupted(run.count_finished, len(run.nets), run.folder):
                    comparisons.append(run.until(last_seed).execute(partial(print, flush=True)))
                print(f"\n{as_text(comparisons[-1])}\n\nreport: {run.folder / 'report.html'}", flush=True)
            if all:
                print(f"table: {write_overview(comparisons, Path(out) / 'compare')}")
    if open:
        screen.show((runs[0].folder / "report.html").resolve().as_uri())
