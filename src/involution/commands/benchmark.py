"""The command ``involution benchmark``: the latency table of nets in every engine that is installed."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from ..errors import CommandError
from .options import choice, make_writable

__all__ = ["benchmark"]


def benchmark(
    models: list[str] | None = None,
    *,
    engines: list[str] | None = None,
    dtype: list[str] | None = None,
    batch: list[int] | None = None,
    size: list[int] | None = None,
    threads: int | None = None,
    rounds: int = 10,
    processes: int = 3,
    calibration: Path | None = None,
    accuracy: Path | None = None,
    profile: bool = False,
    out: Path = Path("runs/benchmark"),
    name: str | None = None,
) -> None:
    """Time nets in every engine that is installed; the last net is the control, the others' times are given as parts of its.

    Each net runs in a process of its own, all nets of an engine in turn; every engine but eager runs nets whose batch norms
    are folded. A net counts only if the engine gives what PyTorch gives. Writes a table, a picture and a record; Ctrl-C
    ends the measurement and keeps what is finished.

    Args:
        models: timm names, such as rednet50 for random weights or rednet26_half.imagenette for trained ones, or folders
            that ``involution fit`` wrote; rednet50 and resnet50 by default.
        engines: eager, folded, compiled, aotinductor, onnxruntime, onnxruntime-custom, openvino, openvino-extension; all by
            default.
        dtype: float32, bfloat16, int8; float32 by default.
        batch: images that pass the net together; 1 by default.
        size: height and width of the images in pixels, one number for squares; 224 by default.
        threads: that compute; as many as PyTorch takes by default.
        rounds: times that every net is timed in each of its processes.
        processes: that every net is opened in, one after the other: one process may be two fifths faster than the next.
        calibration: folder of images that int8 is calibrated on.
        accuracy: folder with one folder of images per class: the share of them that each net finds is measured in every
            engine and dtype, with the first of ``batch``.
        profile: say where the time goes, operator by operator, as each engine's own profiler does after the rounds.
        out: folder of the results.
        name: of table, picture and record in it, without their endings; engines-cpu-2-threads, of the threads that
            compute, by default.

    Raises:
        CommandError: an argument is out of range, a net is unknown, or the folder cannot be written.
    """
    import timm
    import torch

    import involution.models  # noqa: F401  (registers RedNet)

    from ..data.image_folders import list_images
    from ..models import named
    from ..studies.latency.accuracy import LabelledImages
    from ..studies.latency.engines import DTYPES, ENGINES
    from ..studies.latency.results import Row, as_text, best, line, profile_lines
    from ..studies.latency.run import Plan, measure, write
    from ..studies.latency.worker import is_trained

    plan = Plan(
        models=tuple(models or ("rednet50", "resnet50")),
        engines=_known("engine", engines or list(ENGINES), ENGINES),
        dtypes=_known("dtype", dtype or ["float32"], DTYPES),
        batches=tuple(batch or [1]),
        size=(size[0], size[-1]) if size else (224, 224),
        threads=torch.get_num_threads() if threads is None else threads,
        rounds=rounds,
        processes=processes,
        calibration=calibration,
        accuracy=accuracy,
        profile=profile,
    )
    if min(*plan.batches, *plan.size, plan.threads, rounds, processes) < 1 or len(size or ()) > 2:
        raise CommandError("--batch, --size (height and width), --threads, --rounds and --processes must be at least 1")
    if len(set(plan.models)) < len(plan.models):
        raise CommandError(f"every net may be named once, got {' '.join(plan.models)}")
    for model in plan.models:
        if not Path(model).is_dir() and not timm.is_model(model):
            raise CommandError(f"unknown net {model}; expected a name of timm, or a folder that involution fit wrote")
    if calibration is not None:
        # Before minutes of measurement, too.
        if "int8" not in plan.dtypes:
            raise CommandError("--calibration is of int8; name that in --dtype, or leave it out")
        if len(found := list_images([calibration])) < max(plan.batches):
            raise CommandError(
                f"{len(found)} of the {max(plan.batches)} images of the largest batch are in {calibration}; give more images, "
                "or a smaller --batch"
            )
    if accuracy is not None:
        if not accuracy.is_dir():
            raise CommandError(
                f"--accuracy takes a folder with one folder of images per class; {accuracy} is no folder"
            )
        untrained = [model for model in plan.models if not is_trained(model)]
        if untrained:
            raise CommandError(
                f"--accuracy is of trained nets, and {untrained[0]} has random weights; name weights, such as "
                "rednet26_half.imagenette, or folders that involution fit wrote"
            )
        for model in plan.models:
            # Before minutes of measurement, which could not say it.
            LabelledImages(accuracy, named.load(model), plan.size)
    if name is not None and Path(name).name != name:
        raise CommandError(f"--name is that of files in --out, without a folder, got {name}")
    make_writable(out)
    rows: list[Row] = []
    print(as_text([], plan.models, accuracy=accuracy is not None), flush=True)
    try:
        for group in measure(plan, _announce):
            rows += group
            for row in group:
                print(line(row, plan.models), flush=True)
                if row.missing:
                    print(f"  {row.model} has {row.missing}", flush=True)
    except KeyboardInterrupt:
        if rows:
            print("\n".join(map(str, write(plan, rows, out, finished=False, name=name))))
        print(f"Interrupted with {len(rows)} rows finished and kept", file=sys.stderr)
        raise
    written = write(plan, rows, out, finished=True, name=name)
    print("\n".join([*best(rows, plan.models), *profile_lines(rows), *map(str, written)]))


def _announce(words: str) -> None:
    """Say what takes so long, to somebody who watches."""
    if sys.stderr.isatty():
        print(f"… {words}", file=sys.stderr)


def _known(name: str, values: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    for value in values:
        choice(name, value, known)
    return tuple(dict.fromkeys(values))
