"""``make faults``: what a training says and loses when it is killed, doubled, or loses disk, files or the right time.

Every fault befalls a training of its own; then the same command goes on with ``--ckpt_path last``, or starts again
where no epoch was finished, and its weights are compared, bit for bit, with those of a training that nothing befell.
Signals also come at moments spread evenly over the whole life of the command, from the first line of its main function on.
"""

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from trainings import TINY

import involution.commands.training  # noqa: F401  (so that its copies have it)
from involution import records

EPOCHS = 4
REPLACED = (
    "--data",
    "--model.num_classes",
    "--model.model_args",
    "--trainer.limit",
    "--trainer.max",
)


class Fault(NamedTuple):
    """What is done to a training, and the statuses that are right after it."""

    title: str
    inflict: Callable[["Scene"], subprocess.CompletedProcess]
    statuses: tuple[int, ...]
    can_go_on: bool = True


class Scene:
    """A data set and the folder of one training on it."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.images, self.run, self.dice = folder / "images", folder / "run", dice
        for part, count in (("train", 24), ("val", 4)):
            for label in ("dark", "light"):
                (self.images / part / label).mkdir(parents=True)
                for i in range(count):
                    pixels = np.full((20, 20, 3), 5 * i + (100 if label == "light" else 0), np.uint8)
                    Image.fromarray(pixels).save(self.images / part / label / f"{i}.png")

    @property
    def last(self) -> Path:
        return self.run / "checkpoints" / "last.ckpt"

    def arguments(self, *more: str) -> list[str]:
        return [
            "fit",
            *(flag for flag in TINY if not flag.startswith(REPLACED)),
            "--model.num_classes=2",
            "--model.model_args={stem: small, channels: [8, 8, 8, 8], kernel_size: 3, group_channels: 4}",
            f"--trainer.max_epochs={EPOCHS}",
            "--data=involution.data.ImageFolders",
            f"--data.root={self.images}",
            "--data.batch_size=4",
            "--data.num_workers=1",
            "--data.transforms=involution.data.ImageTransforms",
            "--data.transforms.image_size=16",
            f"--run={self.run}",
            *more,
        ]

    def start(self, *more: str, prelude: str = "", before: tuple[str, ...] = ()) -> "Training":
        """Start the training, after some statements of Python's, by another command where ``before`` names one."""
        return Training([*self.arguments(*more)], prelude, before, self.run.with_name(f"said-{time.monotonic_ns()}"))

    def end(self, training: "Training") -> subprocess.CompletedProcess:
        status = training.wait(300)
        return subprocess.CompletedProcess(self.arguments(), status, "", training.said.read_text())

    def wait_for(self, path: Path, training: "Training") -> None:
        while not path.exists() and training.poll() is None:
            time.sleep(0.01)

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.last, weights_only=True)["state_dict"]


class Training:
    """The command ``fit`` in a process of its own, a copy of this one, which has loaded what it needs.

    Args:
        arguments: of the command.
        prelude: statements of Python's before it.
        before: a command that starts it, in the place of the copy.
        said: file for what it says to the user.
    """

    def __init__(self, arguments: list[str], prelude: str, before: tuple[str, ...], said: Path) -> None:
        self.said, self._status = said, None
        # What a shell starts in its background is deaf to Ctrl-C; what is tried here is not.
        code = (
            "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"from involution.commands.main import main\n{prelude}\nstatus = main()"
        )
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            # As a shell does, so that Ctrl-C reaches it and what it starts.
            os.setpgid(0, 0)
            for number, target in ((1, os.devnull), (2, str(said))):
                os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
            if before:
                os.execvp(before[0], [*before, sys.executable, "-c", f"{code}\nsys.exit(status)", *arguments])
            sys.argv = ["involution", *arguments]
            names: dict[str, int] = {"__name__": "__main__"}
            exec(code, names)
            status = names["status"]
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"the training {self.pid} took more than {seconds} s")
            time.sleep(0.02)
        return self._status

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; Ctrl-C, as a terminal does, to all processes of the training."""
        if self.poll() is None:
            (os.killpg if number == signal.SIGINT else os.kill)(self.pid, number)


def send(number: signal.Signals, *, file: str = "last.ckpt") -> Callable[[Scene], subprocess.CompletedProcess]:
    """Send a signal at a random moment of the second after a file appears among the checkpoints."""

    def inflict(scene: Scene) -> subprocess.CompletedProcess:
        process = scene.start()
        scene.wait_for(scene.last.with_name(file), process)
        time.sleep(scene.dice.uniform(0, 1))
        process.send_signal(number)
        return scene.end(process)

    return inflict


AT_EPOCH = """
from involution.tasks.callbacks import EpochSeed
def act(self, trainer, module, seed=EpochSeed.on_train_epoch_start):
    if trainer.current_epoch == 2:
        {action}
    seed(self, trainer, module)
