"""A training that is interrupted or doubled says what it leaves, and goes on as if nothing had been, from its last step."""

import errno
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.summary.writer.record_writer import RecordWriter
from trainings import TINY, assert_same_weights, checkpoint, pictures_flags, refusal, write_pictures

from involution.commands import training
from involution.commands.main import main
from involution.commands.termination import Delay, terminable
from involution.data.epochs import random_states, restore_random_states
from involution.data.image_folders import FolderImages
from involution.files import locked
from involution.runs import RunFolder
from involution.tasks import ClassificationTask
from involution.tasks.callbacks import EpochSeed
from involution.tasks.interruption import InterruptionCheckpoint

# Random in the net, and in what happens to the images.
FLAGS = [
    *TINY,
    "--trainer.limit_train_batches=4",
    "--data.shift=1",
    "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], in_chans: 1, kernel_size: 3, "
    "group_channels: 4, drop_path_rate: 0.2}",
]
STATUSES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def _can_be_interrupted():
    """A shell starts what runs in its background deaf to Ctrl-C, tests as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupted(monkeypatch, capsys):
    """Run a training that gets a signal in the midst of a step, or at the start of an epoch or of validation."""

    def fit(flags, run, number, epoch, batch=0, step="training_step"):
        do = getattr(ClassificationTask, step)

        def strike(self, *arguments):
            if (self.trainer.current_epoch, *arguments[1:]) == (epoch, *[batch] * len(arguments[1:])):
                os.kill(os.getpid(), number)
            return do(self, *arguments)

        monkeypatch.setattr(ClassificationTask, step, strike)
        last = run / "checkpoints" / "last.ckpt"
        more = ["--ckpt_path=last"] if last.exists() else []
        assert main(["fit", *flags, f"--run={run}", *more]) == STATUSES[number]
        monkeypatch.setattr(ClassificationTask, step, do)
        left = rf"({run / 'model_so_far'} is the net of (best|last).ckpt; )?"
        words = f"involution fit: interrupted in epoch {epoch}; {left}go on from {last}, which is whole, with --ckpt_path last"
        assert re.fullmatch(words, refusal(capsys))
        assert last.exists() and not (run / ".lock").exists()
        loops = torch.load(last, weights_only=True)["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        return epochs["current"]["completed"], batches["current"]["completed"]

    return fit


def finish(flags, run):
    assert main(["fit", *flags, f"--run={run}", "--ckpt_path=last"]) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    assert main(["fit", *FLAGS, f"--run={run}"]) == 0
    # Nothing remains of what an interruption would have left.
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    return run


def test_the_step_is_finished_and_the_next_one_begins_the_rest_again_and_again(whole, tmp_path, interrupted, recwarn):
    run = tmp_path / "run"
    for number, epoch, batch in (
        (signal.SIGINT, 0, 0),
        (signal.SIGTERM, 0, 2),
        (signal.SIGTERM, 1, 0),
        (signal.SIGINT, 1, 2),
    ):
        assert interrupted(FLAGS, run, number, epoch, batch) == (epoch, batch + 1)
    finish(FLAGS, run)
    assert_same_weights(whole, run)
    assert not [warning for warning in recwarn if "resumable" in str(warning.message)]


@pytest.mark.parametrize("number", STATUSES, ids=lambda number: number.name)
def test_the_best_net_so_far_is_there_until_the_training_ends(tmp_path, interrupted, number):
    run, flags = tmp_path / "run", [*FLAGS, "--trainer.max_epochs=3"]
    folder = run / "model_so_far"

    def kept():
        net = torch.nn.Module()
        net.model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return net.state_dict()

    for epoch, batch, name in ((0, 1, "last"), (1, 2, "best"), (2, 2, "best")):
        interrupted(flags, run, number, epoch, batch)
        expected = checkpoint(run, name)
        assert expected["global_step"] and all(
            torch.equal(expected["state_dict"][key], value) for key, value in kept().items()
        )
        # By which a study tells that a training has ended.
        assert not RunFolder(run).is_finished(3)
    finish(flags, run)
    assert RunFolder(run).is_finished(3) and not folder.exists()


def test_what_cannot_be_saved_so_far_changes_no_sentence(tmp_path, monkeypatch, interrupted):
    def refuse(self, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ClassificationTask, "save_model", refuse)
    interrupted(FLAGS, tmp_path / "run", signal.SIGTERM, 1, 0)
    assert not (tmp_path / "run" / "model_so_far").exists()


def test_weights_that_were_never_trained_are_no_net(tmp_path, interrupted):
    assert interrupted(FLAGS, tmp_path / "run", signal.SIGINT, 0, 3) == (0, 0)
    assert not (tmp_path / "run" / "model_so_far").exists()


def test_a_schedule_that_ends_with_the_training_leaves_the_batches_alone(tmp_path, interrupted):
    """To know its end, the batches are counted: not before the checkpoint has said where they go on."""
    flags = [*FLAGS, "--model.lr_scheduler=involution.tasks.PolyLR", "--model.lr_scheduler.min_lr=0.0"]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    assert interrupted(flags, tmp_path / "run", signal.SIGTERM, 1, 1) == (1, 2)
    finish(flags, tmp_path / "run")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


PLATEAU = [
    *FLAGS,
    "--trainer.max_epochs=4",
    "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
    *(f"--model.lr_scheduler.{word}" for word in ("patience=0", "factor=0.1", "threshold=100", "threshold_mode=abs")),
]


@pytest.mark.parametrize(
    ("more", "left"),
    [
        (["monitor=val_loss"], (2, 3)),
        # Of an epoch's figure the rest knows only its own part: the whole epoch is trained again.
        (["monitor=train_loss"], (1, 4)),
    ],
    ids=["validation", "training"],
)
def test_a_schedule_that_waits_for_a_plateau_misses_no_epoch(tmp_path, interrupted, more, left):
    """The first value is always better than none, each later one never."""
    run, flags = tmp_path / "run", [*PLATEAU, *(f"--model.lr_scheduler.{word}" for word in more)]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    assert main(["fit", *flags, f"--run={run}", "--trainer.max_epochs=2"]) == 0
    assert interrupted(flags, run, signal.SIGINT, 2, 2) == left
    finish(flags, run)
    assert_same_weights(tmp_path / "whole", run)
    ends = [checkpoint(folder)["lr_schedulers"] for folder in (tmp_path / "whole", run)]
    assert ends[0] == ends[1] and ends[0][0]["_last_lr"] == [pytest.approx(0.05 * 0.1**3)]


def test_a_schedule_that_waits_for_a_plateau_knows_the_validation_before_the_interruption(tmp_path, interrupted):
    """Of five batches the third is followed by one; the interruption comes after the fourth."""
    run, flags = tmp_path / "run", [*PLATEAU, "--model.lr_scheduler.monitor=val_loss"]
    flags += ["--trainer.max_epochs=3", "--trainer.limit_train_batches=5", "--trainer.val_check_interval=3"]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    assert interrupted(flags, run, signal.SIGINT, 1, 3) == (1, 4)
    finish(flags, run)
    assert_same_weights(tmp_path / "whole", run)
    assert checkpoint(tmp_path / "whole")["lr_schedulers"] == checkpoint(run)["lr_schedulers"]


def test_where_no_step_can_be_saved_the_beginning_of_the_epoch_is(whole, tmp_path, interrupted):
    """In the last step of an epoch, in validation, and before the first step."""
    run = tmp_path / "run"
    assert interrupted(FLAGS, run, signal.SIGINT, 0, 3) == (0, 0)
    assert interrupted(FLAGS, run, signal.SIGTERM, 0, 0, "validation_step") == (0, 0)
    assert interrupted(FLAGS, run, signal.SIGTERM, 0, step="on_train_epoch_start") == (0, 0)
    interrupted(FLAGS, run, signal.SIGINT, 1, 0, "validation_step")
    finish(FLAGS, run)
    assert_same_weights(whole, run)


def test_gradients_that_are_being_accumulated_are_not_lost(tmp_path, interrupted):
    flags = [*FLAGS, "--trainer.accumulate_grad_batches=2"]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    for number, epoch in ((signal.SIGTERM, 0), (signal.SIGINT, 1)):
        assert interrupted(flags, tmp_path / "run", number, epoch, 0) == (epoch, 2)
    finish(flags, tmp_path / "run")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_no_success_is_reported_after_the_last_batch(tmp_path, monkeypatch, capsys):
    """Where nothing is left to interrupt, as when the model is being saved."""
    monkeypatch.setattr(training.SaveModel, "on_fit_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}"]) == 143
    assert refusal(capsys).endswith("with --ckpt_path last")


@pytest.mark.parametrize("key", ["lr-SGD", "val_accuracy", "train_loss"])
def test_figures_are_written_whole(tmp_path, monkeypatch, capsys, key):
    """An exception in the midst of a queue to a thread that writes leaves it locked: the training would never end."""
    log, written = TensorBoardLogger.log_metrics, []

    def strike(self, metrics, step=None):
        if key in metrics:
            os.kill(os.getpid(), signal.SIGINT)
        log(self, metrics, step)
        written.extend(metrics)

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", strike)
    assert main(["fit", *FLAGS, f"--run={tmp_path / 'run'}"]) == 130
    assert key in written and "with --ckpt_path last" in refusal(capsys)


def test_several_processes_finish_the_step():
    delay = Delay()
    trainer = SimpleNamespace(
        train_dataloader=None, world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=lambda asked, all: asked)
    )
    callback = InterruptionCheckpoint(Path("last.ckpt"), delay)
    ended = None
    with suppress(KeyboardInterrupt), terminable(delay):
        callback.on_sanity_check_start(trainer, None)
        callback.on_train_batch_start(trainer, None, None, 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SIGTERMException) as ended:
            callback.on_train_batch_start(trainer, None, None, 1)
    assert ended is not None


@pytest.mark.parametrize(("size", "batches"), [(8, 169), (32, 43)])
def test_the_rest_of_an_epoch_has_the_batches_of_its_beginning(tmp_path, interrupted, capsys, size, batches):
    assert interrupted(FLAGS, tmp_path / "run", signal.SIGTERM, 0, 2) == (0, 3)
    assert main(["fit", *FLAGS, f"--run={tmp_path / 'run'}", "--ckpt_path=last", f"--data.batch_size={size}"]) == 2
    words = (
        f"an epoch of 85 batches of 16 images, and an epoch has {batches} of {size} now; go on with the same data and"
    )
    assert words in refusal(capsys)


# Worker processes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_worker_processes_draw_what_they_would_have_drawn(pictures, tmp_path, interrupted):
    flags = pictures_flags(pictures, "--data.num_workers=2")
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    assert interrupted(flags, tmp_path / "run", signal.SIGTERM, 0, 2) == (0, 3)
    finish(flags, tmp_path / "run")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_killed_worker_is_a_sentence(pictures, tmp_path, monkeypatch, capsys):
    """It is what a machine does that runs out of memory."""
    me = os.getpid()
    monkeypatch.setattr(FolderImages, "__getitem__", lambda *_: me == os.getpid() or os.kill(os.getpid(), 9))
    assert main(["fit", *pictures_flags(pictures, "--data.num_workers=2"), f"--run={tmp_path / 'run'}"]) == 2
    last = refusal(capsys)
    assert last.startswith("involution fit: a process that reads images ended in epoch 0 (worker (pid")
    assert last.endswith("where memory ran out, lower --data.num_workers, and start again")


def test_a_disk_that_refuses_the_logs_is_a_sentence(tmp_path, monkeypatch, capfd):
    """TensorBoard writes in a thread, which would print a traceback."""
    # In the place of pytest's own.
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    refused = threading.Event()

    def refuse(*_):
        refused.set()
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def wait(self, trainer, module):
        if trainer.current_epoch == 1:
            monkeypatch.setattr(RecordWriter, "write", refuse)
            trainer.loggers[1].experiment.add_scalar("x", 1.0)
            assert refused.wait(60)

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", wait)
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}"]) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said and "Read-only file system" in said.splitlines()[-1]


def test_a_disk_that_refuses_the_logs_last_is_the_same_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    writers = []

    def refuse(*_):
        time.sleep(1)
        writers.append(threading.current_thread())
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def be_refused(self, trainer, module):
        if trainer.current_epoch == 1:
            monkeypatch.setattr(RecordWriter, "write", refuse)
            trainer.loggers[1].experiment.add_scalar("x", 1.0)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", be_refused)
    # Another of the loggers, whose refusal leaves this one as it is.
    monkeypatch.setattr(TensorBoardLogger, "finalize", lambda *_: None)
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}"]) == 2
    (writer,) = writers
    writer.join(60)
    said = capfd.readouterr().err
    assert "Traceback" not in said and "Read-only file system" in said.splitlines()[-1]


def test_random_states_come_back():
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()

    np.random.randn()
    # As a checkpoint brings them back.
    file = io.BytesIO()
    torch.save(random_states(), file)
    first = draw()
    file.seek(0)
    restore_random_states(torch.load(file, weights_only=True))
    assert draw() == first


# Two writers


LOCK = "import sys, time\nfrom involution.files import locked\nwith locked(sys.argv[1]): print(); time.sleep(%d)"


def test_a_second_training_in_a_folder_is_refused_from_its_first_second(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", LOCK % 600, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        try:
            assert main(["fit", *TINY, f"--run={run}"]) == 2
            assert f"{run} is in use by process {holder.pid} on " in refusal(capsys)
            assert [path.name for path in run.iterdir()] == [".lock"]
        finally:
            holder.kill()
    # Killed, it left the file; the next training says so and goes ahead.
    assert main(["fit", *TINY, f"--run={run}", "--trainer.max_epochs=1"]) == 0
    assert f"{run} was left by process {holder.pid} on " in capsys.readouterr().err
    assert not (run / ".lock").exists()


def test_a_training_holds_its_folder_and_evaluation_looks_on(tmp_path, monkeypatch):
    run, said = tmp_path / "run", []
    command = [sys.executable, "-c", LOCK % 0, str(run)]

    def try_it(self):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        said.append(done.stderr.splitlines()[-1])

    monkeypatch.setattr(ClassificationTask, "on_train_epoch_start", try_it)
    assert main(["fit", *TINY, f"--run={run}", "--trainer.max_epochs=1"]) == 0
    assert said[0].startswith(f"involution.errors.FolderInUseError: {run} is in use by process {os.getpid()} on ")
    with locked(run):
        assert main(["validate", *TINY, f"--run={run}", "--ckpt_path=best"]) == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["fit", *TINY, f"--run={tmp_path / 'file'}"]) == 2
    assert f"cannot write to {tmp_path / 'file'}: File exists; make it writable, or choose another folder" in refusal(
        capsys
    )
