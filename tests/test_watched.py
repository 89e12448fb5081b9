"""What watches a figure of the training: it is told before the first step where nothing logs that figure."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainings import TINY, refusal

from involution.commands.main import main
from involution.errors import TrainingError
from involution.tasks import ClassificationTask, SegmentationTask

NEVER_BETTER = partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs", factor=0.5)


class Rates(Callback):
    """Keep the rate at the beginning of every epoch, and what is logged in the end."""

    def __init__(self):
        self.rates, self.logged = [], set()

    def on_train_epoch_start(self, trainer, pl_module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer, pl_module):
        self.logged = set(trainer.callback_metrics)


class Own(ClassificationTask):
    """A task of somebody else's, which logs more."""

    def on_validation_epoch_end(self):
        self.log("mine", 1.0)


def fit(schedule=None, *callbacks, task=ClassificationTask, validates=True, **options):
    loader = DataLoader(TensorDataset(torch.randn(10, 1, 4, 4), torch.arange(10) % 2), batch_size=5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    made = task(net, 2, optimizer=partial(torch.optim.SGD, lr=1.0), lr_scheduler=schedule)
    kept = Rates()
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_model_summary=False, enable_progress_bar=False,
        enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[kept, *callbacks], **options,
    )  # fmt: skip
    trainer.fit(made, loader, loader if validates else None)
    return kept


def test_a_rate_falls_where_a_figure_is_no_better():
    """The first value is always better than none."""
    assert fit(partial(NEVER_BETTER, monitor="train_loss")).rates == [1, 1, 0.5, 0.25]
    assert fit(partial(NEVER_BETTER, monitor="val_loss")).rates == [1, 1, 0.5, 0.25]
    # Where only every second epoch is judged, so often.
    assert fit(partial(NEVER_BETTER, monitor="val_loss"), check_val_every_n_epoch=2).rates == [1, 1, 1, 1]
    assert fit(partial(NEVER_BETTER, monitor="mine"), task=Own).rates == [1, 1, 0.5, 0.25]


def test_a_plateau_is_one_of_epochs_whatever_else_is_stepped_how():
    args = {"backbone": "rednet26", "neck_channels": 8, "head_channels": 8, "backbone_args": {"channels": [8] * 4}}
    task = SegmentationTask(
        "semantic_fpn", 2, model_args=args, lr_scheduler=partial(ReduceLROnPlateau, monitor="val_miou")
    )
    told = task.configure_optimizers()["lr_scheduler"]
    assert (told["interval"], told["monitor"]) == ("epoch", "val_miou")


@pytest.mark.parametrize(
    ("schedule", "callbacks", "validates", "words"),
    [
        (
            partial(ReduceLROnPlateau, monitor="val_los"),
            (),
            True,
            "ReduceLROnPlateau watches 'val_los', which the task does not log; name one of train_loss, train_accuracy, "
            "val_loss, val_accuracy with --model.lr_scheduler.monitor",
        ),
        (
            None,
            (EarlyStopping("val_los"),),
            True,
            "EarlyStopping watches 'val_los', which the task does not log; name one of train_loss, train_accuracy, "
            "val_loss, val_accuracy with its monitor under trainer.callbacks",
        ),
        (
            partial(ReduceLROnPlateau, monitor="val_loss"),
            (),
            False,
            "ReduceLROnPlateau watches val_loss, and there is no validation; let it watch train_loss with "
            "--model.lr_scheduler.monitor, or validate",
        ),
        (
            partial(ReduceLROnPlateau, monitor="val_accuracy"),
            (),
            True,
            "ReduceLROnPlateau takes the smaller val_accuracy for the better one; choose max with --model.lr_scheduler.mode",
        ),
        (
            None,
            (EarlyStopping("val_accuracy"),),
            True,
            "EarlyStopping takes the smaller val_accuracy for the better one; choose max with its mode under trainer.callbacks",
        ),
        (
            None,
            (EarlyStopping("train_loss", mode="max"),),
            True,
            "EarlyStopping takes the larger train_loss for the better one; choose min with its mode under trainer.callbacks",
        ),
        (
            torch.optim.lr_scheduler.ReduceLROnPlateau,
            (),
            True,
            "the lr_scheduler ReduceLROnPlateau does not say which figure it watches; name "
            "lightning.pytorch.cli.ReduceLROnPlateau with --model.lr_scheduler.monitor, such as train_loss",
        ),
    ],
)
def test_what_cannot_be_watched_so_is_refused_before_the_first_step(monkeypatch, schedule, callbacks, validates, words):
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(TrainingError) as refused:
        fit(schedule, *callbacks, validates=validates)
    assert str(refused.value) == words


def test_the_names_are_those_of_what_is_logged():
    """Of the other tasks, their trainings say it."""
    assert fit().logged == set(ClassificationTask.logged)


def test_the_command_says_it_too(tmp_path, capsys):
    flags = ["--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=loss"]
    assert main(["fit", *TINY, *flags, f"--run={tmp_path / 'run'}"]) == 2
    assert refusal(capsys).startswith("involution fit: ReduceLROnPlateau watches 'loss', which the task does not log;")
