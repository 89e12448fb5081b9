"""The end of a training between two validations is saved and judged; one that only tries the recipe leaves nothing."""

import os

import pytest
from lightning.pytorch.callbacks import Timer
from trainings import TINY, assert_same_weights, checkpoint, logged

pytest.importorskip("lightning")

from involution.commands.main import main
from involution.errors import DataError
from involution.tasks import ClassificationTask

# Two steps of 16 images an epoch, and one validation in three epochs.
FLAGS = [*TINY, "--trainer.check_val_every_n_epoch=3"]


def fit(run, *more):
    return main(["fit", *FLAGS, f"--run={run}", *more])


def validated(run):
    """Return the epochs and steps that were validated, of the last start of a training."""
    return [(int(row["epoch"]), int(row["step"])) for row in logged(run) if row.get("val_loss")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert fit(run, "--trainer.max_epochs=4") == 0
    return run


def test_the_last_epoch_is_judged_and_saved_whatever_the_interval(whole):
    assert validated(whole) == [(2, 5), (3, 7)]
    assert (checkpoint(whole)["epoch"], checkpoint(whole)["global_step"]) == (3, 8)


@pytest.mark.parametrize("epoch", [1, 3], ids=["unjudged", "judged"])
def test_every_epoch_is_saved_and_gone_on_from(whole, epoch, tmp_path, monkeypatch):
    def end(self):
        if self.current_epoch == epoch:
            raise DataError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(ClassificationTask, "on_train_epoch_start", end)
        assert fit(tmp_path, "--trainer.max_epochs=4") == 2
    assert checkpoint(tmp_path)["global_step"] == 2 * epoch
    assert fit(tmp_path, "--trainer.max_epochs=4", "--ckpt_path=last") == 0
    assert_same_weights(whole, tmp_path)
    assert validated(tmp_path)[-1] == (3, 7)


def test_a_number_of_steps_ends_within_an_epoch(whole, tmp_path):
    assert fit(tmp_path, "--trainer.max_epochs=-1", "--trainer.max_steps=3") == 0
    assert validated(tmp_path) == [(1, 2)]
    assert checkpoint(tmp_path)["global_step"] == checkpoint(tmp_path, "best")["global_step"] == 3
    # What was trained longer does not notice that it was judged there.
    assert fit(tmp_path, "--trainer.max_epochs=-1", "--trainer.max_steps=8", "--ckpt_path=last") == 0
    assert checkpoint(tmp_path)["global_step"] == 8
    assert_same_weights(whole, tmp_path)


def test_a_number_of_steps_ends_with_an_epoch_that_counts_once(whole, tmp_path):
    assert fit(tmp_path, "--trainer.max_epochs=-1", "--trainer.max_steps=4") == 0
    assert fit(tmp_path, "--trainer.max_epochs=-1", "--trainer.max_steps=8", "--ckpt_path=last") == 0
    assert checkpoint(tmp_path)["global_step"] == 8
    assert_same_weights(whole, tmp_path)


def test_what_ends_by_the_clock_is_judged_where_it_ends(whole, tmp_path, monkeypatch):
    """Within an epoch, whose rest a longer training goes on with."""
    with monkeypatch.context() as patched:
        # Whatever the clock says: after the third step.
        patched.setattr(Timer, "on_train_batch_end", lambda _, trainer, *__: stop(trainer, 3))
        assert fit(tmp_path, "--trainer.max_epochs=4", "--trainer.max_time=10:00:00:00") == 0
    assert validated(tmp_path) == [(1, 2)]
    assert checkpoint(tmp_path)["global_step"] == checkpoint(tmp_path, "best")["global_step"] == 3
    assert fit(tmp_path, "--trainer.max_epochs=4", "--ckpt_path=last") == 0
    assert_same_weights(whole, tmp_path)


def stop(trainer, step):
    trainer.should_stop = trainer.should_stop or trainer.global_step >= step


def test_a_training_that_may_not_end_yet_is_judged_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(Timer, "on_train_batch_end", lambda _, trainer, *__: stop(trainer, 1))
    flags = ["--trainer.max_epochs=4", "--trainer.min_epochs=2", "--trainer.max_time=10:00:00:00"]
    assert fit(tmp_path, *flags) == 0
    assert validated(tmp_path) == [(1, 3)]


def test_a_training_that_is_not_judged_is_left_so(tmp_path):
    assert fit(tmp_path, "--trainer.limit_val_batches=0") == 0
    assert validated(tmp_path) == [] and checkpoint(tmp_path)["global_step"] == 4


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_development_run_leaves_and_claims_nothing(whole, tmp_path, capsys):
    before = files(whole)
    assert fit(whole, "--trainer.fast_dev_run=true") == 0
    assert files(whole) == before
    assert fit(tmp_path, "--trainer.fast_dev_run=2") == 0
    assert os.listdir(tmp_path) == []
    assert "to use it" not in capsys.readouterr().out
