"""The checkpoints of a run's folder: always there, found where the folder was moved, and never another training's."""

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
    assert fit(tmp_path, ANOTHER, "--ckpt_path=last") == 0
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
    assert not [warning for warning in recwarn if "dirpath has changed" in str(warning.message)]


def test_the_best_net_of_another_folder_is_left_there(whole, tmp_path):
    best = (whole / "checkpoints" / "best.ckpt").read_bytes()
    last = whole / "checkpoints" / "last.ckpt"
    assert fit(tmp_path, "--trainer.max_epochs=3", f"--ckpt_path={last}") == 0
    assert (whole / "checkpoints" / "best.ckpt").read_bytes() == best
    assert checkpoint(tmp_path, "best")["global_step"] == 6
