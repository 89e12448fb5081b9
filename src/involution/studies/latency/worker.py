"""A net in an engine, in a process of its own: nothing else is in its memory, and what it breaks is itself."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InvolutionError
from ...export.checked import difference
from ...export.sessions import Session, flat
from ...logs import compiling_for_the_cpu
from ...models import named
from . import clock
from .accuracy import LabelledImages
from .engines import ENGINES

__all__ = ["Failure", "Job", "Worker", "is_trained"]

SEED = 0

# For the end of a process that has nothing to do; one that computes is not waited for any longer.
_PATIENCE_S = 3.0


class Failure(InvolutionError):
    """A process could not do what it was asked; the message says why, in one line."""


@dataclass(frozen=True)
class Job:
    """A net, an engine, and how the one runs the other.

    Attributes:
        model: a timm name, whose weights are random unless it has a tag, or a folder with a trained net.
        engine: of `ENGINES`.
        dtype: of `DTYPES`.
        batch: images that pass together.
        size: height and width of the images, in pixels.
        threads: that compute.
        calibration: folder of images to quantise by.
    """

    model: str
    engine: str
    dtype: str
    batch: int
    size: tuple[int, int]
    threads: int
    calibration: Path | None = None

    def load(self) -> named.NamedNet:
        """Load the net; of one without weights, every process gets the same random ones."""
        torch.manual_seed(SEED)
        return named.load(self.model, None if is_trained(self.model) else "random")


def is_trained(model: str) -> bool:
    """Whether a net has weights: in its folder, or named as timm names them, ``NAME.TAG``."""
    return Path(model).is_dir() or "." in model


class Worker:
    """A process that does one job's work when it is asked.

    Args:
        job: what it runs.
        folder: for what `prepare` writes and `open` reads.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        context = _context()
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, job, folder), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        other.close()

    def prepare(self) -> None:
        """Let PyTorch compute what is expected, and write the file that the engine runs.

        Raises:
            Failure: it could not, for the reason that the message says.
        """
        self._ask("prepare")

    def open(self) -> float:
        """Open the engine, run it to warm up, and return the largest relative difference from PyTorch in float32.

        Raises:
            Failure: as `prepare`.
        """
        return self._ask("open")

    def time(self, number: int) -> float:
        """Return the milliseconds of a run, after one that is not timed; the ``number`` is that of the round.

        Raises:
            Failure: as `prepare`.
        """
        return self._ask("time", number)

    def peak_mib(self) -> float | None:
        """Return the memory that running takes at its peak, beyond that of a process that has loaded nothing yet.

        Raises:
            Failure: as `prepare`.
        """
        return self._ask("peak_mib")

    def accuracy(self, images: Path) -> float:
        """Return the share, from 0 to 1, of the images of a folder whose class the net finds.

        Raises:
            Failure: as `prepare`.
        """
        return self._ask("accuracy", images)

    def profile(self) -> dict[str, float]:
        """Return the milliseconds of a run by kind of operator, as the engine's own profiler says.

        Raises:
            Failure: as `prepare`.
        """
        return self._ask("profile")

    def close(self) -> None:
        """End the process, whatever it does."""
        # Without anybody to ask, it ends by itself and puts back what it shares with others; killed, it would leave that to
        # a process of Python's that complains of it.
        self._connection.close()
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            self._connection.send((name, arguments))
            done, result = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise Failure(f"its process ended with {self._process.exitcode}; is there memory enough?") from error
        if not done:
            raise Failure(result)
        return result


def _context() -> Any:
    """Return how processes begin: as copies of one that has loaded what all need and done nothing, where there are such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # A process that loads it takes seconds.
    context.set_forkserver_preload([__name__])
    return context


class _Runner:
    """What happens in the process."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._engine = ENGINES[job.engine]
        self._before: float | None = None
        self._session: Session = lambda inputs: []
        self._inputs = torch.empty(0)
        self._run: Callable[[], Any] = lambda: None
        torch.set_num_threads(job.threads)

    def prepare(self) -> None:
        job = self._job
        net = job.load()
        inputs = torch.randn(job.batch, net.channels, *job.size, generator=torch.Generator().manual_seed(SEED))
        calibration: list[tuple[torch.Tensor, ...]] = []
        if job.calibration is not None:
            # Data sets load what a process that only runs a net does without.
            from ...data.calibration import calibration_batches

            batches = calibration_batches(job.calibration, size=job.size, batch=job.batch, mean=net.mean, std=net.std)
            calibration = [(images,) for images in batches]
            # What was calibrated on images is compared on one of them.
            inputs = batches[0]
        with torch.no_grad():
            expected = [value.clone() for value in flat(net.net(inputs))]
        torch.save({"inputs": inputs, "expected": expected}, self._folder / "tensors.pt")
        self._engine.write(net.net, inputs, job.dtype, calibration, self._folder)

    def open(self) -> float:
        tensors = torch.load(self._folder / "tensors.pt")
        self._inputs = self._engine.taken(tensors["inputs"], self._job.dtype)
        self._before = clock.resident_mib()
        self._session = self._engine.open(self._net, self._job.dtype, self._job.threads, self._folder)
        found = difference(self._session([self._inputs]), tensors["expected"])
        self._run = lambda: self._session([self._inputs])
        for _ in range(2):
            self._run()
        return found

    def time(self, number: int) -> float:
        # The other nets ran in between: their threads have gone to sleep, and so have this engine's.
        self._run()
        return clock.call_ms(self._run, number)

    def peak_mib(self) -> float | None:
        clock.forget_peak()
        for _ in range(2):
            self._run()
        peak = clock.peak_mib()
        return None if peak is None or self._before is None else peak - self._before

    def accuracy(self, images: Path) -> float:
        job = self._job
        labelled = LabelledImages(images, job.load(), job.size)
        return labelled.accuracy(
            lambda inputs: self._session([self._engine.taken(value, job.dtype) for value in inputs]), job.batch
        )

    def profile(self) -> dict[str, float]:
        return self._engine.profile(self._session, self._inputs, self._job.dtype, self._job.threads, self._folder)

    def _net(self) -> nn.Module:
        return self._job.load().net


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, as do the processes that begin here: it reaches all of a terminal, and the one that asks decides."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may say so.
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, job: Job, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with compiling_for_the_cpu():
        _answer(connection, _Runner(job, folder))


def _answer(connection: Connection, runner: _Runner) -> None:
    """Do what is asked until nobody asks any more."""
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            result = True, getattr(runner, name)(*arguments)
        except Exception as error:
            words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            result = False, words if isinstance(error, InvolutionError) else f"{type(error).__name__}: {words}"[:300]
        connection.send(result)
