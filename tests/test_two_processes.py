"""Two processes of one training: what reads images, and what ends them and lets them go on."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from trainings import assert_same_weights, logged, pictures_flags, write_pictures

from involution.data import workers
from involution.tasks.checkpointing import TrainingEnd


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_they_go_on_with_workers_to_the_same_weights(pictures, tmp_path, copies):
    """Bit for bit. Workers of several processes are forked from a server without threads."""
    flags = pictures_flags(pictures, "--data.num_workers=1", "--trainer.strategy=ddp", "--model.channels_last=true")
    flags.append("--model.model_args.drop_path_rate=0.2")
    copies.run_two("fit", *flags, f"--run={tmp_path / 'whole'}")
    copies.run_two("fit", *flags, f"--run={tmp_path / 'parts'}", "--trainer.max_epochs=1")
    copies.run_two("fit", *flags, f"--run={tmp_path / 'parts'}", "--ckpt_path=last")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_they_judge_every_image_once(tmp_path, copies):
    """Seven images, and a single one, which the second process has nothing of."""
    root = write_pictures(tmp_path / "pictures")
    (root / "val" / "dark" / "0.png").unlink()
    (root / "test" / "light").mkdir(parents=True)
    (root / "val" / "light" / "0.png").rename(root / "test" / "light" / "0.png")
    (root / "train" / "light" / "0.png").rename(root / "val" / "light" / "0.png")
    flags = pictures_flags(root, "--data.num_workers=0", "--data.test=test", "--ckpt_path=none", "--data.batch_size=2")
    for command in ("validate", "test"):
        one, two = (tmp_path / command / name for name in ("one", "two"))
        status, said = copies.run(command, *flags, f"--run={one}")
        assert status == 0, said
        copies.run_two(command, *flags, f"--run={two}", "--trainer.strategy=ddp")
        expected, actual = figures(one), figures(two)
        assert len(expected) == 2 and actual == pytest.approx(expected, rel=1e-5)


def figures(run):
    (row,) = logged(run)
    return {key: float(value) for key, value in row.items() if key.endswith(("_loss", "_accuracy"))}


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, "first"), (signal.SIGINT, "first"), (signal.SIGINT, "all")]
)
def test_they_end_together_when_one_is_asked_to(pictures, tmp_path, number, whom):
    """As the first one starts the second, by the command itself; in a terminal Ctrl-C reaches all, readers of images too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = pictures_flags(pictures, "--data.num_workers=1", "--trainer.devices=2", "--trainer.strategy=ddp")
    command = [
        sys.executable,
        "-m",
        "involution",
        "fit",
        *flags,
        "--trainer.max_epochs=1000",
        f"--run={tmp_path / 'run'}",
    ]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for _ in range(2400):
        time.sleep(0.1)
        if last.exists() or process.poll() is not None:
            break
    try:
        if whom == "all":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        # It ends when nobody writes any more: the last reader of images holds its end of the pipe, too.
        _, said = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, said
    assert f"go on from {last}, which is whole, with --ckpt_path last" in said and "Traceback" not in said


def test_after_ctrl_c_nobody_is_left_who_finds_a_killed_process():
    """Lightning's thread that looks after the others would kill this one as well, before it has said anything."""
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    launcher = SimpleNamespace(procs=[process])
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(launcher=launcher),
        default_root_dir="nowhere",
        world_size=2,
        ckpt_path=None,
        current_epoch=3,
        state=SimpleNamespace(fn="fit"),
    )
    end, watched = TrainingEnd(), launcher.procs
    end.on_exception(trainer, None, KeyboardInterrupt())
    assert process.wait(60) == -signal.SIGINT and watched == []
    assert end.words == "interrupted in epoch 3; no epoch was finished, start again"


def test_workers_fork_from_a_server_only_where_there_are_several_processes(monkeypatch):
    started = []
    monkeypatch.setattr(workers, "_start_server", lambda: started.append(1))
    assert workers.worker_options(2, 1) == {"num_workers": 2} and workers.worker_options(0, 2) == {"num_workers": 0}
    assert not started
    assert workers.worker_options(2, 2)["multiprocessing_context"].get_start_method() == "forkserver"
    assert started


# What starts workers from one server and hands each something, as a training would.
START_WORKERS = """
import os, pickle, sys, _multiprocessing
from multiprocessing import forkserver
from involution.data.workers import worker_options

class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments
    def __reduce__(self):
        return self.call

worker_options(1, 2)
for work in (
    b"",
    pickle.dumps({}) + pickle.dumps(Call(_multiprocessing.SemLock._rebuild, -1, 1, 1, "/gone")),
    b"no pickle",
    pickle.dumps({}) + pickle.dumps(Call(open, "/gone")),
):
    sentinel, pipe = forkserver.connect_to_new_process([])
    os.write(pipe, work)
    os.close(pipe)
    os.read(sentinel, 8)
    os.read(sentinel, 8)
    print("----", file=sys.stderr, flush=True)
"""


def test_a_worker_whose_training_ends_while_it_starts_is_silent():
    done = subprocess.run(
        [sys.executable, "-c", START_WORKERS], capture_output=True, text=True, timeout=120, check=True
    )
    nothing, lost_semaphore, no_work, lost_file, _ = done.stderr.split("----\n")
    assert nothing == lost_semaphore == ""
    assert "UnpicklingError" in no_work and "No such file or directory: '/gone'" in lost_file


READ = """
import os, signal, sys
from torch.utils.data import DataLoader
from involution.data.workers import worker_options

if __name__ == "__main__":
    batches = iter(DataLoader(range(8), **worker_options(1, 2)))
    next(batches)
    print(batches._workers[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_killed_training_end(tmp_path):
    script = tmp_path / "read.py"
    script.write_text(READ)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        # Read to the end: whoever holds the pipe, worker and server, has to be gone.
        said, _ = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and int(said) > 0
