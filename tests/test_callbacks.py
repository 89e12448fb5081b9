import io
import sys

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from involution.tasks import ClassificationTask
from involution.tasks.callbacks import History, RunProgressBar, Snapshot


class Terminal(io.StringIO):
    """A stream that says it is a terminal, or not."""

    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def fit(*callbacks, epochs=2):
    images = torch.randn(40, 1, 4, 4)
    loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=10)
    task = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 2)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=list(callbacks), enable_progress_bar=any(isinstance(c, RunProgressBar) for c in callbacks),
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    return trainer


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_bar(is_terminal, monkeypatch, tmp_path):
    stream = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    trainer = fit(RunProgressBar("a net"), Snapshot(tmp_path / "x.ckpt"))
    shown = stream.getvalue()
    if not is_terminal:
        assert "a net" not in shown
        return
    assert "0 %, epoch 0/2" in shown and "50 %, epoch 1/2, test accuracy" in shown
    accuracy = 100 * trainer.callback_metrics["val_accuracy"].item()
    assert f"100 %, epoch 2/2, test accuracy {accuracy:.2f} %" in shown


def test_history_and_snapshot(tmp_path):
    told = []
    history = History(lambda rows: told.append(len(rows)))
    trainer = fit(history, Snapshot(tmp_path / "x.ckpt"), epochs=3)
    assert told == [1, 2, 3] and [row["epoch"] for row in history.rows] == [1, 2, 3]
    last = history.rows[-1]
    assert last["test_loss"] == trainer.callback_metrics["val_loss"].item()
    assert last["train_accuracy"] == trainer.callback_metrics["train_accuracy"].item()
    assert all(row["train_s"] > 0 for row in history.rows)
    # Nothing but the one file, and it holds the history.
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["epoch"] == 2
    restored = History()
    restored.load_state_dict(next(state for name, state in saved["callbacks"].items() if name.startswith("History")))
    assert restored.rows == history.rows
