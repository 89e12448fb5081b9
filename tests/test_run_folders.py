"""The folder of a training: its checkpoints are always there, found where it was moved, and never replaced by another's."""

import shlex
import shutil

import pytest
import torch
from trainings import TINY, assert_same_weights, checkpoint, logged, refusal

pytest.importorskip("lightning")

from involution.commands.main import main

ANOTHER = "--trainer.callbacks=lightning.pytorch.callbacks.ModelCheckpoint"


def fit(run, *more):
    return main(["fit", *TINY, f"--run={run}", *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert fit(run, ANOTHER) == 0
    return run


def test_a_checkpoint_of_the_users_stands_beside_those_of_the_run(whole):
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list((whole / "logs").rglob("*.ckpt"))) == 1
    # The callbacks of one class, and with the same arguments, do not share a state.
    states = checkpoint(whole)["callbacks"]
    assert sum("ModelCheckpoint" in key for key in states) == 1 and sum("RunCheckpoint" in key for key in states) == 2


def test_a_training_with_a_checkpoint_of_the_users_goes_on(whole, tmp_path, capsys):
    assert fit(tmp_path, ANOTHER, "--trainer.max_epochs=1") == 0
    assert fit(tmp_path, ANOTHER) == 2
    assert "already holds a training" in refusal(capsys)
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        assert fit(tmp_path, ANOTHER, "--ckpt_path=last") == 0, "Lightning speaks of the user's, which lies in the logs"
    assert_same_weights(whole, tmp_path)


@pytest.mark.parametrize("older", [False, True], ids=["of this version", "of an older one"])
def test_a_folder_that_was_moved_keeps_its_best_net(tmp_path, recwarn, older):
    old, new = tmp_path / "old", tmp_path / "new"
    assert fit(old, "--trainer.max_epochs=1") == 0
    content = checkpoint(old)
    for key, state in list(content["callbacks"].items()):
        if "val_accuracy" in key:
            # Better than any later epoch can be.
            score = torch.tensor(2.0)
            state.update(
                best_model_score=score, kth_value=score, best_k_models=dict.fromkeys(state["best_k_models"], score)
            )
        if older:
            content["callbacks"][key.replace("RunCheckpoint", "ModelCheckpoint")] = content["callbacks"].pop(key)
    torch.save(content, old / "checkpoints" / "last.ckpt")
    best = (old / "checkpoints" / "best.ckpt").read_bytes()
    old.rename(new)
    assert fit(new, "--ckpt_path=last") == 0
    assert (new / "checkpoints" / "best.ckpt").read_bytes() == best
    assert len([row for row in logged(new) if row.get("val_loss")]) == 1
    assert not [warning for warning in recwarn if "stays in" in str(warning.message)]


def test_the_best_net_of_another_folder_is_left_there(whole, tmp_path, recwarn):
    best = (whole / "checkpoints" / "best.ckpt").read_bytes()
    last = whole / "checkpoints" / "last.ckpt"
    assert fit(tmp_path, "--trainer.max_epochs=3", f"--ckpt_path={last}") == 0
    (said,) = [str(warning.message) for warning in recwarn if "best epoch" in str(warning.message)]
    score = max(float(row["val_accuracy"]) for row in logged(whole) if row["val_accuracy"])
    assert said == (
        f"the best epoch so far, with a val_accuracy of {score:.4f}, stays in {whole}/checkpoints/best.ckpt; {tmp_path} keeps "
        "the best of those from here on"
    )
    assert not [warning for warning in recwarn if "dirpath has changed" in str(warning.message)]
    assert (whole / "checkpoints" / "best.ckpt").read_bytes() == best
    assert checkpoint(tmp_path, "best")["global_step"] == 6


@pytest.mark.parametrize("left", ["checkpoints/best.ckpt", "model"])
@pytest.mark.parametrize("more", [[], ["--ckpt_path=last"]], ids=["new", "last"])
def test_what_is_left_of_another_training_is_not_replaced(whole, tmp_path, capsys, left, more):
    run = tmp_path / "run"
    (run / left).parent.mkdir(parents=True)
    if left == "model":
        shutil.copytree(whole / left, run / left)
    else:
        shutil.copy(whole / left, run / left)
    assert fit(run, *more) == 2
    words = f"{run} holds {left} of a training whose checkpoints/last.ckpt is gone; choose another --run, or remove {run / left}"
    assert refusal(capsys) == f"involution fit: {words}"
    assert [path.name for path in run.iterdir()] == [left.partition("/")[0]]


def test_the_first_of_equal_commands_says_that_it_begins_anew(tmp_path, capsys, recwarn):
    run = tmp_path / "a run"
    assert fit(run, "--trainer.max_epochs=1", "--ckpt_path=last") == 0
    said = capsys.readouterr()
    assert f"there is no checkpoint at {run / 'checkpoints' / 'last.ckpt'}; a new training begins\n" in said.err
    assert not [warning for warning in recwarn if "last checkpoint" in str(warning.message)]
    # The command that it prints in the end is one that a shell takes.
    command = next(line for line in said.out.splitlines() if "to use it: " in line).partition("to use it: ")[2]
    assert shlex.split(command) == ["involution", "predict", "IMAGE", "--model", str(run / "model")]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--trainer.default_root_dir=else"],
            "--trainer.default_root_dir=else is not taken: the folder of a training is --run",
        ),
        (
            ["--optimizer=torch.optim.Adam"],
            "--optimizer is not taken: the task has its own; say it with --model.optimizer",
        ),
        (
            ["--lr_scheduler=torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size=1"],
            "--lr_scheduler is not taken: the task has its own; say it with --model.lr_scheduler",
        ),
    ],
    ids=["folder", "optimiser", "schedule"],
)
def test_what_would_be_ignored_is_refused(tmp_path, capsys, flags, words):
    assert fit(tmp_path / "run", *flags) == 2
    assert refusal(capsys) == f"involution fit: {words}"


def test_a_training_of_nothing_leaves_no_folder(tmp_path, capsys):
    run = tmp_path / "runs" / "run"
    assert fit(run, "--trainer.fast_dev_run=true") == 0
    assert list(tmp_path.iterdir()) == []
    assert fit(run, "--model.num_classes=3") == 2
    assert "set num_classes to 10" in refusal(capsys)
    assert list(tmp_path.iterdir()) == []
