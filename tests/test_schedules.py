"""Schedules that end with the training: filled from the trainer, stepped in their own unit, refused where they would end before."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer

from involution.errors import InvolutionWarning, TrainingError
from involution.tasks import ClassificationTask, PolyLR, SegmentationTask, WarmupCosineLR

COSINE = partial(WarmupCosineLR, warmup_epochs=0)


class Rates(Callback):
    """Keep the rate of every step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(schedule, epochs=4, lr=1.0, ckpt_path=None, save=None, **options):
    """Return the rates of the steps of a training of five batches an epoch, from a checkpoint on; save one at its end."""
    loader = DataLoader(TensorDataset(torch.randn(10, 1, 4, 4), torch.arange(10) % 2), batch_size=2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    task = ClassificationTask(net, 2, optimizer=partial(torch.optim.SGD, lr=lr), lr_scheduler=schedule)
    kept = Rates()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_model_summary=False, enable_progress_bar=False,
        enable_checkpointing=False, callbacks=[kept], **options,
    )  # fmt: skip
    trainer.fit(task, loader, ckpt_path=ckpt_path)
    if save is not None:
        trainer.save_checkpoint(save)
    return kept.rates


@pytest.mark.parametrize("schedule", [COSINE, partial(PolyLR, min_lr=0.0)])
def test_a_training_that_goes_on_has_the_rates_of_its_length_and_configuration(schedule, tmp_path):
    last = tmp_path / "last.ckpt"
    rates(schedule, 2, save=last)
    whole = rates(schedule, 4)
    # The checkpoint is of the end of a shorter one, where the rate is zero.
    assert rates(schedule, 4, ckpt_path=last) == whole[10:]
    assert rates(schedule, 4, lr=0.5, ckpt_path=last) == pytest.approx([rate / 2 for rate in whole[10:]])


def test_where_the_checkpoints_rate_holds_it_is_said(tmp_path):
    last = tmp_path / "last.ckpt"
    halved = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    for schedule in (None, halved):
        rates(schedule, 2, save=last)
        with pytest.warns(InvolutionWarning, match="rate 1 of the checkpoint, not the 0.1 of the configuration"):
            assert max(rates(schedule, 3, lr=0.1, ckpt_path=last)) >= 0.25
        with warnings.catch_warnings():
            warnings.simplefilter("error", InvolutionWarning)
            rates(schedule, 3, ckpt_path=last)


def test_a_cosine_ends_with_the_training():
    found = rates(COSINE)
    assert found == rates(partial(COSINE, epochs=4)) and len(found) == 20
    assert found[::5] == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)
    # Twelve steps begin the last of three epochs.
    assert rates(COSINE, -1, max_steps=12)[::5] == pytest.approx([1, 0.75, 0.25])
    assert rates(COSINE, 2, max_steps=12)[::5] == pytest.approx([1, 0.5])
    # An epoch has three steps of two batches.
    assert rates(COSINE, -1, max_steps=6, accumulate_grad_batches=2)[::5] == pytest.approx([1, 0.5])
    assert rates(partial(COSINE, epochs=8))[-1] > 0.5


@pytest.mark.parametrize(
    ("schedule", "options", "words"),
    [
        (partial(COSINE, epochs=3), {}, "falls to zero in 3 epochs and the training has 4 epochs, which would change"),
        (partial(COSINE, epochs=1), {"epochs": -1, "max_steps": 6}, "in 1 epochs and the training has 2 epochs"),
        (partial(COSINE, epochs=3), {"epochs": -1}, "falls to zero in 3 epochs and the training has no end"),
        (COSINE, {"epochs": -1}, "WarmupCosineLR ends with the training, which has no end; give it epochs, or set"),
        (partial(PolyLR, min_lr=0.0), {"epochs": -1}, "PolyLR ends with the training, which has no end; give it steps"),
    ],
)
def test_a_training_that_outlasts_its_schedule_is_refused(schedule, options, words):
    with pytest.raises(TrainingError, match=words):
        rates(schedule, **options)


def test_a_warm_up_of_more_epochs_than_the_training_is_said():
    with pytest.warns(InvolutionWarning, match="the warm-up of 5 epochs is longer than the training of 2, which never"):
        assert max(rates(WarmupCosineLR, 2)) < 0.5


def test_each_is_stepped_in_its_own_unit():
    falling = rates(partial(PolyLR, min_lr=0.0, power=1.0), 2)
    assert falling == pytest.approx([1 - step / 10 for step in range(10)])
    # In the task whose other schedules are stepped after every step.
    args = {"backbone": "rednet26", "neck_channels": 8, "head_channels": 8, "backbone_args": {"channels": [8] * 4}}
    for schedule, interval in ((COSINE, "epoch"), (partial(torch.optim.lr_scheduler.StepLR, step_size=1), "step")):
        task = SegmentationTask("semantic_fpn", 2, model_args=args, lr_scheduler=schedule)
        assert task.configure_optimizers()["lr_scheduler"]["interval"] == interval