EpochSeed.on_train_epoch_start = act
"""


def act(action: str) -> Callable[[Scene], subprocess.CompletedProcess]:
    """Do something inside the training at the start of its third epoch."""

    def inflict(scene: Scene) -> subprocess.CompletedProcess:
        return scene.end(scene.start(prelude=AT_EPOCH.format(action=action.format(scene=scene))))

    return inflict


def allow_small_files(scene: Scene) -> subprocess.CompletedProcess:
    """Let no file grow beyond 20 kB, after the first checkpoint, as a quota or a full disk does."""
    process = scene.start()
    scene.wait_for(scene.last, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    return scene.end(process)


def start_another(scene: Scene) -> subprocess.CompletedProcess:
    first = scene.start()
    scene.wait_for(scene.run / ".lock", first)
    second = scene.end(scene.start())
    assert scene.end(first).returncode == 0
    return second


# A file system of the training's own, in a name space that ends with it; what it holds is copied out then.
DISK = 'mount -t tmpfs -o size=16m none "$0" && kept=$1 && shift && "$@"; status=$?; cp -a "$0"/. "$kept"; exit $status'


def on_a_disk(action: str) -> Callable[[Scene], subprocess.CompletedProcess]:
    """Do something to the file system that the folder of the training is on, at the start of its third epoch."""

    def inflict(scene: Scene) -> subprocess.CompletedProcess:
        scene.run.mkdir()
        kept = scene.run.with_name("kept")
        kept.mkdir()
        before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", DISK, str(scene.run), str(kept))
        ended = scene.end(scene.start(prelude=AT_EPOCH.format(action=action.format(scene=scene)), before=before))
        (kept / "filling").unlink(missing_ok=True)
        scene.run.rmdir()
        kept.rename(scene.run)
        return ended

    return inflict


FILL = "open('{scene.run}/filling', 'wb', 0).write(bytes(2**24))"
SEAL = (
    "import subprocess; run = '{scene.run}'; subprocess.run(['mount', '--bind', run, run], check=True); "
    "subprocess.run(['mount', '-o', 'remount,bind,ro', run], check=True)"
)
KILL_WORKER = (
    "import os; from involution.data import image_folders; me = os.getpid(); "
    "read = image_folders.FolderImages.__getitem__; "
    "image_folders.FolderImages.__getitem__ = lambda s, i: read(s, i) if os.getpid() == me else os.kill(os.getpid(), 9)"
)
FIRST = ".last-start.ckpt"
SIGNALS = ((signal.SIGKILL, (-signal.SIGKILL, 0)), (signal.SIGTERM, (143, 0)), (signal.SIGINT, (130, 0)))
FAULTS = (
    Fault("data worker killed", act(KILL_WORKER), (2,)),
    Fault("files may not grow beyond 20 kB", allow_small_files, (2,)),
    Fault("the disk is full", on_a_disk(FILL), (2,)),
    Fault("the disk can only be read", on_a_disk(SEAL), (2,)),
    Fault("an image deleted under way", act("import os; os.remove('{scene.images}/train/dark/3.png')"), (2,), False),
    Fault("the checkpoints deleted under way", act("import shutil; shutil.rmtree('{scene.run}/checkpoints')"), (0,)),
    Fault("two writers", start_another, (2,)),
    Fault("the clock jumps back a year", act("import time; now = time.time; time.time = lambda: now() - 3e7"), (0,)),
    Fault("the clock jumps ahead a year", act("import time; now = time.time; time.time = lambda: now() + 3e7"), (0,)),
    *(
        Fault(f"{number.name} in the first epoch, {i + 1}", send(number, file=FIRST), statuses)
        for number, statuses in SIGNALS
        for i in range(2)
    ),
    *(Fault(f"{number.name} later, {i + 1}", send(number), statuses) for number, statuses in SIGNALS for i in range(2)),
)


# The process is new, so that it imports all; it says when it has come to its main function.
NEW, BEGUN = ("env",), "open('{0}', 'w').close()"


def sweep(number: signal.Signals, moments: int, expected: dict[str, torch.Tensor], seed: int) -> dict[str, object]:
    """Send a signal at so many moments, each to a training of its own, and return the row of them all."""
    dice, problems, sentences, statuses, lost, life = random.Random(f"{number} {seed}"), [], [], set(), "nothing", 0.0
    for moment in range(-1, moments):
        with tempfile.TemporaryDirectory() as folder:
            scene, begun = Scene(Path(folder), dice), Path(folder) / "begun"
            training = scene.start(prelude=BEGUN.format(begun), before=NEW)
            scene.wait_for(begun, training)
            start = time.monotonic()
            if moment < 0:
                # The first one is left alone, to know how long a life is.
                assert scene.end(training).returncode == 0
                life = time.monotonic() - start
                continue
            after = life * (moment + dice.random()) / moments
            time.sleep(after)
            training.send_signal(number)
            ended = scene.end(training)
            status, said = ended.returncode, ended.stderr.replace(folder, "…")
            statuses.add(status)
            lines = said.splitlines()
            # Where it was over before, there is nothing to say; a shell calls both ways to be ended the same.
            is_over = (scene.run / "model" / "model.safetensors").exists()
            if status not in (128 + number, 0, *([-number] if is_over else [])):
                problems.append(f"status {status} after {after:.1f} s")
            if "Traceback" in said:
                problems.append(f"a traceback after {after:.1f} s: {lines[-1]}")
            elif status > 0 and (said.count("involution fit: ") != 1 or not lines[-1].startswith("involution fit: ")):
                problems.append(f"not one sentence after {after:.1f} s: {said}")
            sentences += [re.sub(r"epoch \d", "epoch N", line) for line in lines[-1:]] if status > 0 else []
            again = scene.end(scene.start(*(["--ckpt_path=last"] if scene.last.exists() else [])))
            if again.returncode:
                problems.append(f"it does not go on after {after:.1f} s: {again.stderr.splitlines()[-1]}")
            elif any(not torch.equal(value, scene.weights()[name]) for name, value in expected.items()):
                lost = f"other weights in the end after {after:.1f} s"
    return {
        "fault": f"{number.name} at {moments} moments of its {life:.0f} s",
        "status": ", ".join(map(str, sorted(statuses))),
        "sentence": "; or ".join(dict.fromkeys(sentences)),
        "lost": lost,
        "problems": "; ".join(problems),
    }


def run(fault: Fault, expected: dict[str, torch.Tensor], seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), random.Random(f"{fault.title} {seed}"))
        ended = fault.inflict(scene)
        lines = [line for line in ended.stderr.splitlines() if line.startswith("involution ")]
        sentence = lines[-1].replace(folder, "…") if lines and ended.returncode else ""
        problems = []
        if ended.returncode not in fault.statuses:
            problems.append(f"status {ended.returncode}")
        if "Traceback" in ended.stderr:
            problems.append(f"a traceback: {ended.stderr.replace(folder, '…')}")
        lost = "nothing"
        if fault.can_go_on:
            more = ["--ckpt_path=last"] if scene.last.exists() else []
            again = scene.end(scene.start(*more))
            if again.returncode:
                problems.append(f"it does not go on: {again.stderr.splitlines()[-1]}")
            elif any(not torch.equal(value, scene.weights()[name]) for name, value in expected.items()):
                lost = "other weights in the end"
        remains = [path.name for path in scene.run.rglob("*.partial")]
        if remains and fault.statuses[0] >= 0:
            problems.append(f"remains {', '.join(remains)}")
        return {
            "fault": fault.title,
            "status": ended.returncode,
            "sentence": sentence,
            "lost": lost,
            "problems": "; ".join(problems),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--moments", type=int, default=20, help="of each signal, spread over the life of the command")
    parser.add_argument("--only", nargs="*", help="words of which the title of a fault has one")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the record")
    arguments = parser.parse_args()
    # A copy of a process with threads can hang; weights are compared with those of as many threads in a new process.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        whole = Scene(Path(folder), random.Random(0))
        ended = whole.end(whole.start())
        assert ended.returncode == 0, ended.stderr
        expected = whole.weights()
    rows = []
    everything: list[Callable[[], dict[str, object]]] = [
        partial(run, fault, expected, arguments.seed)
        for fault in FAULTS
        if not arguments.only or any(word in fault.title for word in arguments.only)
    ]
    if arguments.moments:
        numbers = (signal.SIGTERM, signal.SIGINT)
        everything += [partial(sweep, number, arguments.moments, expected, arguments.seed) for number in numbers]
    for inflict in everything:
        rows.append(inflict())
        print(" | ".join(map(str, rows[-1].values())), flush=True)
    print(records.write("faults", {"seed": arguments.seed, "results": rows}, arguments.out))
    return int(any(row["problems"] or row["lost"] != "nothing" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
