"""Lightning's averages of weights: validated, kept by checkpoints, gone on with, and in the net that is left."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from trainings import TINY, checkpoint, logged

pytest.importorskip("lightning")

from involution.commands.main import main
from involution.tasks import ClassificationTask

FLAGS = [
    *TINY,
    "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging",
    "--trainer.callbacks.decay=0.9",
    "--model.lr_scheduler=torch.optim.lr_scheduler.MultiStepLR",
    "--model.lr_scheduler.milestones=[1]",
]


def judged(run):
    return [row["val_loss"] for row in logged(run) if row["val_loss"]][-1]


def test_averages_are_judged_kept_and_gone_on_with(tmp_path, recwarn):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["fit", *FLAGS, f"--run={whole}"]) == 0
    assert main(["fit", *FLAGS, f"--run={parts}", "--trainer.max_epochs=1"]) == 0
    assert main(["fit", *FLAGS, f"--run={parts}", "--ckpt_path=last"]) == 0
    assert not [warning for warning in recwarn if "WeightAveraging" in str(warning.message)]
    one, other = checkpoint(whole), checkpoint(parts)
    for kind in ("state_dict", "current_model_state"):
        assert all(torch.equal(other[kind][name], value) for name, value in one[kind].items())
    name = next(key for key in one["state_dict"] if key.endswith("weight"))
    assert not torch.equal(one["state_dict"][name], one["current_model_state"][name])
    # The weights of the checkpoint, judged without the callback.
    in_training = judged(whole)
    assert main(["validate", *TINY, f"--run={whole}", "--ckpt_path=last"]) == 0
    assert float(judged(whole)) == pytest.approx(float(in_training), rel=1e-5)


def test_a_copy_of_a_task_makes_the_same_optimizer():
    optimizer = partial(torch.optim.SGD, lr=0.25)
    task = ClassificationTask("rednet26", 2, model_args={"channels": [8, 8, 8, 8]}, optimizer=optimizer)
    copy = deepcopy(task)
    made = copy.configure_optimizers()
    assert made.param_groups[0]["lr"] == 0.25
    assert made.param_groups[0]["params"][0] is next(copy.parameters()) is not next(task.parameters())
