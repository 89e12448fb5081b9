"""A training that is interrupted, killed or doubled says what it leaves, ends with the status for it and goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from trainings import TINY, assert_same_weights, refusal

from involution.commands import training
from involution.commands.main import main
from involution.data.image_folders import FolderImages
from involution.files import locked
from involution.tasks.callbacks import EpochSeed


@pytest.fixture(autouse=True)
def _can_be_interrupted():
    """A shell starts what runs in its background deaf to Ctrl-C, tests as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_epoch(monkeypatch, epoch, act):
    """Do something at the start of an epoch of the trainings that follow."""
    seed = EpochSeed.on_train_epoch_start

    def act_once(self, trainer, module):
        seed(self, trainer, module)
        if trainer.current_epoch == epoch:
            act()

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", act_once)


def kill(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interruption_says_how_it_goes_on(tmp_path, monkeypatch, capsys, number, status, epoch):
    at_epoch(monkeypatch, epoch, kill(number))
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}"]) == status
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    words = f"involution fit: interrupted in epoch {epoch}; go on from {last}, which is whole, with --ckpt_path last"
    assert refusal(capsys) == words
    assert last.exists() and not (tmp_path / "run" / ".lock").exists()


def test_a_process_that_is_interrupted_ends_with_the_status(tmp_path):
    program = """
import os, signal, sys
from involution.commands.main import main
from involution.tasks.callbacks import EpochSeed
EpochSeed.on_train_epoch_start = lambda *_: os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "fit", *TINY, f"--run={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("involution fit: interrupted in epoch 0; go on from ")


def test_no_success_is_reported_after_the_last_batch(tmp_path, monkeypatch, capsys):
    """Where nothing is left to interrupt, as when the model is being saved."""
    monkeypatch.setattr(training.SaveModel, "on_fit_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}"]) == 143
    assert refusal(capsys).endswith("with --ckpt_path last")


def test_a_signal_that_is_swallowed_ends_the_command_at_its_end(capsys):
    from involution.commands.termination import Terminated, terminable

    def swallow():
        with terminable(), contextlib.suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught:
        swallow()
    assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


def test_every_command_ends_with_the_status_of_the_signal(monkeypatch, capsys):
    from involution.commands import convert

    def end(checkpoint: str, out: str) -> None:
        """End."""
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(convert, "convert", end)
    assert main(["convert", "a", "b"]) == 143
    assert capsys.readouterr().err == "involution convert: terminated\n"


# Two writers


def test_a_second_training_in_a_folder_is_refused_from_its_first_second(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    code = "import sys, time\nfrom involution.files import locked\nwith locked(sys.argv[1]): print(); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True) as holder:
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


def test_a_training_holds_its_folder(tmp_path, monkeypatch, capsys):
    run, said = tmp_path / "run", []
    code = "import sys; from involution.files import locked\nwith locked(sys.argv[1]): pass"

    def try_it():
        done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=300)
        said.append(done.stderr.splitlines()[-1])

    at_epoch(monkeypatch, 1, try_it)
    assert main(["fit", *TINY, f"--run={run}"]) == 0
    assert said[0].startswith(f"involution.errors.FolderInUseError: {run} is in use by process {os.getpid()} on ")


def test_evaluation_looks_on_while_a_training_runs(tmp_path):
    run = tmp_path / "run"
    assert main(["fit", *TINY, f"--run={run}", "--trainer.max_epochs=1"]) == 0
    with locked(run):
        assert main(["validate", *TINY, f"--run={run}", "--ckpt_path=best"]) == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["fit", *TINY, f"--run={tmp_path / 'file'}"]) == 2
    assert f"cannot write to {tmp_path / 'file'}: File exists; make it writable, or choose another folder" in refusal(
        capsys
    )


# Data workers


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 12), ("val", 4)):
        for label in ("dark", "light"):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20, 20, 3), 10 * i + (100 if label == "light" else 0), np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


def flags(root):
    """Return a training of seconds on image files, read by worker processes."""
    changed = ("--data", "--model.num_classes", "--model.model_args", "--trainer.limit")
    return [
        *(flag for flag in TINY if not flag.startswith(changed)),
        "--model.num_classes=2",
        "--model.model_args={stem: small, channels: [8, 8, 8, 8], kernel_size: 3, group_channels: 4}",
        "--data=involution.data.ImageFolders",
        f"--data.root={root}",
        "--data.batch_size=4",
        "--data.num_workers=2",
        "--data.transforms=involution.data.ImageTransforms",
        "--data.transforms.image_size=16",
    ]


def test_a_killed_worker_is_a_sentence(pictures, tmp_path, monkeypatch, capsys):
    """It is what a machine does that runs out of memory."""
    me = os.getpid()
    monkeypatch.setattr(FolderImages, "__getitem__", lambda *_: me == os.getpid() or os.kill(os.getpid(), 9))
    assert main(["fit", *flags(pictures), f"--run={tmp_path / 'run'}"]) == 2
    last = refusal(capsys)
    assert last.startswith("involution fit: a process that reads images ended in epoch 0 (worker (pid")
    assert last.endswith("where memory ran out, lower --data.num_workers, and start again")


def test_two_processes_with_workers_train_and_go_on_to_the_same_weights(pictures, tmp_path):
    """Workers of several processes are forked from a server without threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "involution", "fit", *flags(pictures)]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--model.channels_last=true"]

    def fit(run, *more):
        done = subprocess.run(
            [*command, f"--run={tmp_path / run}", *more], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr

    fit("whole")
    fit("parts", "--trainer.max_epochs=1")
    fit("parts", "--ckpt_path=last")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_two_processes_end_together_when_one_is_asked_to(pictures, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "involution", "fit", *flags(pictures), f"--run={tmp_path / 'run'}"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for _ in range(2400):
        time.sleep(0.1)
        if last.exists() or process.poll() is not None:
            break
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert f"go on from {last}, which is whole, with --ckpt_path last" in said and "Traceback" not in said


def test_workers_fork_from_a_server_only_where_there_are_several_processes():
    from involution.data.sampling import worker_options

    assert worker_options(2, 1) == {"num_workers": 2} and worker_options(0, 2) == {"num_workers": 0}
    assert worker_options(2, 2)["multiprocessing_context"].get_start_method() == "forkserver"
