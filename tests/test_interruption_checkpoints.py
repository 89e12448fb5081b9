"""What an interrupted training leaves is gone on from as if nothing had been, from the step at which it ended."""

import io
import os
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import TINY, assert_same_weights, refusal

from involution.commands.main import main
from involution.commands.termination import Delay, Terminated, terminable
from involution.data.epochs import random_states, restore_random_states
from involution.tasks import ClassificationTask

# Random in the net, and in what happens to the images.
FLAGS = [
    *TINY,
    "--trainer.limit_train_batches=4",
    "--data.shift=1",
    "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], in_chans: 1, kernel_size: 3, "
    "group_channels: 4, drop_path_rate: 0.2}",
]


@pytest.fixture(autouse=True)
def _can_be_interrupted():
    """A shell starts what runs in its background deaf to Ctrl-C, tests as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupt(monkeypatch):
    """Send this process a signal in the midst of a step, or of validation."""

    def prepare(number, epoch, batch, step="training_step"):
        do = getattr(ClassificationTask, step)

        def interrupted(self, *arguments):
            if (self.trainer.current_epoch, arguments[1]) == (epoch, batch) and not self.trainer.sanity_checking:
                os.kill(os.getpid(), number)
            return do(self, *arguments)

        monkeypatch.setattr(ClassificationTask, step, interrupted)
        return lambda: monkeypatch.setattr(ClassificationTask, step, do)

    return prepare


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    assert main(["fit", *FLAGS, f"--run={run}"]) == 0
    # Nothing remains of what an interruption would have left.
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    return run


def behind(run):
    """Return epochs and batches that a run's checkpoint has behind it."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    loops = checkpoint["loops"]["fit_loop"]
    return loops["epoch_progress"]["current"]["completed"], loops["epoch_loop.batch_progress"]["current"]["completed"]


@pytest.mark.parametrize(("number", "status", "batch"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 2)])
def test_the_step_is_finished_and_the_next_one_begins_the_rest(
    whole, tmp_path, interrupt, capsys, number, status, batch
):
    run = tmp_path / "run"
    undo = interrupt(number, epoch=0, batch=batch)
    assert main(["fit", *FLAGS, f"--run={run}"]) == status
    assert refusal(capsys).endswith("last.ckpt, which is whole, with --ckpt_path last")
    assert behind(run) == (0, batch + 1)
    undo()
    assert main(["fit", *FLAGS, f"--run={run}", "--ckpt_path=last"]) == 0
    assert_same_weights(whole, run)


def test_one_training_is_interrupted_again_and_again(whole, tmp_path, interrupt, recwarn):
    run, more = tmp_path / "run", []
    for epoch, batch in ((0, 1), (0, 2), (1, 0)):
        undo = interrupt(signal.SIGTERM, epoch, batch)
        assert main(["fit", *FLAGS, f"--run={run}", *more]) == 143
        assert behind(run) == (epoch, batch + 1)
        undo()
        more = ["--ckpt_path=last"]
    assert main(["fit", *FLAGS, f"--run={run}", *more]) == 0
    assert_same_weights(whole, run)
    assert not [warning for warning in recwarn if "resumable" in str(warning.message)]


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_where_no_step_can_be_saved_the_beginning_of_the_first_epoch_is(whole, tmp_path, interrupt, step):
    """In the last step of an epoch, and in validation."""
    run = tmp_path / "run"
    undo = interrupt(signal.SIGINT, 0, 3 if step == "training_step" else 0, step)
    assert main(["fit", *FLAGS, f"--run={run}"]) == 130
    assert behind(run) == (0, 0)
    undo()
    assert main(["fit", *FLAGS, f"--run={run}", "--ckpt_path=last"]) == 0
    assert_same_weights(whole, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_gradients_that_are_being_accumulated_are_not_lost(tmp_path, interrupt, number):
    flags = [*FLAGS, "--trainer.accumulate_grad_batches=2"]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    undo = interrupt(number, 0, 0)
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}"]) == 128 + number
    # Lightning ends after the batch where SIGTERM came; Ctrl-C waits for the step.
    assert behind(tmp_path / "run") == (0, 2 if number == signal.SIGINT else 0)
    undo()
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}", "--ckpt_path=last"]) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_worker_processes_draw_what_they_would_have_drawn(tmp_path, interrupt):
    root = tmp_path / "images"
    for part, label in (("train", "dark"), ("train", "light"), ("val", "dark"), ("val", "light")):
        (root / part / label).mkdir(parents=True)
        for i in range(12 if part == "train" else 2):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    changed = ("--data", "--model.num_classes", "--model.model_args", "--trainer.limit")
    flags = [
        *(flag for flag in TINY if not flag.startswith(changed)),
        "--model.num_classes=2",
        "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], kernel_size: 3, group_channels: 4}",
        "--data=involution.data.ImageFolders",
        f"--data.root={root}",
        "--data.batch_size=4",
        "--data.num_workers=2",
        "--data.transforms=involution.data.ImageTransforms",
        "--data.transforms.image_size=16",
    ]
    assert main(["fit", *flags, f"--run={tmp_path / 'whole'}"]) == 0
    undo = interrupt(signal.SIGTERM, 0, 2)
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}"]) == 143
    assert behind(tmp_path / "run") == (0, 3)
    undo()
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}", "--ckpt_path=last"]) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_step_is_finished_once_and_a_second_signal_does_not_wait():
    delay = Delay()

    def step(signals):
        with terminable(delay):
            delay.hold()
            for number in signals:
                os.kill(os.getpid(), number)
            finished.append(signals)
            delay.release()

    finished = []
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with pytest.raises(kind):
            step([number])
        assert finished.pop() == [number]
        delay = Delay()
        with pytest.raises(kind):
            step([number, number])
        assert not finished
        delay = Delay()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
