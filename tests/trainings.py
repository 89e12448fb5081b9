"""What the tests of all trainings do: read weights and refusals, kill a training and let it go on."""

import os
import signal
import subprocess
import sys
import time

import torch


def weights(run):
    """Return the weights of the last checkpoint of a run."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(run, other):
    expected, actual = weights(run), weights(other)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def refusal(capsys):
    """Return what the command said at its end (before it, Lightning's logger may complain of pytest's streams)."""
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("involution ")
    return last


def kill_after_a_checkpoint(run, *flags):
    """Start a training in a process of its own and kill it when its first checkpoint is there."""
    command = [sys.executable, "-m", "involution", "fit", *flags, f"--run={run}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = run / "checkpoints" / "last.ckpt"
    for _ in range(1200):
        time.sleep(0.1)
        if last.exists() or process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()


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
