"""What the tests of all trainings do: read weights and refusals, kill a training, write images and flags for one."""

import csv
import signal
import time

import numpy as np
import torch
from PIL import Image

from involution.tasks.interruption import InterruptionCheckpoint


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(run):
    """Return the weights of the last checkpoint of a run."""
    return checkpoint(run)["state_dict"]


def logged(run):
    """Return the rows of the log of a run's last start, whose values are text."""
    with max((run / "logs").glob("*/metrics.csv")).open() as file:
        return list(csv.DictReader(file))


def assert_same_weights(run, other):
    expected, actual = weights(run), weights(other)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def refusal(capsys):
    """Return what the command said at its end (before it, Lightning's logger may complain of pytest's streams)."""
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("involution ")
    return last


def kill_after_a_checkpoint(copies, run, *flags):
    """Start a training in a process of its own and kill it when its first checkpoint is there."""
    copy = copies.start("fit", *flags, f"--run={run}", first=("trainings", "wait_in_the_second_epoch"))
    last = run / "checkpoints" / "last.ckpt"
    while not last.exists() and copy.is_running():
        time.sleep(0.02)
    copy.kill(signal.SIGKILL)
    status, said = copy.wait()
    assert status == -signal.SIGKILL and last.exists(), said


def wait_in_the_second_epoch():
    """Let a training not go on there, so that it is killed before its end however late whoever kills it looks."""
    InterruptionCheckpoint.on_train_batch_start = lambda _, trainer, *__: trainer.current_epoch and signal.pause()


def write_pictures(root, train=12, val=4):
    """Write images of two classes, dark and light, one folder each, and return their root."""
    for part, count in (("train", train), ("val", val)):
        for label in ("dark", "light"):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20, 20, 3), 10 * i + (100 if label == "light" else 0), np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


def pictures_flags(root, *more):
    """Return a training of seconds on such images."""
    changed = ("--data", "--model.num_classes", "--model.model_args", "--trainer.limit")
    return [
        *(flag for flag in TINY if not flag.startswith(changed)),
        "--model.num_classes=2",
        "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], kernel_size: 3, group_channels: 4}",
        "--data=involution.data.ImageFolders",
        f"--data.root={root}",
        "--data.batch_size=4",
        "--data.transforms=involution.data.ImageTransforms",
        "--data.transforms.image_size=16",
        *more,
    ]


# A training of seconds on digits that need no files.
TINY = [
    "--model=involution.tasks.ClassificationTask",
    "--model.model=rednet26",
    "--model.num_classes=10",
    "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], in_chans: 1, kernel_size: 3, "
    "group_channels: 4}",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.05",
    "--data=involution.data.SmallImages",
    "--data.dataset=digits",
    "--data.batch_size=16",
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
