"""What a net of the comparison is trained with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="nets are trained with Lightning")

from involution.studies.comparison import training


@pytest.mark.parametrize(
    ("variant", "rate", "epsilon", "smoothing"), [("published", 1e-3, 1e-7, 0.0), ("fair", 5e-3, 1e-8, 0.1)]
)
def test_a_training_is_its_recipe(variant, rate, epsilon, smoothing, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(training, "fit", lambda trainer, task, data, **_: fitted.append((trainer, task, data)))
    images = SimpleNamespace(seed=None)
    history = training.train(
        nn.Linear(2, 3),
        images,
        replace(training.RECIPES["digits", variant], epochs=7),
        num_classes=3,
        seed=11,
        device=torch.device("cpu"),
        checkpoint=tmp_path / "net.ckpt",
        title="net",
    )
    ((trainer, task, data),) = fitted
    made = task.configure_optimizers()
    if variant == "fair":
        schedule = made["lr_scheduler"]
        assert isinstance(schedule["scheduler"], torch.optim.lr_scheduler.CosineAnnealingLR)
        assert schedule["scheduler"].T_max == 7 and schedule["interval"] == "epoch"
        made = made["optimizer"]
    assert isinstance(made, torch.optim.Adam)
    assert (made.defaults["lr"], made.defaults["eps"]) == (rate, epsilon)
    assert task.loss.label_smoothing == smoothing
    assert trainer.max_epochs == 7 and history == []
    assert data.seed == 11 and images.seed is None
