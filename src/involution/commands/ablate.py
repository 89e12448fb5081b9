"""The command ``involution ablate``: small nets that differ in one thing, the paper's ablations or the relatives."""

from __future__ import annotations

from pathlib import Path

from .options import (
    check_training,
    choice,
    find_device,
    kept_for_this_command,
    make_writable,
    told_when_interrupted,
)

__all__ = ["ablate"]


def ablate(
    dataset: str = "cifar10",
    *,
    nets: str = "paper",
    epochs: int = 4,
    seed: int = 0,
    repeats: int = 1,
    device: str = "auto",
    data_root: str | None = None,
    out: str = "runs",
    fresh: bool = False,
) -> None:
    """Train small nets that differ in one thing: the paper's ablations of K, C/G and φ, or involution and its relatives.

    Ten or seven nets of four blocks and an eighth of the width, all trained alike. Writes table.md, trends.png and
    record.json, anew after every seed, of the relatives after every net. Interrupted, it keeps the nets that are
    finished and the state of the one in training after its last epoch; the same command goes on from there.

    Args:
        dataset: cifar10, digits, mnist or fashion_mnist.
        nets: paper (RedNets that differ in K, C/G or φ, beside the paper's accuracies) or family (ResNet, RedNet,
            stand-alone self-attention, both forms of SAN, local relation, depthwise convolution).
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
    from ..data import DATASETS
    from ..studies.ablation.results import AblationResult
    from ..studies.ablation.run import SETS, Run

    choice("data set", dataset, DATASETS)
    choice("set of nets", nets, SETS)
    check_training(epochs=epochs, repeats=repeats, seed=seed)
    seeds = range(seed, seed + repeats)
    run = Run.plan(nets, dataset, epochs, seeds, find_device(device), data_root, Path(out))
    make_writable(run.folder)
    with kept_for_this_command(run.folder):
        run.data.prepare_data()
        results: list[AblationResult] = []
        for number in seeds:
            with told_when_interrupted(lambda: len(results), len(run.nets) * repeats, run.folder):
                for result in run.results(number, fresh):
                    results.append(result)
                    accuracy = f"{result.test_accuracy_percent:.2f} % of the test images"
                    print(f"  {result.net}, seed {result.seed}: {accuracy}", flush=True)
                    if not run.set.whole:
                        run.write(results)
            path = run.write(results)
            print(f"\n{run.set.markdown(results)}\nrecord: {path}", flush=True)
