"""The command ``involution compare``: train convolution against involution on the same data, and report."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

from ..errors import CommandError

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
    from ..studies.comparison.run import Run, write_overview

    if all and (dataset is not None or open):
        raise CommandError("--all covers every data set and shows no single report; leave out the data set and --open")
    dataset = choice("data set", dataset or "digits", DESIGNS)
    variants = list(VARIANTS) if all and variant is None else [choice("variant", variant or "fair", VARIANTS)]
    for name, value, least in (("epochs", epochs, 1), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise CommandError(f"--{name} must be at least {least}, got {value}")
    chosen_device = find_device(device)
    runs = [
        Run.plan(name, chosen_variant, epochs, range(seed, seed + repeats), chosen_device, data_root, Path(out))
        for name in (DESIGNS if all else [dataset])
        for chosen_variant in variants
    ]
    # Whatever can be refused is refused before hours of training.
    for run in runs:
        make_writable(run.folder)
        run.data.prepare_data()
    if fresh:
        for run in runs:
            run.forget()
    # Seed after seed, so that the first results are there early and every further one adds to them.
    for last_seed in range(seed, seed + repeats):
        comparisons = []
        for run in runs:
            try:
                comparisons.append(run.until(last_seed).execute())
            except (KeyboardInterrupt, SystemExit):
                print(
                    f"Interrupted with {run.count_finished()} of {len(run.nets)} nets finished, kept in {run.folder}; "
                    "the same command goes on from there",
                    file=sys.stderr,
                )
                raise
        if all:
            print(f"table: {write_overview(comparisons, Path(out) / 'compare')}")
    if open:
        _show(runs[0].folder / "report.html")


def choice(name: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise CommandError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    return value


def find_device(name: str) -> torch.device:
    """Return the device, or refuse one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise CommandError(f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise CommandError(
            f"device {name} was asked for, but PyTorch sees {count or 'no'} CUDA GPU{'s' if count > 1 else ''} on this "
            "machine; use --device cpu or auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise CommandError("device mps was asked for, but PyTorch sees no Metal GPU on this machine; use --device cpu")
    return device


def make_writable(folder: Path) -> None:
    """Make the folder of the results, and refuse one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write the results to {folder}: {error.strerror}; name another folder with --out"
        ) from error


def _show(report: Path) -> None:
    """Open the report in a browser where there is a screen; in a terminal alone one would block it."""
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(report.resolve().as_uri())
